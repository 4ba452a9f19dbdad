"""Rollouts on a real database: stages, reports, joins, halts, restarts."""

from datetime import timedelta

import pytest

from protocol.geometry import Slot
from protocol.messages import ActionState, Cause
from service.application.reports import ReportOutOfTurnError
from service.application.rollout_ticks import RolloutTicks
from service.domain.membership import StagePlan
from service.domain.rollout import RolloutState
from service.domain.stage import StageState
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

STAGES = (StagePlan(count=1), StagePlan(percent=25), StagePlan(percent=100))


async def test_rollout_passes_its_stages_and_finishes(world: UpdateWorld) -> None:
    """One canary, a quarter, everyone; each stage waits for the one before it."""
    devices = await world.add_devices(12)
    await world.release("first")
    rollout = await world.roll_out("first", STAGES)
    sizes = []
    for _ in STAGES:
        await world.tick()
        sizes.append(await world.confirm_all(rollout))
    assert sizes == [1, 2, 9]
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED
    assert {n.action.device_id for n in await world.actions(rollout)} == set(devices)
    assert all(stage.reason for stage in view.stored.rollout.stages)


async def test_bad_release_stops_at_its_canary(world: UpdateWorld) -> None:
    """A canary that reverts halts the rollout; nobody else is ever exposed."""
    await world.add_devices(12)
    await world.release("bad")
    rollout = await world.roll_out("bad", STAGES)
    await world.tick()
    (canary,) = await world.actions(rollout)
    await world.director.timestamp(canary.action.device_id)
    await world.report(
        canary.action.device_id, canary.action.action_id, ActionState.REVERTED, cause=Cause.GOLDEN_VECTORS
    )
    await world.tick()
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.HALTED
    assert "found 1" in view.stored.rollout.halted_reason
    assert sum(stage.counts.exposed for stage in view.stored.rollout.stages) == 1
    assert len(await world.actions(rollout)) == 1
    assert world.poll.reply(canary.action.device_id, fleet_size=12).action_id is None


async def test_device_that_joins_is_taken_into_the_open_stage(world: UpdateWorld) -> None:
    """A newcomer's hash decides; a canary of one is not enlarged."""
    await world.add_devices(2)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(count=1), StagePlan(percent=100)))
    await world.tick()
    newcomers = await world.add_devices(3)
    await world.tick()
    assert len(await world.actions(rollout)) == 1
    await world.confirm_all(rollout)
    await world.tick()
    assert newcomers[0] in {n.action.device_id for n in await world.actions(rollout)}
    late = await world.add_device()
    await world.tick()
    assert late in {n.action.device_id for n in await world.actions(rollout)}
    await world.confirm_all(rollout)
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED


async def test_blocked_or_moved_device_is_no_failure(world: UpdateWorld) -> None:
    """An action that was not begun is cancelled when its device leaves, and does not count."""
    blocked, moved, stays = await world.add_devices(3)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    await world.change_device(blocked, "blocked")
    await world.change_device(moved, "moved", group="Field Test")
    await world.tick()
    states = {n.action.device_id: n.action.state for n in await world.actions(rollout)}
    assert states == {
        blocked: ActionState.CANCELLED,
        moved: ActionState.CANCELLED,
        stays: ActionState.SCHEDULED,
    }
    await world.confirm_all(rollout)
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED


@pytest.mark.parametrize("change", ["blocked", "decommissioned"])
async def test_device_shut_out_in_the_middle_of_its_update_is_no_failure(world: UpdateWorld, change: str) -> None:
    """It can report no more: its action is withdrawn instead of timing out, and the rollout finishes without it."""
    blocked, stays = await world.add_devices(2)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(percent=100),), action_timeout=timedelta(hours=1))
    await world.tick()
    begun = {n.action.device_id: n.action.action_id for n in await world.actions(rollout)}
    await world.report(blocked, begun[blocked], ActionState.DOWNLOADING, sequence=1)
    await world.change_device(blocked, change)
    await world.tick()
    await world.confirm_all(rollout)
    world.clock.advance(3601)
    await world.tick()
    states = {n.action.device_id: n.action.state for n in await world.actions(rollout)}
    assert states == {blocked: ActionState.CANCELLED, stays: ActionState.CONFIRMED}
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED


async def test_silent_device_times_out_and_halts(world: UpdateWorld) -> None:
    """A device that never reports is a failure of its own cause after its time-out."""
    await world.add_devices(1)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(percent=100),), action_timeout=timedelta(hours=1))
    await world.tick()
    world.clock.advance(3599)
    await world.tick()
    assert (await world.actions(rollout))[0].action.state is ActionState.SCHEDULED
    world.clock.advance(1)
    await world.tick()
    (found,) = await world.actions(rollout)
    assert (found.action.state, found.action.cause) == (ActionState.TIMED_OUT, Cause.SILENT)
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.HALTED


async def test_soak_is_kept_by_the_worker(world: UpdateWorld) -> None:
    """The next stage opens when the soak time is over, not before."""
    await world.add_devices(2)
    await world.release("first")
    stages = (StagePlan(count=1), StagePlan(percent=100))
    rollout = await world.roll_out("first", stages, soak=timedelta(hours=1))
    await world.tick()
    await world.confirm_all(rollout)
    await world.tick()
    assert await world.ticks.next_look() == world.clock.now() + timedelta(hours=1)
    assert len(await world.actions(rollout)) == 1
    world.clock.advance(3600)
    await world.tick()
    assert len(await world.actions(rollout)) == 2


