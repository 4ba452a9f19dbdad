"""Releases that devices must pass through, where their rollout is held or paused, or others have come after it."""

from protocol.identity import Access
from protocol.messages import ActionState, Cause
from protocol.plan import Deferral, Pace, Plan
from protocol.plan.targets import AttributeTest
from service.application.events import Event, EventType
from service.application.poll import PendingActions
from service.application.rollouts import NewRollout, RolloutView
from service.application.update_facts import UpdateFacts
from service.domain.action import Action, Hold
from service.domain.holding import SHORTEST_LOOK
from service.domain.membership import StagePlan
from service.domain.release import Release
from service.domain.rollout import RolloutState
from tests.integration.service_updates.test_healing import set_access
from tests.integration.service_updates.test_must_pass import EVERYBODY, action_of, bring, runs, three_releases
from tests.integration.service_updates.timing_world import (
    NIGHT,
    NOON,
    ask,
    give,
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


async def in_stages(world: UpdateWorld, *, devices: int) -> RolloutView:
    """Return a rollout of the release to pass through, open for one of so many devices, which run the first release."""
    first, _, _ = await three_releases(world)
    for device in await world.add_devices(devices):
        await runs(world, device, first)
    through = await world.roll_out("v2.0.0", (StagePlan(count=1), StagePlan(percent=100)))
    await world.tick()
    return through


async def canary_and_other(world: UpdateWorld) -> tuple[RolloutView, str, str]:
    """Return such a rollout for two devices: the one that it was given to, which has asked for it, and the other."""
    through = await in_stages(world, devices=2)
    canary = (await action_of(world, through)).device_id
    await ask(world, canary)
    async with world.unit_of_work(read_only=True) as work:
        devices = await work.actions.members(through.stored.rollout.group_id, begins="")
    return through, canary, next(device for device in devices if device != canary)


async def ahead_of_its_stage(world: UpdateWorld) -> tuple[RolloutView, RolloutView, str, str]:
    """Return such a rollout, one of the release beyond, and a device of each stage of the first."""
    through, canary, device = await canary_and_other(world)
    (beyond,) = await begin(world, "v3.0.0")
    return through, beyond, canary, device


async def test_release_beyond_waits_for_a_stage_of_the_one_to_pass_through(world: UpdateWorld) -> None:
    """It says what it waits for, is looked at again, and is taken once the other one has come and was confirmed."""
    through, beyond, canary, device = await ahead_of_its_stage(world)
    await ask(world, device)
    action = await part_of(world, beyond, device)
    assert (action.state, action.hold, is_told(world, device)) == (ActionState.SCHEDULED, Hold.PASSAGE, False)
    assert "release v2.0.0 comes first, which a rollout has yet to bring" in action.detail
    async with world.unit_of_work(read_only=True) as work:
        group_id = (await work.devices.get(device)).group_id
    facts = await UpdateFacts(world.unit_of_work).for_device(device, group_id=group_id)
    assert facts.waits == action.detail
    _, explanation = await world.rollouts.explain(beyond.stored.rollout.rollout_id)
    assert [(each.hold, each.devices) for each in explanation.waiting] == [(Hold.PASSAGE, 1)]
    world.clock.advance(SHORTEST_LOOK.total_seconds())
    await world.tick()
    await ask(world, device)
    assert (await part_of(world, beyond, device)).hold is Hold.PASSAGE
    await confirm(world, canary, through)
    await ask(world, device)
    await confirm(world, device, through)
    world.clock.advance(SHORTEST_LOOK.total_seconds() * 2)
    await world.tick()
    await ask(world, device)
    await confirm(world, device, beyond)


async def test_devices_that_wait_for_a_release_to_pass_through_use_the_pace_once(world: UpdateWorld) -> None:
    """Looks at them take no turn from those that have yet to be let in, one in five minutes."""
    await in_stages(world, devices=6)
    new = NewRollout("v3.0.0", "Production", None, plan(pace=Pace(per_minute=0.2)))
    beyond = await world.rollouts.create(RELEASER, new, start_now=True)
    for turn in range(1, 7):
        await world.tick()
        actions = [each.action for each in await world.actions(beyond)]
        assert len(actions) == turn
        for action in actions:
            await ask(world, action.device_id)
        world.clock.advance(300)
    assert len(await held_by(world, beyond)) == 5  # not the first stage's, whose release is in line before it
    world.clock.advance(SHORTEST_LOOK.total_seconds())
    await world.tick()
    now = world.clock.now()
    assert all(action.not_before and action.not_before > now for action in await held_by(world, beyond))


async def held_by(world: UpdateWorld, view: RolloutView) -> list[Action]:
    """Return the actions that wait for a release to pass through."""
    return [each.action for each in await world.actions(view) if each.action.hold is Hold.PASSAGE]


async def test_device_that_heals_waits_for_no_release_to_pass_through(world: UpdateWorld) -> None:
    """Its rollout has finished and looks at nobody again: it is refused at once, and says what the device lacks."""
    through, canary, device = await canary_and_other(world)
    await world.rollouts.pause(RELEASER, through.stored.rollout.rollout_id)
    await confirm(world, canary, through)
    await give(world, canary, {"ring": "lab"})
    target = AttributeTest.model_validate({"attribute": "ring", "is": "lab"})
    new = NewRollout("v3.0.0", "Production", None, plan().model_copy(update={"target": target}))
    beyond = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    await ask(world, canary)
    await confirm(world, canary, beyond)
    assert await state_of(world, beyond) is RolloutState.FINISHED
    await set_access(world, device, Access.UPDATE_ONLY, strange=False)
    await ask(world, device)
    action = await part_of(world, beyond, device)
    assert (action.heals, action.state, action.cause) == (True, ActionState.FAILED, Cause.REQUIREMENT)
    assert "expected release v2.0.0" in action.detail


async def test_wait_for_a_release_to_pass_through_ends_with_its_rollout(world: UpdateWorld) -> None:
    """Nothing is to bring it any more: at the next look the later one fails, and says what the device lacks."""
    through, beyond, _, device = await ahead_of_its_stage(world)
    await ask(world, device)
    await world.rollouts.abort(RELEASER, through.stored.rollout.rollout_id)
    world.clock.advance(SHORTEST_LOOK.total_seconds())
    await world.tick()
    await ask(world, device)
    action = await part_of(world, beyond, device)
    assert (action.state, action.cause) == (ActionState.FAILED, Cause.REQUIREMENT)
    assert "expected release v2.0.0" in action.detail


async def test_wait_for_a_release_to_pass_through_is_bounded(world: UpdateWorld) -> None:
    """Its rollout is paused for a month: the later one fails by then, and not by silence."""
    through, beyond, _, device = await ahead_of_its_stage(world)
    await world.rollouts.pause(RELEASER, through.stored.rollout.rollout_id)
    looks = 0
    while (action := await part_of(world, beyond, device)).state is ActionState.SCHEDULED:
        await ask(world, device)
        held = await part_of(world, beyond, device)
        if held.not_before is not None:
            world.clock.time = held.not_before
            await world.tick()
        looks += 1
    assert (action.state, action.cause) == (ActionState.FAILED, Cause.REQUIREMENT)
    assert world.clock.now() == (await part_of(world, beyond, device)).progressed_at
    assert 10 < looks < 100


async def test_retry_lets_a_device_pass_through_again(world: UpdateWorld) -> None:
    """What it must have first had failed on it, and so the later one; an operator's retry tries both again."""
    views, newcomer = await begun_for_newcomer(world, plan())
    *through, beyond = views
    await ask(world, newcomer)
    action = await part_of(world, through[0], newcomer)
    await world.report(newcomer, action.action_id, ActionState.FAILED, cause=Cause.FLASH)
    await world.tick()
    await ask(world, newcomer)
    assert (await part_of(world, beyond, newcomer)).state is ActionState.FAILED
    await world.rollouts.retry(RELEASER, beyond.stored.rollout.rollout_id)
    await world.tick()
    for view in views:
        await ask(world, newcomer)
        (begun,) = [
            each.action
            for each in await world.actions(view)
            if (each.action.device_id, each.action.state) == (newcomer, ActionState.OFFERED)
        ]
        await world.report(newcomer, begun.action_id, ActionState.CONFIRMED, digests=view.release.digests)
        await world.tick()


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
