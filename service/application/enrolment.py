"""Giving devices their part in a rollout.

A device whose slots already run the release is confirmed without work, unless it is at another update of them. A
device has one running action; others wait in line. Queued work collapses: a newer rollout of the same slots takes the
place of what no device was given yet, and an older one that comes to a device later leaves it alone. Never past a
release that devices must pass through: both wait, the older first. What a device was told to keep in its spare makes
room for any newer rollout, which needs the spare.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from protocol.geometry import Slot
from protocol.messages import ActionState
from service.application.entropy import Entropy
from service.application.passages import come_first
from service.application.rollout_changes import action_event, store_actions, store_rollout
from service.application.timing import windows_of
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.action import Action, cancel
from service.domain.holding import admit
from service.domain.release import Release
from service.domain.rollout import Rollout

ROLLOUTS_LOOKED_AT = 16  # newest that have finished


async def enrol(
    work: UnitOfWork,
    stored: StoredRollout,
    stage_index: int,
    device_ids: Sequence[str],
    *,
    now: datetime,
    entropy: Entropy,
) -> Rollout:
    """Make actions for devices that have none in the rollout, and return it with them counted.

    Args:
        work: the transaction, which holds the rollout's row.
        stored: the rollout, as it was read in this transaction.
        stage_index: the devices' stage.
        device_ids: attested devices of the rollout's group.
        now: UTC, aware.
        entropy: for the actions' ids.
    """
    if not device_ids:
        return stored.rollout
    release = await work.releases.get(stored.rollout.release_id)
    installed = await work.installed.of(device_ids)
    superseded_by = await newer_rollouts(work, stored, release, device_ids)
    busy = await _supersede(work, stored, release, device_ids, now=now)
    spans = await windows_of(work, stored.rollout, device_ids, now=now)
    made = [
        _action(
            stored.rollout,
            stage_index,
            device_id,
            now=now,
            action_id=entropy.guid(),
            runs_it=device_id not in busy and runs(release, installed.get(device_id, {})),
            superseded_by=superseded_by.get(device_id, ""),
        )
        for device_id in device_ids
    ]
    actions = [admit(action, spans.get(action.device_id), now=now) for action in made]
    await work.actions.add(actions)
    rollout = stored.rollout
    for action in actions:
        rollout = rollout.with_moved(None, action)
        work.record(action_event(action, now))
    return rollout


def runs(release: Release, installed: Mapping[Slot, str]) -> bool:
    """Say whether a device with these images runs a release whole."""
    return all(installed.get(slot) == digest for slot, digest in release.digests.items())


def _action(
    rollout: Rollout,
    stage_index: int,
    device_id: str,
    *,
    now: datetime,
    action_id: str,
    runs_it: bool,
    superseded_by: str,
) -> Action:
    state, detail = ActionState.SCHEDULED, ""
    if superseded_by:
        state, detail = ActionState.CANCELLED, f"superseded by rollout {superseded_by}"
    elif runs_it:
        state, detail = ActionState.CONFIRMED, "the device runs the release already"
    due_at = now + rollout.conditions.action_timeout if state is ActionState.SCHEDULED else None
    return Action(action_id, rollout.rollout_id, device_id, stage_index, state, now, due_at, detail=detail)


async def _supersede(
    work: UnitOfWork, stored: StoredRollout, release: Release, device_ids: Sequence[str], *, now: datetime
) -> set[str]:
    """Cancel queued actions of older rollouts of the same slots, and what waits in the spare, which is to be used.

    Returns:
        Devices that work on another rollout of the same slots: what they run now is not what they will run.
    """
    found: dict[str, list[Action]] = {}
    for action in await work.actions.unfinished(device_ids):
        if action.rollout_id != stored.rollout.rollout_id:
            found.setdefault(action.rollout_id, []).append(action)
    busy: set[str] = set()
    others = [await work.rollouts.get(rollout_id) for rollout_id in found]
    older_ones = await work.rollouts.lock({each.rollout.rollout_id for each in others if each.number < stored.number})
    for rollout_id, other in ({each.rollout.rollout_id: each for each in others} | dict(older_ones)).items():
        older = await work.releases.get(other.rollout.release_id)
        shares_slots, is_older = bool(older.digests.keys() & release.digests.keys()), rollout_id in older_ones
        makes_room = is_older and (await supersedes(work, release, older) or not shares_slots)
        # A report may have come since they were found; what a newer one has is not changed here.
        locked = [await work.actions.get(action.action_id, lock=is_older) for action in found[rollout_id]]
        queued = [
            a for a in locked if (shares_slots and a.state is ActionState.SCHEDULED) or (makes_room and a.is_kept)
        ]
        if shares_slots:
            at_it = [a for a in locked if not a.state.is_final and a.state is not ActionState.SCHEDULED]
            busy |= {a.device_id for a in at_it} - {a.device_id for a in queued if makes_room}
        reason = f"superseded by rollout {stored.rollout.rollout_id}"
        changes = [(action, cancel(action, reason, now=now)) for action in queued]
        if changes and makes_room:
            await store_rollout(work, other, await store_actions(work, other.rollout, changes, now=now), now=now)
    return busy


async def newer_rollouts(
    work: UnitOfWork, stored: StoredRollout, release: Release, device_ids: Sequence[str]
) -> dict[str, str]:
    """Return device id → rollout id, where a newer rollout of the same slots has the device, whatever became of it."""
    group_id = stored.rollout.group_id
    others = (
        *await work.rollouts.finished(group_id, limit=ROLLOUTS_LOOKED_AT),
        *await work.rollouts.of_group(group_id),
    )
    found: dict[str, str] = {}
    for other in others:
        newer = await work.releases.get(other.rollout.release_id)
        if other.number > stored.number and await supersedes(work, newer, release):
            known = await work.actions.known(other.rollout.rollout_id, device_ids)
            found |= dict.fromkeys(known, other.rollout.rollout_id)
    return found


async def supersedes(work: UnitOfWork, newer: Release, older: Release) -> bool:
    """Say whether a release takes the place of another that waits: in its slots, unless it must come after it."""
    if not newer.digests.keys() & older.digests.keys():
        return False
    return not older.must_pass or older.name not in await come_first(work, newer)