async def test_device_that_runs_the_release_is_confirmed_without_work(world: UpdateWorld) -> None:
    """A second rollout of the same release asks nothing of devices that run it."""
    await world.add_devices(3)
    await world.release("first")
    first = await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    await world.confirm_all(first)
    second = await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    view = await world.rollouts.get(second.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED
    assert view.stored.rollout.stages[0].counts.exposed == 0


async def test_newer_rollout_supersedes_what_is_queued(world: UpdateWorld) -> None:
    """Queued work of the same slots collapses to the newest; what a device has begun goes on."""
    busy, idle = await world.add_devices(2)
    await world.release("first")
    await world.release("second")
    first = await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    begun = next(n.action for n in await world.actions(first) if n.action.device_id == busy)
    await world.report(busy, begun.action_id, ActionState.DOWNLOADING, sequence=1)
    second = await world.roll_out("second", (StagePlan(percent=100),))
    await world.tick()
    states = {n.action.device_id: n.action.state for n in await world.actions(first)}
    assert states == {busy: ActionState.DOWNLOADING, idle: ActionState.CANCELLED}
    assert world.poll.reply(busy, fleet_size=2).action_id == begun.action_id
    await world.confirm_all(first)
    await world.tick()
    queued = next(n.action for n in await world.actions(second) if n.action.device_id == busy)
    assert world.poll.reply(busy, fleet_size=2).action_id == queued.action_id


async def test_rollout_of_other_slots_waits_in_line(world: UpdateWorld) -> None:
    """Two releases of different slots both reach the device, the older first."""
    (device,) = await world.add_devices(1)
    await world.release("app")
    await world.release("firmware", [Slot.M4_0_FIRMWARE])
    first = await world.roll_out("app", (StagePlan(percent=100),))
    second = await world.roll_out("firmware", (StagePlan(percent=100),))
    await world.tick()
    (one,), (two,) = await world.actions(first), await world.actions(second)
    assert world.poll.reply(device, fleet_size=1).action_id == one.action.action_id
    await world.confirm_all(first)
    await world.tick()
    assert world.poll.reply(device, fleet_size=1).action_id == two.action.action_id


async def test_report_of_what_waits_in_line_is_refused(world: UpdateWorld) -> None:
    """A device that works on one action cannot have begun another; its part stays as it is."""
    device_id = await world.add_device()
    await world.release("app")
    await world.release("fw", [Slot.M4_0_FIRMWARE])
    await world.roll_out("app", (StagePlan(percent=100),))
    waiting = await world.roll_out("fw", (StagePlan(percent=100),))
    await world.tick()
    await world.director.timestamp(device_id)
    (numbered,) = await world.actions(waiting)
    with pytest.raises(ReportOutOfTurnError, match="in line"):
        await world.report(device_id, numbered.action.action_id, ActionState.DOWNLOADING)
    (numbered,) = await world.actions(waiting)
    assert numbered.action.state is ActionState.SCHEDULED


async def test_abort_cancels_what_nobody_was_given(world: UpdateWorld) -> None:
    """Abort is for good: queued actions are cancelled, started ones may end."""
    started, *_ = await world.add_devices(4)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    begun = next(n.action for n in await world.actions(rollout) if n.action.device_id == started)
    await world.report(started, begun.action_id, ActionState.INSTALLING, sequence=1)
    rollout_id = rollout.stored.rollout.rollout_id
    await world.rollouts.abort(RELEASER, rollout_id)
    assert (await world.rollouts.abort(RELEASER, rollout_id)).stored.rollout.state is RolloutState.ABORTED
    await world.tick()
    states = [n.action.state for n in await world.actions(rollout)]
    assert states.count(ActionState.CANCELLED) == 3
    assert states.count(ActionState.INSTALLING) == 1


async def test_paused_rollout_offers_nothing(world: UpdateWorld) -> None:
    """A pause withholds the release from poll and Director until it is resumed."""
    (device,) = await world.add_devices(1)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    rollout_id = rollout.stored.rollout.rollout_id
    await world.rollouts.pause(RELEASER, rollout_id)
    await world.tick()
    assert world.poll.reply(device, fleet_size=1).action_id is None
    await world.rollouts.resume(RELEASER, rollout_id)
    await world.tick()
    assert world.poll.reply(device, fleet_size=1).action_id is not None


async def test_pending_actions_survive_a_restart(world: UpdateWorld) -> None:
    """A process that starts reads what waits from the database."""
    (device,) = await world.add_devices(1)
    await world.release("first")
    await world.roll_out("first", (StagePlan(percent=100),))
    await world.tick()
    expected = world.poll.reply(device, fleet_size=1).action_id
    assert expected is not None
    fresh = type(world.pending)()
    await fresh.load(world.unit_of_work)
    assert fresh.waiting(device) == expected


async def test_worker_killed_between_batches_is_followed_by_another(world: UpdateWorld) -> None:
    """Opening goes on at the stored cursor; nobody is missed and nobody counted twice."""
    devices = await world.add_devices(7)
    await world.tick()
    world.ticks = RolloutTicks(world.unit_of_work, clock=world.clock, entropy=world.entropy, devices_per_step=3)
    await world.release("first")
    rollout = await world.roll_out("first", (StagePlan(percent=100),))
    lease = await world.lease("worker")
    assert lease is not None
    await world.ticks.tick(lease)
    assert len(await world.actions(rollout)) == 3
    assert await world.lease("second worker") is None
    world.clock.advance(16)
    await world.tick("second worker")
    assert sorted(n.action.device_id for n in await world.actions(rollout)) == sorted(devices)
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.stages[0].counts.size == 7
    assert view.stored.rollout.stages[0].state is StageState.RUNNING
