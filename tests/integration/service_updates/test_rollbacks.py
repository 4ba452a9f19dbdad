"""Rolling back: exactly those who took the release go back, by the way back that was signed with it."""

import pytest

from protocol.document import canonical_json
from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState, Cause
from protocol.plan import EvidenceGates, Plan, PlanStage
from protocol.updates import ReleaseDocument, release_target_name
from service.application.events import Event, EventType
from service.application.rollbacks import NoWayBackError
from service.application.rollouts import NewRollout, RolloutView
from service.domain.membership import StagePlan
from service.domain.rollout import RolloutState, RolloutStateError
from service.domain.verdict import Decision
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld, add_target

APP = Slot.A7_APPLICATION
STAGES = (StagePlan(percent=50), StagePlan(percent=100))
CAREFUL = Plan(
    name="careful",
    stages=(PlanStage(percent=50), PlanStage(percent=100)),
    gates=EvidenceGates(),
    roll_back=True,
)


async def release_with_way_back(world: UpdateWorld) -> None:
    """Version 2 is in force; version 3 comes with its way back to it."""
    await world.hand_over(await world.prepare("first", {APP: world.package("app@2.0.0")}))
    upload = await world.prepare("second", {APP: world.package("app@3.0.0")})
    digest = ReleaseDocument.model_validate_json(upload.contents[upload.release_target]).images[APP].sha256
    first = await world.releases.get("first")
    back = ReleaseDocument(
        name="second-back", counter=3, images=first.images, goes_back={APP: (digest,)}, way_back_of="second"
    )
    target = release_target_name(back.counter, back.name)
    add_target(upload, target, canonical_json(back))
    for content in upload.contents.values():
        await world.take(content)
    await world.releases.create(
        RELEASER,
        name="second",
        unverified={"targets": world.sign(upload)},
        release_target=upload.release_target,
        way_back_target=target,
    )


async def given(world: UpdateWorld, rollout: RolloutView) -> list[str]:
    """Let every device that waits be given the release; return them."""
    waiting = [n.action for n in await world.actions(rollout) if n.action.due_at is not None]
    for action in waiting:
        await world.director.timestamp(action.device_id)
    return [action.device_id for action in waiting]


async def devices_of(world: UpdateWorld, rollout: RolloutView) -> set[str]:
    return {n.action.device_id for n in await world.actions(rollout)}


async def test_exactly_those_who_took_it_go_back(world: UpdateWorld) -> None:
    """Half of the group took it; the rollback is for them, and the rollout offers nothing any more."""
    await world.add_devices(6)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", STAGES)
    await world.tick()
    took = set(await given(world, rollout))
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert undoing.release.name == "second-back"
    assert undoing.stored.rollout.undoes == rollout.stored.rollout.rollout_id
    undone = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert undone.stored.rollout.state is RolloutState.ABORTED
    await world.confirm_all(rollout)  # what had begun ends first
    await world.tick()
    assert await devices_of(world, undoing) == took
    assert len(took) == 3
    await world.confirm_all(undoing)
    again = await world.rollouts.get(undoing.stored.rollout.rollout_id)
    assert again.stored.rollout.state is RolloutState.FINISHED


async def test_asked_twice_it_is_one_rollback(world: UpdateWorld) -> None:
    """The same step again returns what the first one started, and the audit log has it once, with who asked."""
    await world.add_devices(2)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", STAGES)
    await world.tick()
    await given(world, rollout)
    first = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    second = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    assert first.stored.rollout.rollout_id == second.stored.rollout.rollout_id
    async with world.unit_of_work(read_only=True) as work:
        entries = [entry for entry in await work.audit.page(before_id=None, limit=50) if entry.actor == RELEASER.name]
    asked = [entry.change.subject_id for entry in entries if entry.change.action == "rollout.roll-back"]
    assert asked == [rollout.stored.rollout.rollout_id]


async def rollback_of_a_blocked_device(world: UpdateWorld) -> tuple[RolloutView, RolloutView]:
    """Return a rollout and its rollback, whose only device was blocked before it was brought back, and is no more."""
    device = await world.add_device()
    await release_with_way_back(world)
    rollout = await world.roll_out("second", (StagePlan(percent=100),))
    await world.tick()
    await given(world, rollout)
    await world.confirm_all(rollout)
    await world.tick()
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    await world.change_device(device, "blocked")
    await world.tick()
    ended = (await world.rollouts.get(undoing.stored.rollout.rollout_id)).stored.rollout
    assert (ended.state, ended.has_ended_empty) == (RolloutState.ABORTED, True)
    async with world.unit_of_work() as work:
        blocked = await work.devices.get(device)
        await work.devices.save(blocked.unblock(), replaces_version=blocked.version)
        work.record(Event(EventType.DEVICE, device, "released", world.clock.now()))
        await work.commit()
    await world.tick()
    return rollout, undoing


