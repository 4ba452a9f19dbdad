"""Maintenance windows on a real database: devices are told, woken and offered within them alone."""

from datetime import time, timedelta

from protocol.messages import ActionState
from protocol.plan import Pace, Window
from service.domain.action import Hold
from service.domain.rollout import RolloutState
from tests.integration.service_updates.timing_world import (
    NIGHT,
    NOON,
    ask,
    begun,
    give,
    is_told,
    part_of,
    plan,
    set_clock,
)
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld


async def test_device_hears_of_its_release_when_its_window_opens(world: UpdateWorld) -> None:
    """Nothing waits for it at noon; by its turn in the night it is told, and the Director offers."""
    device_id = await world.add_device()
    set_clock(world, NOON)
    view = await begun(world, plan(NIGHT))
    await ask(world, device_id)
    action = await part_of(world, view, device_id)
    assert (action.hold, action.state, is_told(world, device_id)) == (Hold.WINDOW, ActionState.SCHEDULED, False)
    assert action.not_before is not None
    assert await world.ticks.next_look() == action.not_before
    world.clock.time = action.not_before
    await world.tick()
    assert is_told(world, device_id)
    await ask(world, device_id)
    assert (await part_of(world, view, device_id)).state is ActionState.OFFERED


async def test_each_device_has_the_night_of_its_zone(world: UpdateWorld) -> None:
    """At noon in Greenwich it is night in Honolulu, and in Berlin it is not."""
    berlin, honolulu, nowhere = await world.add_devices(3)
    await give(world, berlin, {"time-zone": "Europe/Berlin"})
    await give(world, honolulu, {"time-zone": "Pacific/Honolulu"})
    set_clock(world, time(13))
    view = await begun(world, plan(NIGHT))
    found = {device_id: (await part_of(world, view, device_id)).hold for device_id in (berlin, honolulu, nowhere)}
    assert found == {berlin: Hold.WINDOW, honolulu: None, nowhere: Hold.WINDOW}
    assert is_told(world, honolulu)


async def test_device_that_comes_after_its_window_waits_for_the_next(world: UpdateWorld) -> None:
    """What it is told by a poll is a hint; the Director looks at the clock, and so does the worker at the end."""
    early, late = await world.add_devices(2)
    set_clock(world, time(2, 10))
    view = await begun(world, plan(NIGHT))
    assert is_told(world, late)
    set_clock(world, time(5))
    await world.director.timestamp(early)
    assert (await part_of(world, view, early)).hold is Hold.NEXT_WINDOW
    await world.tick()
    action = await part_of(world, view, late)
    assert (action.hold, action.state, is_told(world, late)) == (Hold.NEXT_WINDOW, ActionState.SCHEDULED, False)


async def test_device_that_lets_its_windows_pass_is_silent_in_the_end(world: UpdateWorld) -> None:
    """Its time-out of a day is over by the end of the second night, counted from when it was first let in."""
    device_id = await world.add_device()
    set_clock(world, NOON)
    view = await begun(world, plan(NIGHT))
    states = []
    for _ in range(3):
        for at in (time(3), time(5)):
            set_clock(world, at)
            await world.tick()
            found = await part_of(world, view, device_id)
            states.append(found.hold or found.state)
    assert states[:2] == [ActionState.SCHEDULED, Hold.NEXT_WINDOW]
    assert states[2:] == [ActionState.SCHEDULED, ActionState.TIMED_OUT, ActionState.TIMED_OUT, ActionState.TIMED_OUT]


async def test_pause_through_a_window_is_no_fault_of_the_device(world: UpdateWorld) -> None:
    """Its time begins anew with the next window."""
    device_id = await world.add_device()
    set_clock(world, time(2, 5))
    view = await begun(world, plan(NIGHT, device_timeout=timedelta(hours=1)))
    await world.rollouts.pause(RELEASER, view.stored.rollout.rollout_id)
    set_clock(world, time(5))
    await world.tick()
    assert (await part_of(world, view, device_id)).hold is Hold.WINDOW
    await world.rollouts.resume(RELEASER, view.stored.rollout.rollout_id)
    set_clock(world, time(3))
    await world.tick()
    assert (await part_of(world, view, device_id)).hold is None


async def test_a_windows_start_lets_devices_in_at_the_pace(world: UpdateWorld) -> None:
    """Six wait; at one a minute they begin one after the other, and who waited did not use the pace."""
    await world.add_devices(6)
    set_clock(world, NOON)
    view = await begun(world, plan(NIGHT, pace=Pace(per_minute=1)))
    for _ in range(6):
        world.clock.advance(60)
        await world.tick()
    assert [each.action.hold for each in await world.actions(view)] == [Hold.WINDOW] * 6
    set_clock(world, time(2, 45))
    begun_by_then = []
    for _ in range(4):
        await world.tick()
        begun_by_then.append(sum(each.action.hold is None for each in await world.actions(view)))
        world.clock.advance(60)
    assert begun_by_then == [1, 2, 3, 4]


async def test_concurrency_does_not_count_who_waits_for_a_window(world: UpdateWorld) -> None:
    """With one at a time, all are scheduled at noon; at night one begins, and its result lets the next one in."""
    await world.add_devices(3)
    set_clock(world, NOON)
    view = await begun(world, plan(NIGHT, pace=Pace(concurrency=1)))
    assert len(await world.actions(view)) == 3
    set_clock(world, time(2, 45))
    for _ in range(3):
        await world.tick()
        free = [each.action for each in await world.actions(view) if each.action.hold is None]
        open_ones = [action for action in free if not action.state.is_final]
        assert len(open_ones) == 1
        await world.report(
            open_ones[0].device_id, open_ones[0].action_id, ActionState.CONFIRMED, digests=view.release.digests
        )
    await world.tick()
    found = await world.rollouts.get(view.stored.rollout.rollout_id)
    assert found.stored.rollout.state is RolloutState.FINISHED


async def test_forced_release_asks_for_no_window(world: UpdateWorld) -> None:
    """It is offered at noon."""
    device_id = await world.add_device()
    set_clock(world, NOON)
    view = await begun(world, plan(NIGHT, forced=True))
    await ask(world, device_id)
    assert (await part_of(world, view, device_id)).state is ActionState.OFFERED


async def test_window_that_ends_leaves_what_has_begun(world: UpdateWorld) -> None:
    """A device at its download goes on after five."""
    device_id = await world.add_device()
    set_clock(world, time(4, 50))
    view = await begun(world, plan(NIGHT))
    await ask(world, device_id)
    action = await part_of(world, view, device_id)
    set_clock(world, time(5, 30))
    await world.tick()
    await world.report(device_id, action.action_id, ActionState.CONFIRMED, digests=view.release.digests)
    assert (await part_of(world, view, device_id)).state is ActionState.CONFIRMED


async def test_end_of_a_rollout_cancels_who_waits_for_a_window(world: UpdateWorld) -> None:
    """Nothing is left to wake up for."""
    device_id = await world.add_device()
    set_clock(world, NOON)
    view = await begun(world, plan(NIGHT, Window(start=time(22), end=time(1))))
    await world.rollouts.abort(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    assert (await part_of(world, view, device_id)).state is ActionState.CANCELLED
    assert await world.ticks.next_look() is None


async def test_restart_in_between_forgets_no_hold(world: UpdateWorld) -> None:
    """A process that begins reads who is held, and wakes nobody for it."""
    device_id = await world.add_device()
    set_clock(world, NOON)
    await begun(world, plan(NIGHT))
    await world.pending.load(world.unit_of_work)
    assert not is_told(world, device_id)
