"""Disruption budgets on a real database: who is at an update at one place, over all rollouts and workers."""

import asyncio
from collections.abc import Sequence

from sqlalchemy import update

from protocol.messages import ActionState
from protocol.plan import Deferral, Disruption
from service.adapters.database.update_tables import actions
from service.application.director import Director
from service.application.rollouts import RolloutView
from service.domain.action import Action, Hold
from tests.integration.service_updates.timing_world import ask, begun, give, is_told, part_of, plan, put_off
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

SITE = Disruption(group_by="site")


async def at_site(world: UpdateWorld, count: int, *, site: str = "harbour") -> list[str]:
    """Add devices of one site."""
    found = await world.add_devices(count)
    for device_id in found:
        await give(world, device_id, {"site": site})
    return found


async def in_line(world: UpdateWorld, view: RolloutView) -> list[str]:
    """Return the devices in the order in which they are called."""
    return [each.action.device_id for each in await world.actions(view)]


async def end(
    world: UpdateWorld, view: RolloutView, device_id: str, state: ActionState = ActionState.CONFIRMED
) -> None:
    """End a device's part."""
    action = await part_of(world, view, device_id)
    await world.report(device_id, action.action_id, state, digests=view.release.digests)
    await world.tick()


async def parts(world: UpdateWorld, view: RolloutView, device_ids: Sequence[str]) -> list[Action]:
    return [await part_of(world, view, device_id) for device_id in device_ids]


async def test_one_device_of_a_site_at_a_time_each_in_its_turn(world: UpdateWorld) -> None:
    """Who waits hears nothing until the one before has ended; then the next in line does, and no other."""
    await at_site(world, 4)
    view = await begun(world, plan(disruption=SITE))
    devices = await in_line(world, view)
    for device_id in devices:
        await ask(world, device_id)
    first, *others = await parts(world, view, devices)
    assert first.state is ActionState.OFFERED
    assert [(action.hold, is_told(world, action.device_id)) for action in others] == [(Hold.BUDGET, False)] * 3
    assert first.device_id[:16] in others[0].detail
    for device_id, following in zip(devices, [*devices[1:], ""], strict=True):
        await end(world, view, device_id)
        assert [each for each in devices if is_told(world, each)] == [following][: 1 if following else 0]
        if following:
            await ask(world, following)


async def test_failure_frees_the_place_and_deferral_does(world: UpdateWorld) -> None:
    """Whatever ends a device's update lets another begin."""
    await at_site(world, 3)
    view = await begun(world, plan(disruption=SITE, deferral=Deferral()))
    one, two, three = devices = await in_line(world, view)
    for device_id in devices:
        await ask(world, device_id)
    await put_off(world, await part_of(world, view, one), seconds=60, sequence=0)
    await world.tick()
    assert is_told(world, two)
    await ask(world, two)
    await end(world, view, two, ActionState.FAILED)
    assert is_told(world, three)


async def test_sites_do_not_wait_for_one_another(world: UpdateWorld) -> None:
    """Nor does a device that has no site, beside others without."""
    devices = [*await at_site(world, 1), *await at_site(world, 1, site="airport"), *await world.add_devices(2)]
    view = await begun(world, plan(disruption=SITE))
    for device_id in devices:
        await ask(world, device_id)
    assert {action.state for action in await parts(world, view, devices)} == {ActionState.OFFERED}


async def test_other_rollouts_count(world: UpdateWorld) -> None:
    """A device at another rollout's update, whatever its plan, uses the budget of its site."""
    one, two = await at_site(world, 2)
    free = await begun(world, plan(), "unbounded")
    await ask(world, one)
    view = await begun(world, plan(disruption=SITE), "bounded")
    await ask(world, two)
    assert (await part_of(world, view, two)).hold is Hold.BUDGET
    await end(world, free, one)
    assert is_told(world, two)


async def test_share_of_a_site_is_rounded_down_but_never_to_nobody(world: UpdateWorld) -> None:
    """Half of five are two; a tenth is one."""
    half, tenth = await at_site(world, 5), await at_site(world, 5, site="airport")
    for name, devices, share, expected in (("half", half, "50%", 2), ("tenth", tenth, "10%", 1)):
        wanted = plan(disruption=Disruption(group_by="site", max_unavailable=share))
        view = await begun(world, wanted, name)
        for device_id in devices:
            await ask(world, device_id)
        states = [action.state for action in await parts(world, view, devices)]
        assert states.count(ActionState.OFFERED) == expected, name
        await world.rollouts.abort(RELEASER, view.stored.rollout.rollout_id)
        await world.tick()


async def test_called_device_that_does_not_come_holds_up_nobody(world: UpdateWorld) -> None:
    """After two minutes the next one is called, too; whoever asks first has the place."""
    await at_site(world, 3)
    view = await begun(world, plan(disruption=SITE))
    one, two, three = devices = await in_line(world, view)
    for device_id in devices:
        await ask(world, device_id)
    await end(world, view, one)
    assert [is_told(world, each) for each in devices] == [False, True, False]
    world.clock.advance(121)
    await world.tick()
    assert [is_told(world, each) for each in devices] == [False, True, True]
    await ask(world, three)
    await ask(world, two)
    second, third = await parts(world, view, [two, three])
    assert (second.hold, third.state) == (Hold.BUDGET, ActionState.OFFERED)


