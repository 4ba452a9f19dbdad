"""A quarantined device is brought what its group runs, by rollouts that run and by those that have finished."""

from dataclasses import replace

from protocol.geometry import Slot
from protocol.identity import Access
from protocol.messages import ActionState
from service.application.events import Event, EventType
from service.application.rollouts import RolloutView
from service.application.update_repositories import MetadataRole
from service.domain.action import Action
from service.domain.membership import StagePlan
from service.domain.rollout import RolloutState
from service.domain.verdict import Decision
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

EVERYONE = (StagePlan(percent=100),)
STRANGE = {Slot.A7_APPLICATION: "66" * 32}


async def set_access(world: UpdateWorld, device_id: str, access: Access, *, strange: bool = True) -> None:
    """What attestation does to a device whose images are unknown, or known again."""
    now = world.clock.now()
    async with world.unit_of_work() as work:
        device = replace((await work.devices.get(device_id)), access=access)
        await work.devices.save_attested([device])
        if strange and access is Access.UPDATE_ONLY:
            await work.installed.put(device_id, STRANGE, at=now)
        work.record(Event(EventType.DEVICE, device_id, "quarantined", now, {"state": device.state}))
        await work.commit()
    await world.tick()


async def finished(world: UpdateWorld, release: str) -> RolloutView:
    rollout = await world.roll_out(release, EVERYONE)
    await world.tick()
    await world.confirm_all(rollout)
    await world.tick()
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED
    return view


async def unfinished(world: UpdateWorld, device_id: str) -> list[Action]:
    async with world.unit_of_work(read_only=True) as work:
        return list(await work.actions.unfinished([device_id]))


def waiting(world: UpdateWorld, device_id: str) -> str | None:
    return world.poll.reply(device_id, fleet_size=1).action_id


async def test_running_rollout_takes_a_quarantined_device_in(world: UpdateWorld) -> None:
    """It counts like every other device of the group."""
    device = await world.add_device()
    await set_access(world, device, Access.UPDATE_ONLY)
    await world.release("first")
    rollout = await world.roll_out("first", EVERYONE)
    await world.tick()
    (action,) = await unfinished(world, device)
    assert (action.heals, waiting(world, device)) == (False, action.action_id)
    await world.confirm_all(rollout)
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED


async def test_release_that_a_later_one_took_all_devices_from_heals_nobody(world: UpdateWorld) -> None:
    """Its rollout ends and says that nobody has it: its group has passed nothing, whatever becomes of the later."""
    device = (await world.add_devices(2))[0]
    await world.release("first")
    await world.release("second")
    first = await world.roll_out("first", EVERYONE)
    await world.tick()
    second = await world.roll_out("second", EVERYONE)
    await world.tick()
    view = await world.rollouts.get(first.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.ABORTED
    _, explanation = await world.rollouts.explain(first.stored.rollout.rollout_id)
    last = explanation.decisions[-1].stored.verdict
    assert last.decision is Decision.ENDED_EMPTY
    assert "nobody is left to have it: 2 devices superseded by a later rollout" in last.reason
    await world.rollouts.abort(RELEASER, second.stored.rollout.rollout_id)
    await world.tick()
    await set_access(world, device, Access.UPDATE_ONLY)
    assert await unfinished(world, device) == []


async def test_device_heals_by_the_release_that_its_group_has_finished(world: UpdateWorld) -> None:
    """It is offered, signed for, and taken once more; the finished rollout's counts stay as they were."""
    device, other = await world.add_devices(2)
    await world.release("first")
    before = await finished(world, "first")
    await set_access(world, device, Access.UPDATE_ONLY)
    (action,) = await unfinished(world, device)
    assert (action.heals, action.state, waiting(world, device)) == (True, ActionState.SCHEDULED, action.action_id)
    assert waiting(world, other) is None
    await world.director.timestamp(device)
    targets = await world.director.file(device, MetadataRole.TARGETS)
    assert action.action_id.encode() in targets
    await world.tick()
    (offered,) = await unfinished(world, device)
    assert offered.state is ActionState.OFFERED
    digests = before.release.digests
    for sequence, state in enumerate((ActionState.INSTALLING, ActionState.TRIAL, ActionState.CONFIRMED)):
        await world.report(device, action.action_id, state, sequence=sequence, digests=digests)
    await world.tick()
    assert (await unfinished(world, device), waiting(world, device)) == ([], None)
    after = await world.rollouts.get(before.stored.rollout.rollout_id)
    assert after.stored.rollout.stages == before.stored.rollout.stages
    assert after.stored.rollout.state is RolloutState.FINISHED


async def test_device_that_runs_what_its_group_runs_is_offered_nothing(world: UpdateWorld) -> None:
    """Its unknown image is in a slot that no rollout changed."""
    device = await world.add_device()
    await world.release("first", [Slot.M4_0_FIRMWARE])
    await finished(world, "first")
    await set_access(world, device, Access.UPDATE_ONLY)
    assert await unfinished(world, device) == []


async def test_device_is_never_sent_back_to_a_release_that_a_newer_one_replaced(world: UpdateWorld) -> None:
    """Of two that change the same slot the newer heals; a release of another slot heals beside it."""
    device = await world.add_device()
    await world.release("old", [Slot.A7_APPLICATION])
    await finished(world, "old")
    await world.release("firmware", [Slot.M4_0_FIRMWARE])
    firmware = await finished(world, "firmware")
    await world.release("new", [Slot.A7_APPLICATION])
    new = await finished(world, "new")
    async with world.unit_of_work() as work:
        await work.installed.put(device, {Slot.M4_0_FIRMWARE: "77" * 32}, at=world.clock.now())
        await work.commit()
    await set_access(world, device, Access.UPDATE_ONLY)
    expected = [view.stored.rollout.rollout_id for view in (firmware, new)]
    assert [action.rollout_id for action in await unfinished(world, device)] == expected


async def test_healing_waits_for_a_device_that_is_away_and_ends_when_it_is_not_needed(world: UpdateWorld) -> None:
    """The deadline of a rollout that is over halts nothing; a device whose images became known keeps them."""
    device = await world.add_device()
    await world.release("first")
    await finished(world, "first")
    await set_access(world, device, Access.UPDATE_ONLY)
    world.clock.advance(3 * 86_400)
    await world.tick()
    (action,) = await unfinished(world, device)
    assert action.state is ActionState.SCHEDULED
    await set_access(world, device, Access.FULL)
    assert (await unfinished(world, device), waiting(world, device)) == ([], None)


async def test_device_heals_as_often_as_it_needs_to(world: UpdateWorld) -> None:
    """The same release heals it a second time."""
    device = await world.add_device()
    await world.release("first")
    view = await finished(world, "first")
    for _ in range(2):
        await set_access(world, device, Access.UPDATE_ONLY)
        (action,) = await unfinished(world, device)
        await world.report(device, action.action_id, ActionState.CONFIRMED, digests=view.release.digests)
        await set_access(world, device, Access.FULL)
    assert await unfinished(world, device) == []