async def comes_back_by(world: UpdateWorld, undoing: RolloutView) -> None:
    """Let what waits by a rollback be confirmed: it has finished then."""
    await world.tick()
    await given(world, undoing)
    (action,) = [each.action for each in await world.actions(undoing)]
    report = ActionReport(
        action_id=action.action_id,
        attempt=action.attempt,
        sequence=9,
        state=ActionState.CONFIRMED,
        digests=undoing.release.digests,
    )
    await world.reports.report(action.device_id, report)
    await world.tick()
    view = await world.rollouts.get(undoing.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED


async def test_rollback_that_ended_with_nobody_left_is_started_anew(world: UpdateWorld) -> None:
    """Its device was shut out for a moment; asked twice then, it is one again."""
    rollout, undoing = await rollback_of_a_blocked_device(world)
    anew = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    assert anew.stored.rollout.rollout_id != undoing.stored.rollout.rollout_id
    same = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    assert same.stored.rollout.rollout_id == anew.stored.rollout.rollout_id
    await comes_back_by(world, anew)


async def test_retry_takes_in_again_who_was_shut_out_of_a_rollout_that_ended_so(world: UpdateWorld) -> None:
    """The rollout runs on, as one that has finished does; asked for its rollback, the rollout it undoes names it."""
    rollout, undoing = await rollback_of_a_blocked_device(world)
    await world.rollouts.retry(RELEASER, undoing.stored.rollout.rollout_id)
    await comes_back_by(world, undoing)
    same = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    assert same.stored.rollout.rollout_id == undoing.stored.rollout.rollout_id


async def test_retry_of_a_rollout_without_anybody_ends_it_once_more(world: UpdateWorld) -> None:
    """Its devices are a later rollout's: nothing is taken from that, and the first has still passed nothing."""
    await world.add_devices(2)
    await world.release("older")
    await world.release("newer")
    older = await world.roll_out("older", (StagePlan(percent=100),))
    await world.tick()
    newer = await world.roll_out("newer", (StagePlan(percent=100),))
    await world.tick()
    again = await world.rollouts.retry(RELEASER, older.stored.rollout.rollout_id)
    assert again.stored.rollout.state is RolloutState.RUNNING
    await world.tick()
    view = await world.rollouts.get(older.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.ABORTED
    assert len(await given(world, newer)) == 2


async def test_newcomer_is_not_taken_into_a_rollback(world: UpdateWorld) -> None:
    """A device that joins the group never had the release."""
    await world.add_devices(2)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", STAGES)
    await world.tick()
    await given(world, rollout)
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    newcomer = await world.add_device()
    await world.tick()
    assert newcomer not in await devices_of(world, undoing)


async def test_plan_rolls_back_after_a_halt_by_itself(world: UpdateWorld) -> None:
    """The plan's word: a canary reverts, the rollout halts, those who took it go back; the decisions say so."""
    await world.add_devices(6)
    await release_with_way_back(world)
    rollout = await world.rollouts.create(RELEASER, NewRollout("second", "Production", None, CAREFUL), start_now=True)
    await world.tick()
    took = await given(world, rollout)
    (first, *_) = [n.action for n in await world.actions(rollout) if n.action.device_id == took[0]]
    await world.report(first.device_id, first.action_id, ActionState.REVERTED, cause=Cause.GOLDEN_VECTORS)
    await world.tick()
    rollout_id = rollout.stored.rollout.rollout_id
    verdicts = [stored.verdict for stored in await world.rollouts.verdicts(rollout_id, after_number=0, limit=50)]
    assert [verdict.decision for verdict in verdicts] == [Decision.OPENED, Decision.HALTED, Decision.ROLLED_BACK]
    (page, *_) = await world.rollouts.page(before_number=None, limit=1)
    assert page.stored.rollout.undoes == rollout_id
    await world.tick()
    assert await devices_of(world, page) == set(took)


async def test_halt_without_a_way_back_stays_a_halt(world: UpdateWorld) -> None:
    """The plan asks for what was never signed: it is said once, and the worker does not try for ever."""
    await world.add_devices(3)
    await world.release("lonely")
    rollout = await world.rollouts.create(RELEASER, NewRollout("lonely", "Production", None, CAREFUL), start_now=True)
    await world.tick()
    (device, *_) = await given(world, rollout)
    (action,) = [n.action for n in await world.actions(rollout) if n.action.device_id == device]
    await world.report(device, action.action_id, ActionState.REVERTED, cause=Cause.BOOT)
    await world.tick()
    await world.tick()
    rollout_id = rollout.stored.rollout.rollout_id
    verdicts = [stored.verdict for stored in await world.rollouts.verdicts(rollout_id, after_number=0, limit=50)]
    assert "not rolled back: release lonely: expected a way back" in verdicts[-1].reason
    assert [verdict.decision for verdict in verdicts].count(Decision.ROLLED_BACK) == 1
    view = await world.rollouts.get(rollout_id)
    assert view.stored.rollout.state is RolloutState.HALTED


async def test_nothing_is_rolled_back_without_a_way_or_a_start(world: UpdateWorld) -> None:
    """Neither a draft, nor a release without a way back; and nothing has changed then."""
    await world.add_devices(2)
    await world.release("lonely")
    new = NewRollout("lonely", "Production", None, CAREFUL)
    draft = await world.rollouts.create(RELEASER, new, start_now=False)
    with pytest.raises(RolloutStateError, match="expected one that was started, found a draft"):
        await world.rollouts.roll_back(RELEASER, draft.stored.rollout.rollout_id)
    started = await world.rollouts.start(RELEASER, draft.stored.rollout.rollout_id)
    with pytest.raises(NoWayBackError, match="release lonely: expected a way back that was signed with it"):
        await world.rollouts.roll_back(RELEASER, started.stored.rollout.rollout_id)
    assert (await world.rollouts.get(draft.stored.rollout.rollout_id)).stored.rollout.state is RolloutState.RUNNING
