"""Devices that took a release and left its group since: their rollback leaves them alone and names them."""

import pytest

from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState
from service.application.missed import MissedDevice
from service.application.rollout_members import EmptyGroupError
from service.application.rollouts import NewRollout, RolloutView
from service.domain.membership import StagePlan
from service.domain.product import DeviceGroup, GroupPolicy, Product
from service.domain.rollout import RolloutState
from tests.integration.service_updates.test_rollbacks import devices_of, given, release_with_way_back
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld
from tests.rollout_conditions import threshold_plan

ALL = (StagePlan(percent=100),)
FOREIGN = "Lighthouse"
ELSEWHERE = "in group Field Test now, whose own rollouts decide"
RUNS_IT = "it still runs the release's images"
GUIDS = ("a0000000-0000-4000-8000-000000000000", "b0000000-0000-4000-8000-000000000000")


async def _given_to(world: UpdateWorld, devices: int) -> RolloutView:
    await world.add_devices(devices)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", ALL)
    await world.tick()
    await given(world, rollout)
    return rollout


async def taken_by(world: UpdateWorld, devices: int) -> RolloutView:
    """Return a rollout that so many devices were given and have confirmed."""
    rollout = await _given_to(world, devices)
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


async def test_device_in_another_group_of_the_product_is_left_to_that_group(world: UpdateWorld) -> None:
    """Neither one that was moved before the rollback nor one that waits for it is brought back; both are named."""
    rollout = await taken_by(world, 2)
    before, stays = sorted(await devices_of(world, rollout))
    await world.change_device(before, "moved", "Field Test")
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == {stays}
    assert await missed_by(world, undoing) == {before: f"{ELSEWHERE}; {RUNS_IT}"}
    await given(world, undoing)
    await world.confirm_all(undoing)
    await world.tick()
    ended = await world.rollouts.get(undoing.stored.rollout.rollout_id)
    assert (ended.stored.rollout.state, ended.stored.rollout.confirmed) == (RolloutState.FINISHED, 1)


async def test_device_that_is_moved_in_mid_update_is_named_as_being_at_it(world: UpdateWorld) -> None:
    """It has not confirmed the release when the rollback looks for its devices, and does so later."""
    rollout = await _given_to(world, 2)
    moved, stays = sorted(await devices_of(world, rollout))
    await confirm(world, rollout, moved, ActionState.INSTALLING)
    await world.change_device(moved, "moved", "Field Test")
    await world.tick()
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == {stays}
    assert await missed_by(world, undoing) == {moved: f"{ELSEWHERE}; it is at the update to it"}
    await confirm(world, rollout, moved, ActionState.CONFIRMED)
    await world.tick()
    assert await missed_by(world, undoing) == {moved: f"{ELSEWHERE}; {RUNS_IT}"}


async def test_rollback_is_not_halted_by_devices_that_go_on_in_another_group(world: UpdateWorld) -> None:
    """They are in mid-update to something newer there, and run the release yet when the rollback begins."""
    rollout = await taken_by(world, 6)
    took = sorted(await devices_of(world, rollout))
    for device in took[:3]:
        await world.change_device(device, "moved", "Field Test")
    third = await _begin_its_own(world)
    for device in took[:3]:
        await confirm(world, third, device, ActionState.INSTALLING)
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == set(took[3:])
    for device in took[:3]:
        await confirm(world, third, device, ActionState.CONFIRMED)
        await world.director.timestamp(device)
    await given(world, undoing)
    await world.confirm_all(undoing)
    await world.tick()
    ended = await world.rollouts.get(undoing.stored.rollout.rollout_id)
    assert (ended.stored.rollout.state, ended.stored.rollout.confirmed) == (RolloutState.FINISHED, 3)
    assert set((await missed_by(world, undoing)).values()) == {f"{ELSEWHERE}; it does not run the release's images"}


async def test_rollback_takes_nothing_away_that_another_group_gives(world: UpdateWorld) -> None:
    """What waits there for a device that took the release, goes on waiting, and is given to it."""
    rollout = await taken_by(world, 2)
    moved, _ = sorted(await devices_of(world, rollout))
    await world.change_device(moved, "moved", "Field Test")
    third = await _begin_its_own(world, is_given=False)
    await rolled_back(world, rollout)
    assert {each.action.state for each in await world.actions(third)} == {ActionState.SCHEDULED}
    assert await given(world, third) == [moved]


async def test_release_that_another_group_rolled_out_itself_is_left_there(world: UpdateWorld) -> None:
    """A device that took it in one group has it by its new group's own word, too."""
    rollout = await taken_by(world, 2)
    moved, stays = sorted(await devices_of(world, rollout))
    await world.change_device(moved, "moved", "Field Test")
    new = NewRollout("second", "Field Test", None, threshold_plan(ALL))
    there = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == {stays}
    assert await devices_of(world, there) == {moved}
    assert (await world.rollouts.get(there.stored.rollout.rollout_id)).stored.rollout.state is RolloutState.FINISHED


