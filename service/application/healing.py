"""How a quarantined device gets what its group runs, although the rollouts that brought it are over.

A device is quarantined because it runs something that no release lists, or too old an OS. Open rollouts of its group
take it in like any other device. Of those that have finished it is offered, newest first, each whose release it does
not run whole and that no newer one has replaced in any slot, so that it is never sent back; what was rolled back is
left out. If that fails, it is offered the same again after the next attestation that finds it quarantined, which is
within the hour.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from protocol.geometry import Slot
from protocol.messages import ActionState
from service.application.enrolment import runs
from service.application.entropy import Entropy
from service.application.rollout_changes import action_event
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.device import Device
from service.domain.release import Release

ROLLOUTS_LOOKED_AT = 16  # newest; more than a device has slots


async def heal(work: UnitOfWork, device: Device, *, now: datetime, entropy: Entropy) -> None:
    """Give a quarantined device actions that bring it what its group runs.

    Args:
        work: the transaction.
        device: quarantined.
        now: UTC, aware.
        entropy: for the actions' ids.
    """
    group = await work.products.get_group(device.group_id)
    if not group.takes_updates:
        return
    installed = (await work.installed.of([device.device_id])).get(device.device_id, {})
    unfinished = await work.actions.unfinished([device.device_id])
    replaced = await _slots_of(work, unfinished)
    new: list[Action] = []
    for stored in await work.rollouts.finished(device.group_id, limit=ROLLOUTS_LOOKED_AT):
        if stored.rollout.is_undone:
            continue
        release = await work.releases.get(stored.rollout.release_id)
        if not release.digests.keys() & replaced and not runs(release, installed):
            new.append(_action(stored, device, now=now, action_id=entropy.guid()))
        replaced |= release.digests.keys()
    # The oldest first, as the group got them.
    await work.actions.add(new[::-1])
    for action in new[::-1]:
        work.record(action_event(action, now))


async def _slots_of(work: UnitOfWork, unfinished: Sequence[Action]) -> set[Slot]:
    """Return the slots that actions in progress or in line change."""
    releases: Collection[Release] = [
        await work.releases.get((await work.rollouts.get(action.rollout_id)).rollout.release_id)
        for action in unfinished
    ]
    return {slot for release in releases for slot in release.digests}


def _action(stored: StoredRollout, device: Device, *, now: datetime, action_id: str) -> Action:
    rollout = stored.rollout
    return Action(
        action_id,
        rollout.rollout_id,
        device.device_id,
        len(rollout.stages) - 1,
        ActionState.SCHEDULED,
        now,
        now + rollout.conditions.action_timeout,
        detail="to heal a quarantined device",
        heals=True,
    )
