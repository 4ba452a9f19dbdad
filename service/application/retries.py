"""Trying again what an operator asks for: devices of a rollout that failed, or were shut out before their result.

The walk over them is bounded: each step takes the next actions by number, as many as the pace lets in, so that a worker
that is killed is followed by another one that goes on. Left out are devices that are no more of the group or shut out,
those that a newer rollout of the same slots has, and those that would enlarge a stage that is planned by count.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from protocol.messages import ActionState
from service.application.enrolment import newer_rollouts
from service.application.rollout_changes import store_actions, store_rollout
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.membership import ENROLLED_STATES
from service.domain.retries import may_be_retried, retried

ACTIONS_PER_RETRY = 200


async def retry_step(work: UnitOfWork, stored: StoredRollout, *, now: datetime) -> None:
    """Give the next devices that failed the release again.

    Args:
        work: the transaction, which holds the rollout's row.
        stored: the rollout, as it was read in this transaction; an operator has asked for a retry.
        now: UTC, aware.
    """
    rollout = stored.rollout
    batch = min(ACTIONS_PER_RETRY, rollout.allowed(now))
    if not batch:
        await store_rollout(work, stored, rollout, now=now)
        return
    page = await work.actions.ended_badly(rollout.rollout_id, after_number=rollout.retry_cursor or 0, limit=batch)
    chosen = await _eligible(work, stored, [numbered.action for numbered in page])
    timeout = rollout.conditions.action_timeout
    changes = [(action, retried(action, now=now, pause=timedelta(0), timeout=timeout)) for action in chosen]
    rollout = await store_actions(work, rollout, changes, now=now)
    rollout = replace(rollout.paced(len(changes), now), retry_cursor=page[-1].number if len(page) == batch else None)
    await store_rollout(work, stored, rollout, now=now)


async def _eligible(work: UnitOfWork, stored: StoredRollout, found: Sequence[Action]) -> list[Action]:
    release = await work.releases.get(stored.rollout.release_id)
    newer = await newer_rollouts(work, stored, release, [action.device_id for action in found])
    chosen: list[Action] = []
    for each in found:
        # A report or a person may have changed it since it was found.
        action = await work.actions.get(each.action_id, lock=True)
        if not may_be_retried(action) or action.device_id in newer or not _has_room(stored, action, chosen):
            continue
        if await _is_member(work, stored, action.device_id):
            chosen.append(action)
    return chosen


async def _is_member(work: UnitOfWork, stored: StoredRollout, device_id: str) -> bool:
    device = await work.devices.find(device_id)
    return device is not None and device.group_id == stored.rollout.group_id and device.state in ENROLLED_STATES


def _has_room(stored: StoredRollout, action: Action, chosen: Sequence[Action]) -> bool:
    """Whether the action's stage holds the device once more; one that was cancelled may have been replaced."""
    stage = stored.rollout.stages[action.stage_index]
    if _keeps_place(action) or stage.cut is None or not stage.cut.is_capped:
        return True
    back = [each for each in chosen if each.stage_index == action.stage_index and not _keeps_place(each)]
    return len(back) < stage.room


def _keeps_place(action: Action) -> bool:
    """Whether nobody took its place in the stage: it was given the release, or has failed."""
    return action.offered or action.state is not ActionState.CANCELLED
