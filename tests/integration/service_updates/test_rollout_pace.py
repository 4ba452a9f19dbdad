"""A paced rollout on a real database: devices are let in by time and success, through restarts of the worker."""

from datetime import timedelta

from protocol.messages import ActionState
from protocol.plan import EvidenceGates, Pace, Plan, PlanStage
from service.application.rollouts import NewRollout, RolloutView
from service.domain.rollout import RolloutState
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld


async def started(world: UpdateWorld, pace: Pace, devices: int = 12) -> RolloutView:
    await world.add_devices(devices)
    await world.release("paced")
    plan = Plan(stages=(PlanStage(percent=100),), pace=pace, gates=EvidenceGates())
    return await world.rollouts.create(RELEASER, NewRollout("paced", "Production", None, plan), start_now=True)


async def let_in(world: UpdateWorld, rollout: RolloutView) -> int:
    await world.tick()
    return len(await world.actions(rollout))


async def test_devices_are_let_in_at_the_rate(world: UpdateWorld) -> None:
    """Two a minute: one at once, the next after half a minute; the worker is called then, not before."""
    rollout = await started(world, Pace(per_minute=2))
    counts = [await let_in(world, rollout)]
    for _ in range(4):
        world.clock.advance(30)
        counts.append(await let_in(world, rollout))
    assert counts == [1, 2, 3, 4, 5]
    assert await world.ticks.next_look() == world.clock.now() + timedelta(seconds=30)


async def test_success_speeds_it_up(world: UpdateWorld) -> None:
    """After three confirmed devices the rate is tenfold."""
    rollout = await started(world, Pace(per_minute=2, growth=10, every=3, most_per_minute=20), devices=30)
    for _ in range(3):
        await let_in(world, rollout)
        await world.confirm_all(rollout)
        world.clock.advance(30)
    before = await let_in(world, rollout)
    world.clock.advance(12)
    assert await let_in(world, rollout) - before == 4


async def test_concurrency_waits_for_results(world: UpdateWorld) -> None:
    """Three at a time; a result lets the next one in, and all are brought the release in the end."""
    rollout = await started(world, Pace(concurrency=3))
    assert await let_in(world, rollout) == 3
    world.clock.advance(600)
    assert await let_in(world, rollout) == 3
    first = next(n.action for n in await world.actions(rollout) if not n.action.state.is_final)
    await world.report(first.device_id, first.action_id, ActionState.CONFIRMED, digests=rollout.release.digests)
    assert await let_in(world, rollout) == 4
    for _ in range(12):
        await world.confirm_all(rollout)
        await world.tick()
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED
    assert len(await world.actions(rollout)) == 12
