"""Releases that devices must pass through, where their rollout is held or paused, or others have come after it."""

from protocol.identity import Access
from protocol.messages import ActionState, Cause
from protocol.plan import Deferral, Plan
from service.application.events import Event, EventType
from service.application.poll import PendingActions
from service.application.rollouts import NewRollout, RolloutView
from service.domain.release import Release
from service.domain.rollout import RolloutState
from tests.integration.service_updates.test_healing import set_access
from tests.integration.service_updates.test_must_pass import EVERYBODY, action_of, bring, runs, three_releases
from tests.integration.service_updates.timing_world import (
    NIGHT,
    NOON,
    ask,
    is_told,
    part_of,
    plan,
    put_off,
    set_clock,
)
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld


async def begin(world: UpdateWorld, *releases: str) -> list[RolloutView]:
    """Roll releases out to everybody, one after another; return the rollouts."""
    views: list[RolloutView] = []
    for release in releases:
        views.append(await world.roll_out(release, EVERYBODY))
        await world.tick()
    return views


async def states(world: UpdateWorld, views: list[RolloutView]) -> list[ActionState]:
    return [(await action_of(world, view)).state for view in views]


async def confirm(world: UpdateWorld, device: str, view: RolloutView) -> None:
    """Let a device confirm the action that it was given."""
    action = await part_of(world, view, device)
    assert action.state is ActionState.OFFERED
    await world.report(device, action.action_id, ActionState.CONFIRMED, digests=view.release.digests)
    await world.tick()


async def state_of(world: UpdateWorld, view: RolloutView) -> RolloutState:
    return (await world.rollouts.get(view.stored.rollout.rollout_id)).stored.rollout.state


async def chain(world: UpdateWorld) -> list[Release]:
    """Bring four releases into force; devices must pass through the second, and then through the third."""
    first, _ = await bring(world, "1.0.0")
    second, past_second = await bring(world, "2.0.0", must_pass=True)
    world.clock.advance(1)
    third, past_third = await bring(world, "3.0.0", must_pass=True, after=past_second)
    world.clock.advance(1)
    fourth, _ = await bring(world, "4.0.0", after=past_third)
    return [first, second, third, fourth]


async def test_release_beyond_waits_while_the_one_to_pass_through_is_paused(world: UpdateWorld) -> None:
    """Its devices neither fail nor fall silent for it; once the pause is over they take both."""
    device = await world.add_device()
    first, _, _ = await three_releases(world)
    await runs(world, device, first)
    (through,) = await begin(world, "v2.0.0")
    await world.rollouts.pause(RELEASER, through.stored.rollout.rollout_id)
    (beyond,) = await begin(world, "v3.0.0")
    for _ in range(3):
        await ask(world, device)
        assert not is_told(world, device)
        world.clock.advance(2 * 86400)
        await world.tick()
    assert await states(world, [through, beyond]) == [ActionState.SCHEDULED, ActionState.SCHEDULED]
    assert await state_of(world, beyond) is RolloutState.RUNNING
    await world.rollouts.resume(RELEASER, through.stored.rollout.rollout_id)
    await world.tick()
    assert world.pending.waiting(device) == (await action_of(world, through)).action_id
    for view in (through, beyond):
        await ask(world, device)
        await confirm(world, device, view)


async def test_release_beyond_waits_while_the_one_to_pass_through_is_put_off(world: UpdateWorld) -> None:
    """A process that starts meanwhile says the same to the device's poll."""
    device = await world.add_device()
    first, _, _ = await three_releases(world)
    await runs(world, device, first)
    new = NewRollout("v2.0.0", "Production", None, plan(deferral=Deferral()))
    through = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    (beyond,) = await begin(world, "v3.0.0")
    await ask(world, device)
    await put_off(world, await part_of(world, through, device), seconds=3600, sequence=0)
    await ask(world, device)
    fresh = PendingActions()
    await fresh.load(world.unit_of_work)
    assert [world.pending.waiting(device), fresh.waiting(device)] == [None, None]
    assert await states(world, [through, beyond]) == [ActionState.SCHEDULED, ActionState.SCHEDULED]


async def test_release_beyond_fails_once_the_one_to_pass_through_was_aborted(world: UpdateWorld) -> None:
    """Nothing is left to wait for, and the reason says what the device lacks."""
    device = await world.add_device()
    first, _, _ = await three_releases(world)
    await runs(world, device, first)
    through, beyond = await begin(world, "v2.0.0", "v3.0.0")
    await world.rollouts.abort(RELEASER, through.stored.rollout.rollout_id)
    await world.tick()
    await ask(world, device)
    assert await states(world, [through, beyond]) == [ActionState.CANCELLED, ActionState.FAILED]


