"""Disturbed rollouts on a real database: rollbacks of devices at work, returns, floods of newcomers, old rollouts."""

import pytest

from protocol.identity import device_id_of
from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, FailureGate, Pace, Plan, PlanStage
from protocol.signing import SoftwareSigner
from service.application.events import Event, EventType
from service.application.healing import heal
from service.application.rollouts import NewRollout, RolloutView
from service.domain.membership import StagePlan
from service.domain.rollout import Rollout, RolloutState
from tests.integration.service_updates.test_rollbacks import APP, STAGES, devices_of, given, release_with_way_back
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

EVERYONE = (StagePlan(percent=100),)


async def run_first(world: UpdateWorld, devices: list[str]) -> None:
    """Let devices run the first release, as their manifests would say."""
    first = await world.releases.get("first")
    async with world.unit_of_work() as work:
        for device in devices:
            await work.installed.put(device, first.digests, at=world.clock.now())
        await work.commit()


async def state_of(world: UpdateWorld, rollout: RolloutView) -> RolloutState:
    return (await world.rollouts.get(rollout.stored.rollout.rollout_id)).stored.rollout.state


async def begin(world: UpdateWorld, rollout: RolloutView) -> list[str]:
    """Let every device that waits be given the release and begin with it."""
    devices = await given(world, rollout)
    for numbered in await world.actions(rollout):
        action = numbered.action
        if action.device_id in devices:
            await world.report(action.device_id, action.action_id, ActionState.DOWNLOADING, sequence=1)
    return devices


async def test_device_at_the_update_goes_back_once_it_has_ended(world: UpdateWorld) -> None:
    """It still runs what the way back brings, but not for long: it is not taken for brought back already."""
    devices = await world.add_devices(2)
    await release_with_way_back(world)
    await run_first(world, devices)
    rollout = await world.roll_out("second", EVERYONE)
    await world.tick()
    await begin(world, rollout)
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert {n.action.state for n in await world.actions(undoing)} == {ActionState.SCHEDULED}
    await world.confirm_all(rollout)
    await given(world, undoing)
    assert {n.action.state for n in await world.actions(undoing)} == {ActionState.OFFERED}


async def test_device_that_has_reverted_is_back_already(world: UpdateWorld) -> None:
    """It has ended the update and runs what the way back brings."""
    devices = await world.add_devices(2)
    await release_with_way_back(world)
    await run_first(world, devices)
    rollout = await world.roll_out("second", EVERYONE)
    await world.tick()
    await given(world, rollout)
    digests = (await world.releases.get("first")).digests
    for n in await world.actions(rollout):
        reverted = {"cause": Cause.HANG, "digests": digests}
        await world.report(n.action.device_id, n.action.action_id, ActionState.REVERTED, **reverted)  # type: ignore[arg-type]
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert {n.action.state for n in await world.actions(undoing)} == {ActionState.CONFIRMED}
    assert await state_of(world, undoing) is RolloutState.FINISHED


async def test_exposed_device_that_was_away_is_taken_into_the_rollback(world: UpdateWorld) -> None:
    """It was in another group when the rollback began, and has the release: back in its group it goes back, too."""
    await world.add_devices(3)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", EVERYONE)
    await world.tick()
    away, *_ = await given(world, rollout)
    await world.confirm_all(rollout)
    await move(world, away, "Development")
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert away not in await devices_of(world, undoing)
    await move(world, away, "Production")
    await world.tick()
    assert away in await devices_of(world, undoing)


async def move(world: UpdateWorld, device_id: str, group: str) -> None:
    """Move an active device, with its event."""
    now = world.clock.now()
    async with world.unit_of_work() as work:
        device = await work.devices.get(device_id)
        moved = device.move((await work.products.get_group(group)).group_id)
        await work.devices.save(moved, replaces_version=device.version)
        certified = moved.certify("02", evidence=b"t", key_sha256="00", not_after=now, at=now)
        await work.devices.save_attested([certified])
        work.record(Event(EventType.DEVICE, device_id, "moved", now))
        await work.commit()


