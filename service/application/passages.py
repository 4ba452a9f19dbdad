"""Releases that devices must pass through on the way to another one.

A device that has not run one has it first: by the rollout that is to bring it, or, where that has finished, by an
action of its own, as a quarantined device heals. It begins when the device may begin with the release that it is on
the way to, and counts where the rollout that has finished counts nothing more.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias

from protocol.geometry import Slot
from protocol.messages import ActionState
from protocol.updates import JumpedReleaseError, MustPass, check_passed
from protocol.versions import Build
from service.application.rollout_members import filters_of, is_member
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.holding import wait_for_passage
from service.domain.release import Release
from service.domain.rollout import Rollout, RolloutState

ROLLOUTS_LOOKED_AT = 256  # newest that have finished: a newcomer may have been made long ago
Lacks: TypeAlias = Callable[[Release], Iterator[MustPass]]


async def come_first(work: UnitOfWork, release: Release) -> frozenset[str]:
    """Return the names of the releases that a device must run before a release, one before the other."""
    return await _chain(work, release, lambda each: iter(each.after.values()))


async def _chain(work: UnitOfWork, release: Release, lacks: Lacks) -> frozenset[str]:
    found: set[str] = set()
    beyond = [release]
    while beyond:
        names = {must.release for must in lacks(beyond.pop())} - found
        found |= names
        beyond += [await work.releases.get(name) for name in sorted(names)]
    return frozenset(found)


def jumped(release: Release, now: Mapping[Slot, Build]) -> Iterator[tuple[MustPass, str]]:
    """Yield what a device must pass through before a release, and why; it refuses to jump over it, too.

    Args:
        release: that it is to have.
        now: what it runs, as far as that is known.
    """
    for slot in release.after.keys() & now.keys():
        try:
            check_passed(now[slot], slot, release.after, by=release.name)
        except JumpedReleaseError as error:
            yield release.after[slot], str(error)


async def builds_of(work: UnitOfWork, device_id: str) -> Mapping[Slot, Build]:
    """Return what a device runs; an image that no target in force lists is left out."""
    installed = (await work.installed.of([device_id])).get(device_id, {})
    targets = await work.metadata.images_of(set(installed.values()))
    return {slot: targets[each].custom.build(each) for slot, each in installed.items() if each in targets}


async def find_passage(work: UnitOfWork, action: Action) -> StoredRollout | None:
    """Return a rollout that has finished and whose release a device must have first, the lowest if there are several.

    None where the device's last action was one of that rollout: it has been tried. Once the action is retried, so is
    that.

    Args:
        work: the transaction.
        action: that the device may begin.
    """
    rollout, first = await _lacking(work, action)
    finished = await work.rollouts.finished(rollout.group_id, limit=ROLLOUTS_LOOKED_AT) if first else []
    releases = {each.rollout.rollout_id: await work.releases.get(each.rollout.release_id) for each in finished}
    left = [each for each in finished if not each.rollout.is_undone and releases[each.rollout.rollout_id].name in first]
    found = min(left, key=lambda each: releases[each.rollout.rollout_id].counter, default=None)
    last = await work.actions.newest(action.device_id)
    if found is None or last is None or last.rollout_id != found.rollout.rollout_id:
        return found
    was_tried_before = any(attempt.ended_at >= last.progressed_at for attempt in action.past)
    return found if was_tried_before else None


async def awaiting(work: UnitOfWork, rollout: Rollout, action: Action, *, now: datetime) -> Action | None:
    """Return an action as it waits for what its device must have first; None if no rollout is to bring that.

    One that heals waits for nothing: no rollout that runs lets it in again.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: the action's.
        action: that the device may begin otherwise.
        now: UTC, aware.
    """
    release = None if action.heals else await _passage_to_come(work, action)
    timeout = rollout.conditions.action_timeout
    return None if release is None else wait_for_passage(action, release, now=now, timeout=timeout)


async def _passage_to_come(work: UnitOfWork, action: Action) -> str | None:
    """Return the name of a release that a device must have first and that a rollout has yet to bring it, or None."""
    rollout, first = await _lacking(work, action)
    for other in await work.rollouts.of_group(rollout.group_id) if first else []:
        name = (await work.releases.get(other.rollout.release_id)).name
        if name in first and await _will_reach(work, other.rollout, action.device_id):
            return name
    return None


async def _lacking(work: UnitOfWork, action: Action) -> tuple[Rollout, frozenset[str]]:
    """Return an action's rollout, and the names of releases that its device lacks on the way to that one's."""
    rollout = (await work.rollouts.get(action.rollout_id)).rollout
    release = await work.releases.get(rollout.release_id)
    if not release.after or action.state is not ActionState.SCHEDULED:
        return rollout, frozenset()
    now = await builds_of(work, action.device_id)
    return rollout, await _chain(work, release, lambda each: (must for must, _ in jumped(each, now)))


async def _will_reach(work: UnitOfWork, rollout: Rollout, device_id: str) -> bool:
    """Say whether a rollout that was started has a stage for a device, and did not come to it yet."""
    if rollout.state is RolloutState.DRAFT or await work.actions.known(rollout.rollout_id, [device_id]):
        return False
    if not await is_member(work, rollout, device_id):
        return False
    stage, _ = rollout.stage_of(rollout.order.position(device_id), await filters_of(work, rollout, device_id))
    return stage is not None


def pass_through(rollout: Rollout, action: Action, *, now: datetime, action_id: str) -> Action:
    """Return an action that brings a device what it must have first.

    Args:
        rollout: has finished.
        action: that the device may begin afterwards.
        now: UTC, aware.
        action_id: of the new one, a GUID.
    """
    return Action(
        action_id,
        rollout.rollout_id,
        action.device_id,
        len(rollout.stages) - 1,
        ActionState.SCHEDULED,
        now,
        now + rollout.conditions.action_timeout,
        detail=f"to pass through on the way to what rollout {action.rollout_id} brings",
        heals=True,
    )


async def is_behind(work: UnitOfWork, rollout: Rollout, queue: Sequence[Action]) -> bool:
    """Say whether a device is to have another release of its queue before that of a rollout.

    Args:
        work: the transaction.
        rollout: of one of the actions.
        queue: what the device's rollouts have not finished.
    """
    others = {action.rollout_id for action in queue} - {rollout.rollout_id}
    if not others:
        return False
    first = await come_first(work, await work.releases.get(rollout.release_id))
    waiting = [(await work.rollouts.get(each)).rollout.release_id for each in others] if first else []
    return any([(await work.releases.get(release_id)).name in first for release_id in waiting])
