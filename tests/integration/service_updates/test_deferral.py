"""Devices whose users put an update off, on a real database."""

from datetime import timedelta

import pytest

from protocol.messages import ActionState
from protocol.plan import Deferral, Pace
from service.domain.action import Hold
from service.domain.holding import DeferralRefusedError
from service.domain.rollout import RolloutState
from tests.integration.service_updates.test_rollback_of_healed import quarantine
from tests.integration.service_updates.timing_world import NIGHT, ask, begun, is_told, part_of, plan, put_off
from tests.integration.service_updates.update_world import UpdateWorld

HOUR = 3600.0


async def test_update_that_is_put_off_comes_again(world: UpdateWorld) -> None:
    """It is scheduled, untold and unexposed until then; afterwards it goes its way."""
    device_id = await world.add_device()
    view = await begun(world, plan(deferral=Deferral()))
    await ask(world, device_id)
    action = await part_of(world, view, device_id)
    await put_off(world, action, seconds=HOUR, sequence=0)
    await world.tick()
    held = await part_of(world, view, device_id)
    assert (held.state, held.hold, held.deferrals) == (ActionState.SCHEDULED, Hold.DEFERRAL, 1)
    assert held.not_before == world.clock.now() + timedelta(hours=1)
    assert not is_told(world, device_id)
    counts = (await world.rollouts.get(action.rollout_id)).stored.rollout.stages[0].counts
    assert (counts.exposed, counts.failed, counts.withdrawn, counts.held) == (0, 0, 0, 1)
    await ask(world, device_id)
    assert (await part_of(world, view, device_id)).state is ActionState.SCHEDULED
    world.clock.advance(HOUR)
    await world.tick()
    assert is_told(world, device_id)
    await ask(world, device_id)
    await world.report(device_id, action.action_id, ActionState.CONFIRMED, digests=view.release.digests)
    found = (await world.rollouts.get(action.rollout_id)).stored.rollout
    assert found.stages[0].counts.exposed == 1
    assert found.state is RolloutState.FINISHED


async def test_update_is_put_off_only_so_often(world: UpdateWorld) -> None:
    """The third time is refused and changes nothing: the device installs."""
    device_id = await world.add_device()
    view = await begun(world, plan(deferral=Deferral(most=2, longest=timedelta(hours=2))))
    for sequence in range(2):
        await ask(world, device_id)
        await put_off(world, await part_of(world, view, device_id), seconds=24 * HOUR, sequence=sequence)
        world.clock.advance(2 * HOUR)
        await world.tick()
    await ask(world, device_id)
    before = await part_of(world, view, device_id)
    with pytest.raises(DeferralRefusedError, match="expected at most 2, found 2 before this"):
        await put_off(world, before, seconds=HOUR, sequence=2)
    assert await part_of(world, view, device_id) == before
    assert before.state is ActionState.OFFERED


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (plan(), "found one whose plan has no deferral"),
        (plan(deferral=Deferral(), forced=True), "found one that is forced"),
    ],
)
async def test_update_that_may_not_be_put_off(world: UpdateWorld, wanted: object, expected: str) -> None:
    """A plan without deferral, or one that is forced."""
    device_id = await world.add_device()
    view = await begun(world, wanted)  # type: ignore[arg-type]  # a plan
    await ask(world, device_id)
    with pytest.raises(DeferralRefusedError, match=expected):
        await put_off(world, await part_of(world, view, device_id), seconds=HOUR, sequence=0)


async def test_update_that_has_begun_is_not_put_off(world: UpdateWorld) -> None:
    """A trial is not undone by a user."""
    device_id = await world.add_device()
    view = await begun(world, plan(deferral=Deferral()))
    await ask(world, device_id)
    action = await part_of(world, view, device_id)
    await world.report(device_id, action.action_id, ActionState.TRIAL, sequence=4)
    with pytest.raises(DeferralRefusedError, match="expected an update that has not begun, found it trial"):
        await put_off(world, action, seconds=HOUR, sequence=5)


async def test_reports_out_of_order_say_what_the_last_one_said(world: UpdateWorld) -> None:
    """The deferral again, or progress from before it, changes nothing; progress from after it does."""
    device_id = await world.add_device()
    view = await begun(world, plan(deferral=Deferral()))
    await ask(world, device_id)
    action = await part_of(world, view, device_id)
    await put_off(world, action, seconds=HOUR, sequence=2)
    await put_off(world, action, seconds=HOUR, sequence=2)
    await world.report(device_id, action.action_id, ActionState.DOWNLOADING, sequence=1)
    held = await part_of(world, view, device_id)
    assert (held.state, held.deferrals) == (ActionState.SCHEDULED, 1)
    await world.report(device_id, action.action_id, ActionState.DOWNLOADING, sequence=3)
    went_on = await part_of(world, view, device_id)
    assert (went_on.state, went_on.hold, went_on.is_held) == (ActionState.DOWNLOADING, None, False)
    await world.report(device_id, action.action_id, ActionState.CONFIRMED, digests=view.release.digests)
    await put_off(world, action, seconds=HOUR, sequence=11)
    assert (await part_of(world, view, device_id)).state is ActionState.CONFIRMED


async def test_deferral_frees_the_place_in_the_pace(world: UpdateWorld) -> None:
    """One at a time: the next device begins when the first puts it off, and the first when that one has ended."""
    await world.add_devices(2)
    view = await begun(world, plan(deferral=Deferral(), pace=Pace(concurrency=1)))
    (first,) = [each.action for each in await world.actions(view)]
    await ask(world, first.device_id)
    await put_off(world, first, seconds=60, sequence=0)
    await world.tick()
    _, second = [each.action for each in await world.actions(view)]
    world.clock.advance(60)
    await world.tick()
    assert (await part_of(world, view, first.device_id)).hold is Hold.DEFERRAL
    await world.report(second.device_id, second.action_id, ActionState.CONFIRMED, digests=view.release.digests)
    await world.tick()
    assert (await part_of(world, view, first.device_id)).hold is None


async def test_deferral_into_the_day_waits_for_the_night(world: UpdateWorld) -> None:
    """What was put off to noon goes on in the next window."""
    device_id = await world.add_device()
    world.clock.time = world.clock.time.replace(hour=2, minute=40) + timedelta(days=1)
    view = await begun(world, plan(NIGHT, deferral=Deferral()))
    await ask(world, device_id)
    await put_off(world, await part_of(world, view, device_id), seconds=9 * HOUR, sequence=0)
    world.clock.advance(9 * HOUR)
    await world.tick()
    held = await part_of(world, view, device_id)
    assert (held.hold, held.not_before is not None and held.not_before.hour) == (Hold.WINDOW, 2)


async def test_device_cannot_put_off_what_heals_it(world: UpdateWorld) -> None:
    """Its rollout has finished, and nobody would offer it again; it is refused, and the device has its update."""
    old = await world.add_device()
    view = await begun(world, plan(deferral=Deferral()))
    await ask(world, old)
    await world.confirm_all(view)
    await world.tick()
    device = await world.add_device()
    await quarantine(world, device)
    await ask(world, device)
    with pytest.raises(DeferralRefusedError, match="may be put off, found one that heals the device"):
        await put_off(world, await part_of(world, view, device), seconds=3600, sequence=0)
    assert (await part_of(world, view, device)).state is ActionState.OFFERED
    assert is_told(world, device)