async def test_who_cannot_be_brought_back_is_named_with_the_reason(world: UpdateWorld) -> None:
    """Another catalog, product, or release; no updates; shut out. Whoever can be, is."""
    rollout = await taken_by(world, 7)
    stays, foreign, other, still, blocked, gone, sold = sorted(await devices_of(world, rollout))
    await _make_foreign_group(world)
    for device, group in ((foreign, FOREIGN), (other, "Field Test"), (still, "Development")):
        await world.change_device(device, "moved", group)
    third = await _begin_its_own(world)
    await confirm(world, third, other, ActionState.CONFIRMED)
    await world.change_device(blocked, "blocked")
    await world.change_device(gone, "decommissioned")
    async with world.unit_of_work() as work:
        left = await work.devices.get(sold)
        await work.devices.save(left.depart("Other", world.clock.now()), replaces_version=left.version)
        await work.commit()
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == {stays}
    assert await missed_by(world, undoing) == {
        foreign: f"in group {FOREIGN} of product {FOREIGN} now, whose own rollouts decide; {RUNS_IT}",
        other: f"{ELSEWHERE}; it does not run the release's images",
        still: f"in group Development now, which takes no updates; {RUNS_IT}",
        blocked: f"the device is blocked; {RUNS_IT}",
        gone: f"the device is decommissioned; {RUNS_IT}",
        sold: f"the device was moved to another catalog; {RUNS_IT}",
    }
    assert await missed_by(world, rollout) == {}


async def test_device_that_is_moved_while_it_waits_leaves_its_rollback(world: UpdateWorld) -> None:
    """It was not given the way back yet, and is given it no more, in the same product or another."""
    rollout = await taken_by(world, 3)
    undoing = await rolled_back(world, rollout)
    leaves, also, stays = sorted(await devices_of(world, rollout))
    await _make_foreign_group(world)
    await world.change_device(leaves, "moved", FOREIGN)
    await world.change_device(also, "moved", "Field Test")
    await world.tick()
    states = {each.action.device_id: each.action.state for each in await world.actions(undoing)}
    cancelled = ActionState.CANCELLED
    assert states == {leaves: cancelled, also: cancelled, stays: ActionState.SCHEDULED}
    assert await missed_by(world, undoing) == {
        leaves: f"in group {FOREIGN} of product {FOREIGN} now, whose own rollouts decide; {RUNS_IT}",
        also: f"{ELSEWHERE}; {RUNS_IT}",
    }


async def test_rollback_that_reaches_nobody_names_whom_it_cannot_reach(world: UpdateWorld) -> None:
    """The refusal says how many, and of the first why; the rollout explains them, too, until one is back."""
    rollout = await taken_by(world, 3)
    assert await missed_by(world, rollout) == {}
    took = sorted(await devices_of(world, rollout))
    for device in took[:2]:
        await world.change_device(device, "blocked")
    await world.change_device(took[2], "moved", "Field Test")
    await world.tick()
    why = f"the device is blocked; {RUNS_IT}"
    with pytest.raises(EmptyGroupError, match=f"found 3 out of its reach: {took[0][:16]}…: {why}; .*; and 1 more"):
        await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    assert await missed_by(world, rollout) == {took[0]: why, took[1]: why, took[2]: f"{ELSEWHERE}; {RUNS_IT}"}
    await world.change_device(took[2], "moved", "Production")
    undoing = await rolled_back(world, rollout)
    assert await devices_of(world, undoing) == {took[2]}
    assert await missed_by(world, rollout) == {}
    assert await missed_by(world, undoing) == {took[0]: why, took[1]: why}


async def test_halt_that_can_bring_nobody_back_names_them(world: UpdateWorld) -> None:
    """The plan rolls back by itself; the one device that was given the release has failed and left the group."""
    await world.add_devices(1)
    await release_with_way_back(world)
    new = NewRollout("second", "Production", None, threshold_plan(ALL).model_copy(update={"roll_back": True}))
    rollout = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    (device,) = await given(world, rollout)
    await world.change_device(device, "moved", "Field Test")
    await confirm(world, rollout, device, ActionState.FAILED)
    await world.tick()
    view, explained = await world.rollouts.explain(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.HALTED
    said = [each.stored.verdict.reason for each in explained.decisions]
    assert any(f"found 1 out of its reach: {device[:16]}…: {ELSEWHERE}; it" in each for each in said), said
    assert list(await missed_by(world, rollout)) == [device]


async def _make_foreign_group(world: UpdateWorld) -> None:
    product_id, group_id = GUIDS
    now = world.clock.now()
    group = DeviceGroup(group_id, product_id, FOREIGN, FOREIGN, "", GroupPolicy(), now)
    async with world.unit_of_work() as work:
        await work.products.add(Product(product_id, FOREIGN, "", created_at=now), [group])
        await work.commit()


async def _begin_its_own(world: UpdateWorld, *, is_given: bool = True) -> RolloutView:
    """Start what the group of the moved devices gets, and have it given to them."""
    await world.hand_over(await world.prepare("third", {Slot.A7_APPLICATION: world.package("app@4.0.0")}))
    new = NewRollout("third", "Field Test", None, threshold_plan(ALL))
    rollout = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    if is_given:
        await given(world, rollout)
    return rollout
