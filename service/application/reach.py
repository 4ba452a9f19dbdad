"""Whom a rollback is for: the devices that were given the release, where the service can still bring them back.

1. In the group of the rollout that it undoes: all of them, whatever they run by now.
2. In another group of the product, one that takes updates: those that run the release still, or are at that update
yet. One that has been given something else there is that group's.
3. Nowhere else: neither in another product, nor shut out. Those are named, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.application.unit_of_work import UnitOfWork
from service.domain.device import Device, DeviceState
from service.domain.membership import ENROLLED_STATES, Reach
from service.domain.product import DeviceGroup
from service.domain.rollout import Rollout
from service.domain.targets import Every, RunsImage

MISSED_SHOWN = 20  # devices
_GROUPS_PER_PAGE = 100


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


async def reach_of(work: UnitOfWork, rollout: Rollout, undone_id: str) -> Reach:
    """Return whom a rollback is for.

    Args:
        work: may be read-only.
        rollout: the rollback.
        undone_id: of the rollout that it undoes.
    """
    undone = (await work.rollouts.get(undone_id)).rollout
    release = await work.releases.get(undone.release_id)
    group = await work.products.get_group(rollout.group_id)
    return Reach(
        group.group_id,
        others=[each.group_id for each in await _groups_beside(work, group) if each.takes_updates],
        images=Every(tuple(RunsImage(slot, (digest,)) for slot, digest in sorted(release.digests.items()))),
    )


async def may_have(work: UnitOfWork, rollout: Rollout, device: Device) -> bool:
    """Say whether a device may still have a rollout: it is not shut out, and in the group or in reach of a rollback."""
    if device.state not in ENROLLED_STATES:
        return False
    if device.group_id == rollout.group_id or rollout.undoes is None:
        return device.group_id == rollout.group_id
    mine, its = await work.products.get_group(rollout.group_id), await work.products.get_group(device.group_id)
    return its.product_id == mine.product_id and its.takes_updates


async def missed_by(work: UnitOfWork, rollout: Rollout) -> Missed:
    """Return whom a rollback has not come to, once it has looked for everybody; of another rollout nobody."""
    if rollout.undoes is None or not all(stage.is_open for stage in rollout.stages):
        return Missed()
    count = await work.actions.count_missed(rollout.undoes, by=rollout.rollout_id)
    ids = await work.actions.missed(rollout.undoes, by=rollout.rollout_id, limit=MISSED_SHOWN)
    devices = await work.devices.find_many(ids)
    group = await work.products.get_group(rollout.group_id)
    first = [MissedDevice(each, await _reason(work, devices[each], group)) for each in ids if each in devices]
    return Missed(count, first)


async def _reason(work: UnitOfWork, device: Device, group: DeviceGroup) -> str:
    if device.state is DeviceState.MOVED:
        return "the device was moved to another catalog"
    if device.state not in ENROLLED_STATES:
        return f"the device is {device.state}"
    its = await work.products.get_group(device.group_id)
    if its.product_id != group.product_id:
        return f"it is in product {its.product_name}, group {its.name}: expected product {group.product_name}"
    if its.group_id != group.group_id and not its.takes_updates:
        return f"its group {its.name} takes no updates"
    if its.group_id != group.group_id:
        return f"in its group {its.name} it runs other images than the release's"
    return "it came back to the group after the rollback had looked for its devices"


async def _groups_beside(work: UnitOfWork, group: DeviceGroup) -> list[DeviceGroup]:
    """Return the other groups of a group's product."""
    found: list[DeviceGroup] = []
    after: str | None = None
    while page := await work.products.page_groups(after_id=after, limit=_GROUPS_PER_PAGE, product_id=group.product_id):
        found += [each for each in page if each.group_id != group.group_id]
        after = page[-1].group_id
    return found
