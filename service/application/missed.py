"""Whom a rollback has not come to, though they were given the release, and why.

A rollback is for the devices that are in the group of the rollout that it undoes. What runs on others is the business
of the group that they are in, if they are in one that may decide it at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from protocol.geometry import Slot
from service.application.unit_of_work import UnitOfWork
from service.domain.action import Action
from service.domain.device import Device, DeviceState
from service.domain.membership import ENROLLED_STATES
from service.domain.product import DeviceGroup
from service.domain.release import Release
from service.domain.rollout import Rollout

MISSED_SHOWN = 20  # devices
_NAMED = 2  # of them in an error's text, which storage keeps the first 500 characters of


@dataclass(frozen=True, slots=True)
class MissedDevice:
    """A device that was given the release, and that its rollback has not come to."""

    device_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Missed:
    """Devices that a rollback has not come to.

    Attributes:
        devices: how many.
        first: of these, the first by their ids.
    """

    devices: int = 0
    first: Sequence[MissedDevice] = ()


async def missed_by(work: UnitOfWork, rollout: Rollout) -> Missed:
    """Return whom a rollback has not come to, once it has looked for everybody.

    Of a rollout that has no rollback: whom none could come to, where nobody at all is within its reach.
    """
    if rollout.undoes is not None:
        is_through = all(stage.is_open for stage in rollout.stages)
        undone = (await work.rollouts.get(rollout.undoes)).rollout
        return await _missed(work, undone, rollout.rollout_id) if is_through else Missed()
    has_rollback = await work.rollouts.undoing(rollout.rollout_id) is not None
    if has_rollback or await work.actions.exposed(rollout.rollout_id, rollout.group_id, begins="", limit=1):
        return Missed()
    return await _missed(work, rollout, None)


async def nobody_in_reach(work: UnitOfWork, undone: Rollout) -> str:
    """Say why a rollback of a rollout would have nobody to bring back, with the first whom it cannot reach."""
    missed = await _missed(work, undone, None)
    expected = "rollback: expected a device of the group that was given the release, found"
    if not missed.devices:
        return f"{expected} none, in no other group either"
    named = "; ".join(f"{each.device_id[:16]}…: {each.reason}" for each in missed.first[:_NAMED])
    more = f"; and {missed.devices - _NAMED} more" if missed.devices > _NAMED else ""
    return f"{expected} {missed.devices} out of its reach: {named}{more}"


async def _missed(work: UnitOfWork, undone: Rollout, by: str | None) -> Missed:
    count = await work.actions.count_missed(undone.rollout_id, by=by)
    ids = await work.actions.missed(undone.rollout_id, by=by, limit=MISSED_SHOWN)
    parts = {} if by is None else await work.actions.of_devices(by, ids)
    return Missed(count, await _named(work, undone, ids, parts))


async def _named(
    work: UnitOfWork, undone: Rollout, ids: Collection[str], parts: Mapping[str, Action]
) -> Sequence[MissedDevice]:
    group = await work.products.get_group(undone.group_id)
    release = await work.releases.get(undone.release_id)
    devices, installed = await work.devices.find_many(ids), await work.installed.of(ids)
    unfinished = await work.actions.unfinished(ids)
    at_it = {action.device_id for action in unfinished if action.rollout_id == undone.rollout_id}
    found: list[MissedDevice] = []
    for device_id in ids:
        has = "is at the update to it" if device_id in at_it else _has(release, installed.get(device_id, {}))
        where = await _where(work, devices[device_id], group, part=parts.get(device_id))
        found.append(MissedDevice(device_id, f"{where}; it {has}"))
    return found


def _has(release: Release, installed: Mapping[Slot, str]) -> str:
    """Say whether a device runs a release, as far as it has reported."""
    known = [installed[slot] == digest for slot, digest in release.digests.items() if slot in installed]
    if not known:
        return "has not reported what it runs"
    if not any(known):
        return "does not run the release's images"
    return "still runs the release's images" if all(known) else "still runs some of the release's images"


async def _where(work: UnitOfWork, device: Device, group: DeviceGroup, *, part: Action | None) -> str:
    """Say what keeps a device out of a rollback's reach."""
    if device.state is DeviceState.MOVED:
        return "the device was moved to another catalog"
    if device.state not in ENROLLED_STATES:
        return f"the device is {device.state}"
    its = await work.products.get_group(device.group_id)
    if its.group_id == group.group_id and part is not None:
        return f"its part was cancelled: {part.detail}"
    if its.group_id == group.group_id:
        return "it came back to the group after the rollback had looked for its devices"
    where = its.name if its.product_id == group.product_id else f"{its.name} of product {its.product_name}"
    decides = "whose own rollouts decide" if its.takes_updates else "which takes no updates"
    return f"in group {where} now, {decides}"