async def test_older_rollout_leaves_a_device_to_a_newer_one(world: UpdateWorld) -> None:
    """The newer release is on the device when the older rollout comes to it: no way down, and no failure to count."""
    await world.add_devices(4)
    await world.release("old")
    await world.release("new")
    old = await world.roll_out("old", STAGES)
    await world.tick()
    new = await world.roll_out("new", EVERYONE)
    await world.tick()
    await given(world, new)
    await world.confirm_all(new)
    await world.confirm_all(old)
    await world.tick()
    new_devices = await devices_of(world, new)
    late = [n.action for n in await world.actions(old) if n.action.stage_index == 1]
    assert {action.device_id for action in late} <= new_devices
    assert {action.state for action in late} <= {ActionState.CANCELLED}


async def test_canary_that_was_blocked_after_it_was_given_the_release_stops_the_rollout(world: UpdateWorld) -> None:
    """The only canary is gone without a word: the rollout asks, and says what it knows."""
    await world.add_devices(3)
    await world.release("first")
    plan = Plan(stages=(PlanStage(count=1), PlanStage(percent=100)), gates=EvidenceGates())
    rollout = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, plan), start_now=True)
    await world.tick()
    (canary,) = await given(world, rollout)
    await world.change_device(canary, "blocked")
    await world.tick()
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.PAUSED
    assert view.stored.rollout.question.startswith("stage 1: 0 of 0 confirmed")
    await world.rollouts.resume(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert len(await world.actions(rollout)) == 3


def newcomers(rollout: Rollout, *, of_first_stage: int, of_others: int) -> list[SoftwareSigner]:
    """Keys of devices that a rollout's order puts before and after where its first stage has come to."""
    found: dict[bool, list[SoftwareSigner]] = {True: [], False: []}
    while len(found[True]) < of_first_stage or len(found[False]) < of_others:
        signer = SoftwareSigner.generate()
        position = rollout.order.position(device_id_of(signer.public_key))
        found[position <= rollout.stages[0].threshold].append(signer)
    return [*found[True][:of_first_stage], *found[False][:of_others]]


@pytest.mark.parametrize("pace", [Pace(per_minute=2), Pace(concurrency=2)])
async def test_flood_of_newcomers_waits_like_everybody(world: UpdateWorld, pace: Pace) -> None:
    """Devices join while others wait: nobody is forgotten, and the pace is kept but for a minute's worth."""
    await world.add_devices(12)
    await world.release("first")
    # Four of the first stage join: that they all succeed, beside those that wait, is evidence enough.
    gates = EvidenceGates(failures=(FailureGate(worst=0.3),))
    plan = Plan(stages=(PlanStage(percent=50), PlanStage(percent=100)), pace=pace, gates=gates)
    rollout = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, plan), start_now=True)
    rollout_id = rollout.stored.rollout.rollout_id
    await world.tick()
    begun = (await world.rollouts.get(rollout_id)).stored.rollout
    before, joining = len(await world.actions(rollout)), newcomers(begun, of_first_stage=4, of_others=6)
    for signer in joining:
        await world.add_device(signer=signer)
    await world.tick()
    assert len(await world.actions(rollout)) - before <= 3
    for _ in range(30 + 2 * len(joining)):
        if await state_of(world, rollout) is RolloutState.FINISHED:
            break
        await given(world, rollout)
        await world.confirm_all(rollout)
        world.clock.advance(30)
        await world.tick()
    assert await state_of(world, rollout) is RolloutState.FINISHED
    assert len(await world.actions(rollout)) == 12 + len(joining)


async def test_rolled_back_release_heals_nobody(world: UpdateWorld) -> None:
    """What was taken back from the group is not brought to a quarantined device."""
    await world.add_devices(2)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", EVERYONE)
    await world.tick()
    await given(world, rollout)
    await world.confirm_all(rollout)
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    assert await state_of(world, rollout) is RolloutState.FINISHED
    await world.rollouts.pause(RELEASER, undoing.stored.rollout.rollout_id)
    other = await world.add_device()
    async with world.unit_of_work() as work:
        await heal(work, await work.devices.get(other), now=world.clock.now(), entropy=world.entropy)
        await work.commit()
        assert await work.actions.unfinished([other]) == []
    assert APP in rollout.release.digests