async def test_chain_of_releases_to_pass_through_does_not_collapse(world: UpdateWorld) -> None:
    """The newest must come after both; the device takes them one after the other."""
    device = await world.add_device()
    first, *_ = await chain(world)
    await runs(world, device, first)
    views = await begin(world, "v2.0.0", "v3.0.0", "v4.0.0")
    assert await states(world, views) == [ActionState.SCHEDULED] * 3
    for view in views:
        await ask(world, device)
        await confirm(world, device, view)
    assert [await state_of(world, view) for view in views] == [RolloutState.FINISHED] * 3


async def finish(world: UpdateWorld, device: str, *releases: str) -> list[RolloutView]:
    """Roll releases out to a device, one after the other, until each has finished."""
    views: list[RolloutView] = []
    for release in releases:
        views += await begin(world, release)
        await ask(world, device)
        await confirm(world, device, views[-1])
        assert await state_of(world, views[-1]) is RolloutState.FINISHED
    return views


async def test_quarantined_device_passes_through_what_its_group_has(world: UpdateWorld) -> None:
    """It heals by the newest release, and is given first the one that comes before it."""
    device = await world.add_device()
    first, _, _ = await three_releases(world)
    await runs(world, device, first)
    views = await finish(world, device, "v2.0.0", "v3.0.0")
    newcomer = await world.add_device()
    await runs(world, newcomer, first)
    await set_access(world, newcomer, Access.UPDATE_ONLY, strange=False)
    for view in views:
        await ask(world, newcomer)
        assert world.pending.waiting(newcomer) == (await part_of(world, view, newcomer)).action_id
        await confirm(world, newcomer, view)
    async with world.unit_of_work(read_only=True) as work:
        assert await work.actions.unfinished([newcomer]) == []


async def begun_for_newcomer(world: UpdateWorld, wanted: Plan) -> tuple[list[RolloutView], str]:
    """Return a chain of finished rollouts and one that runs, and a device that joins with an image from before."""
    device = await world.add_device()
    first, *_ = await chain(world)
    await runs(world, device, first)
    views = await finish(world, device, "v2.0.0", "v3.0.0")
    new = NewRollout("v4.0.0", "Production", None, wanted)
    views.append(await world.rollouts.create(RELEASER, new, start_now=True))
    await world.tick()
    newcomer = await world.add_device()
    await runs(world, newcomer, first)
    async with world.unit_of_work() as work:
        work.record(Event(EventType.DEVICE, newcomer, "attested", world.clock.now()))
        await work.commit()
    await world.tick()
    return views, newcomer


async def test_newcomer_passes_through_what_its_group_has(world: UpdateWorld) -> None:
    """One release after the other, whatever is told of the device meanwhile; finished rollouts count nothing more."""
    views, newcomer = await begun_for_newcomer(world, plan())
    before = (await world.rollouts.get(views[0].stored.rollout.rollout_id)).stored.rollout.stages
    for view in views:
        await ask(world, newcomer)
        async with world.unit_of_work() as work:
            work.record(Event(EventType.DEVICE, newcomer, "attested", world.clock.now()))
            await work.commit()
        await world.tick()
        await ask(world, newcomer)
        await confirm(world, newcomer, view)
    assert (await world.rollouts.get(views[0].stored.rollout.rollout_id)).stored.rollout.stages == before


async def test_newcomer_that_fails_on_the_way_is_refused_the_release_beyond(world: UpdateWorld) -> None:
    """It is not given the same again and again."""
    views, newcomer = await begun_for_newcomer(world, plan())
    await ask(world, newcomer)
    on_the_way = await part_of(world, views[0], newcomer)
    await world.report(newcomer, on_the_way.action_id, ActionState.REVERTED)
    await world.tick()
    await ask(world, newcomer)
    beyond = await part_of(world, views[-1], newcomer)
    assert (beyond.state, beyond.cause) == (ActionState.FAILED, Cause.REQUIREMENT)
    assert "expected release v3.0.0" in beyond.detail
    assert not is_told(world, newcomer)


async def test_newcomer_that_falls_silent_on_the_way_ends_so(world: UpdateWorld) -> None:
    """Neither rollout waits for it for ever."""
    views, newcomer = await begun_for_newcomer(world, plan())
    await ask(world, newcomer)
    for _ in range(4):
        world.clock.advance(86401)
        await world.tick()
    ends = [(await part_of(world, view, newcomer)).state for view in (views[0], views[-1])]
    assert ends == [ActionState.TIMED_OUT, ActionState.TIMED_OUT]


async def test_newcomer_begins_in_the_window_of_the_release_beyond(world: UpdateWorld) -> None:
    """Outside it, it is given nothing, and nothing is made for it."""
    views, newcomer = await begun_for_newcomer(world, plan(NIGHT))
    set_clock(world, NOON)
    await world.tick()
    await ask(world, newcomer)
    assert not is_told(world, newcomer)
    assert newcomer not in {each.action.device_id for each in await world.actions(views[0])}
