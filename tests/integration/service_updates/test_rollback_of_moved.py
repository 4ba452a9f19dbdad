"""Devices that took a release and were moved since: their rollback comes to them, or names them with the reason."""

from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState
from service.application.reach import MissedDevice
from service.application.rollouts import NewRollout, RolloutView
from service.domain.membership import StagePlan
from service.domain.product import DeviceGroup, GroupPolicy, Product
from service.domain.rollout import RolloutState
from tests.integration.service_updates.test_rollbacks import devices_of, given, release_with_way_back
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld
from tests.rollout_conditions import threshold_plan

ALL = (StagePlan(percent=100),)
FOREIGN = "Lighthouse"
GUIDS = ("a0000000-0000-4000-8000-000000000000", "b0000000-0000-4000-8000-000000000000")


async def taken_by(world: UpdateWorld, devices: int) -> RolloutView:
    """Return a rollout that so many devices were given and have confirmed."""
    await world.add_devices(devices)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", ALL)
    await world.tick()
    await given(world, rollout)
    await world.confirm_all(rollout)
    await world.tick()
    return rollout


async def rolled_back(world: UpdateWorld, rollout: RolloutView) -> RolloutView:
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    return undoing


async def missed_by(world: UpdateWorld, rollout: RolloutView) -> dict[str, str]:
    """Return device → reason, as the rollout explains itself."""
    _, explained = await world.rollouts.explain(rollout.stored.rollout.rollout_id)
    assert explained.missed.devices == len(explained.missed.first)
    assert all(isinstance(each, MissedDevice) for each in explained.missed.first)
    return {each.device_id: each.reason for each in explained.missed.first}


async def confirm(world: UpdateWorld, rollout: RolloutView, device: str, state: ActionState) -> None:
    """Have a device report of its part in a rollout."""
    (action,) = [each.action for each in await world.actions(rollout) if each.action.device_id == device]
    digests = rollout.release.digests if state is ActionState.CONFIRMED else {}
    report = ActionReport(action_id=action.action_id, sequence=action.sequence + 1, state=state, digests=digests)
    await world.reports.report(device, report)


async def test_device_in_another_group_of_the_product_goes_back_with_the_others(world: UpdateWorld) -> None:
    """It runs the release still; it is offered the way back there, and no change of it takes that away."""
    rollout = await taken_by(world, 3)
    took = sorted(await devices_of(world, rollout))
    await world.change_device(took[0], "moved", "Field Test")
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == set(took)
    await world.change_device(took[1], "moved", "Field Test")  # while it waits
    await world.tick()
    assert {each.action.state for each in await world.actions(undoing)} == {ActionState.SCHEDULED}
    assert await given(world, undoing)
    await world.confirm_all(undoing)
    await world.tick()
    ended = await world.rollouts.get(undoing.stored.rollout.rollout_id)
    assert (ended.stored.rollout.state, ended.stored.rollout.confirmed) == (RolloutState.FINISHED, 3)
    assert await missed_by(world, undoing) == {}


async def test_device_that_is_moved_in_mid_update_goes_back_once_it_has_ended(world: UpdateWorld) -> None:
    """It has not confirmed the release when the rollback looks for its devices, and does so later."""
    (device,) = await world.add_devices(1)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", ALL)
    await world.tick()
    await given(world, rollout)
    await confirm(world, rollout, device, ActionState.INSTALLING)
    await world.change_device(device, "moved", "Field Test")
    await world.tick()
    undoing = await rolled_back(world, rollout)
    await confirm(world, rollout, device, ActionState.CONFIRMED)
    await world.tick()
    await given(world, undoing)
    await confirm(world, undoing, device, ActionState.CONFIRMED)
    await world.tick()
    ended = await world.rollouts.get(undoing.stored.rollout.rollout_id)
    assert ended.stored.rollout.state is RolloutState.FINISHED


async def test_who_cannot_be_brought_back_is_named_with_the_reason(world: UpdateWorld) -> None:
    """Another catalog, product, or release; no updates; shut out. Whoever can be, is."""
    rollout = await taken_by(world, 7)
    stays, foreign, other, still, blocked, gone, sold = sorted(await devices_of(world, rollout))
    await _make_foreign_group(world)
    for device, group in ((foreign, FOREIGN), (other, "Field Test"), (still, "Development")):
        await world.change_device(device, "moved", group)
    await _give_its_own(world, other)
    await world.change_device(blocked, "blocked")
    await world.change_device(gone, "decommissioned")
    async with world.unit_of_work() as work:
        left = await work.devices.get(sold)
        await work.devices.save(left.depart("Other", world.clock.now()), replaces_version=left.version)
        await work.commit()
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == {stays}
    assert await missed_by(world, undoing) == {
        foreign: f"it is in product {FOREIGN}, group {FOREIGN}: expected product Camera",
        other: "in its group Field Test it runs other images than the release's",
        still: "its group Development takes no updates",
        blocked: "the device is blocked",
        gone: "the device is decommissioned",
        sold: "the device was moved to another catalog",
    }
    assert await missed_by(world, rollout) == {}


async def test_device_that_is_moved_out_of_the_product_leaves_its_rollback(world: UpdateWorld) -> None:
    """It was not given the way back yet, and is given it no more."""
    rollout = await taken_by(world, 2)
    undoing = await rolled_back(world, rollout)
    leaves, stays = sorted(await devices_of(world, rollout))
    await _make_foreign_group(world)
    await world.change_device(leaves, "moved", FOREIGN)
    await world.tick()
    states = {each.action.device_id: each.action.state for each in await world.actions(undoing)}
    assert states == {leaves: ActionState.CANCELLED, stays: ActionState.SCHEDULED}


async def _make_foreign_group(world: UpdateWorld) -> None:
    product_id, group_id = GUIDS
    now = world.clock.now()
    group = DeviceGroup(group_id, product_id, FOREIGN, FOREIGN, "", GroupPolicy(), now)
    async with world.unit_of_work() as work:
        await work.products.add(Product(product_id, FOREIGN, "", created_at=now), [group])
        await work.commit()


async def _give_its_own(world: UpdateWorld, device: str) -> None:
    """Bring a device what its new group gets."""
    await world.hand_over(await world.prepare("third", {Slot.A7_APPLICATION: world.package("app@4.0.0")}))
    new = NewRollout("third", "Field Test", None, threshold_plan(ALL))
    rollout = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    await given(world, rollout)
    await confirm(world, rollout, device, ActionState.CONFIRMED)
    await world.tick()