async def test_device_that_comes_uncalled_leaves_room_for_the_called(world: UpdateWorld) -> None:
    """Waiting is not in vain: the place is kept for a while."""
    await at_site(world, 3)
    view = await begun(world, plan(disruption=SITE))
    one, two, three = devices = await in_line(world, view)
    for device_id in devices[:2]:
        await ask(world, device_id)
    await end(world, view, one)
    await ask(world, three)
    assert (await part_of(world, view, three)).hold is Hold.BUDGET
    await ask(world, two)
    assert (await part_of(world, view, two)).state is ActionState.OFFERED


async def test_waiting_in_a_paused_rollout_holds_up_no_other(world: UpdateWorld) -> None:
    """Its turn comes when it runs again."""
    await at_site(world, 2)
    view = await begun(world, plan(disruption=SITE))
    one, two = await in_line(world, view)
    for device_id in (one, two):
        await ask(world, device_id)
    await world.rollouts.pause(RELEASER, view.stored.rollout.rollout_id)
    await end(world, view, one)
    assert (await part_of(world, view, two)).hold is Hold.BUDGET
    await world.rollouts.resume(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    assert is_told(world, two)


async def test_budget_holds_although_the_release_is_forced(world: UpdateWorld) -> None:
    """Forced is about windows and deferral."""
    await at_site(world, 2)
    view = await begun(world, plan(disruption=SITE, forced=True))
    devices = await in_line(world, view)
    for device_id in devices:
        await ask(world, device_id)
    assert [action.hold for action in await parts(world, view, devices)] == [None, Hold.BUDGET]


async def test_place_whose_update_another_version_ended_is_free(world: UpdateWorld) -> None:
    """That kept no places, so its row is left behind: it holds up nobody."""
    busy, waiting = await at_site(world, 2)
    view = await begun(world, plan(disruption=SITE))
    await ask(world, busy)
    async with world.database.engine.begin() as connection:
        gone = update(actions).where(actions.c.device_id == busy)
        await connection.execute(gone.values(state=ActionState.CONFIRMED, due_at=None))
    await ask(world, waiting)
    assert (await part_of(world, view, waiting)).state is ActionState.OFFERED


async def test_processes_that_offer_at_once_keep_the_budget(world: UpdateWorld) -> None:
    """Six devices of a site ask three directors at the same time, for two rollouts: two get it, over both."""
    devices = await at_site(world, 6)
    two = Disruption(group_by="site", max_unavailable=2)
    first = await begun(world, plan(disruption=two), "first")
    for device_id in devices[3:]:
        await end(world, first, device_id)
    second = await begun(world, plan(disruption=two), "second")
    ports = {"clock": world.clock, "entropy": world.entropy}
    directors = [Director(world.unit_of_work, signer=world.metadata, **ports) for _ in range(3)]  # type: ignore[arg-type]  # both ports by name
    await asyncio.gather(*(directors[n % 3].timestamp(device_id) for n, device_id in enumerate(devices)))
    found = [*await world.actions(first), *await world.actions(second)]
    assert sum(each.action.state is ActionState.OFFERED for each in found) == 2
    await world.tick()
    for _ in range(6):
        told = [device_id for device_id in devices if is_told(world, device_id)]
        assert len(told) == 2
        for device_id in told:
            await ask(world, device_id)
            await end(world, second, device_id)
        if not any(is_told(world, device_id) for device_id in devices):
            break


async def test_device_whose_site_is_renamed_waits_where_it_belongs_now(world: UpdateWorld) -> None:
    """Who waits for a place of the old name is not forgotten there."""
    busy, waiting = await at_site(world, 2)
    view = await begun(world, plan(disruption=Disruption(group_by="site")))
    await ask(world, busy)
    await ask(world, waiting)
    for device_id in (busy, waiting):
        await give(world, device_id, {"site": "quay"})
    await world.tick()
    await ask(world, waiting)
    assert (await part_of(world, view, waiting)).place == "site=quay"
    await end(world, view, busy)
    await world.tick()
    assert is_told(world, waiting)


async def test_device_that_is_renamed_while_at_work_frees_where_it_began(world: UpdateWorld) -> None:
    """Not before it has ended, and then at once; until then it is at work where it has come to as well."""
    busy, waiting = await at_site(world, 2)
    newcomer = (await at_site(world, 1, site="quay"))[0]
    view = await begun(world, plan(disruption=SITE))
    await ask(world, busy)
    await ask(world, waiting)
    await give(world, busy, {"site": "quay"})
    await world.tick()
    await ask(world, newcomer)
    assert [action.hold for action in await parts(world, view, [waiting, newcomer])] == [Hold.BUDGET] * 2
    assert not is_told(world, waiting)
    await end(world, view, busy)
    assert is_told(world, waiting)
    assert is_told(world, newcomer)


async def test_device_that_loses_its_site_waits_for_nobody(world: UpdateWorld) -> None:
    """It is called, and may begin beside those of the site that it was of."""
    busy, waiting = await at_site(world, 2)
    view = await begun(world, plan(disruption=SITE))
    await ask(world, busy)
    await ask(world, waiting)
    await give(world, waiting, {})
    await world.tick()
    assert is_told(world, waiting)
    await ask(world, waiting)
    assert [action.state for action in await parts(world, view, [busy, waiting])] == [ActionState.OFFERED] * 2
