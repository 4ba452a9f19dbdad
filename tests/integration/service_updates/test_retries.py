"""Devices that failed are given the release again: by the plan, or because an operator asks; on a real database."""

from datetime import timedelta

import pytest

from protocol.messages import ActionReport, ActionState, Cause
from protocol.plan import EvidenceGates, FailureGate, Pace, Plan, PlanStage, Retries, ThresholdGates
from service.application.poll import PendingActions
from service.application.rollouts import NewRollout, RolloutView
from service.domain.action import Action
from service.domain.membership import StagePlan
from service.domain.rollout import Rollout, RolloutState, RolloutStateError
from service.domain.rollout_counts import Fate, Trace
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

PAUSE = timedelta(hours=1)
FORGIVING = FailureGate(acceptable=0.98, worst=0.99)
EVERYONE = (PlanStage(percent=100),)
DOWNLOAD = frozenset({Cause.DOWNLOAD})


def plan_of(*stages: PlanStage, **more: object) -> Plan:
    """A plan whose gate leaves single failures alone."""
    gates = EvidenceGates(failures=(FORGIVING,), small_stage_rule=False)
    given: dict[str, object] = {"retries": Retries(most=2, pause=PAUSE), "gates": gates, **more}
    return Plan(stages=stages or EVERYONE, **given)


async def begun(world: UpdateWorld, plan: Plan, *, devices: int = 1) -> RolloutView:
    """Start a rollout whose first devices have their actions."""
    await world.add_devices(devices)
    await world.release("first")
    view = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, plan), start_now=True)
    await world.tick()
    return view


async def only(world: UpdateWorld, view: RolloutView) -> Action:
    (found,) = await world.actions(view)
    return found.action


async def told(
    world: UpdateWorld, action: Action, state: ActionState, cause: Cause | None = None, **more: object
) -> None:
    given: dict[str, object] = {"attempt": action.attempt, "sequence": 9, **more}
    report = ActionReport(action_id=action.action_id, state=state, cause=cause, **given)
    await world.reports.report(action.device_id, report)
    await world.tick()


async def fails(world: UpdateWorld, action: Action, cause: Cause = Cause.DOWNLOAD) -> None:
    await world.director.timestamp(action.device_id)
    await told(world, action, ActionState.FAILED, cause)


async def state_of(world: UpdateWorld, view: RolloutView) -> Rollout:
    return (await world.rollouts.get(view.stored.rollout.rollout_id)).stored.rollout


async def test_failed_download_is_tried_again_after_its_pause(world: UpdateWorld) -> None:
    """The same action, a new attempt: not before the pause, then signed for anew; its success completes the stage."""
    view = await begun(world, plan_of())
    first = await only(world, view)
    await fails(world, first)
    waiting = await only(world, view)
    assert (waiting.action_id, waiting.attempt, waiting.state) == (first.action_id, 2, ActionState.SCHEDULED)
    assert world.pending.waiting(first.device_id) is None
    await world.director.timestamp(first.device_id)
    assert (await only(world, view)).state is ActionState.SCHEDULED
    world.clock.advance(PAUSE.total_seconds())
    await world.tick()
    reply = world.poll.reply(first.device_id, fleet_size=1)
    assert (reply.action_id, reply.attempt) == (first.action_id, 2)
    await world.director.timestamp(first.device_id)
    assert b'"attempt":2' in (await world.director.file(first.device_id, "targets")).replace(b" ", b"")
    again = await only(world, view)
    await told(world, again, ActionState.CONFIRMED, digests=view.release.digests)
    rollout = await state_of(world, view)
    assert rollout.state is RolloutState.FINISHED
    assert rollout.stages[0].counts.causes == {Trace(DOWNLOAD, Fate.CONFIRMED): 1}
    assert (rollout.stages[0].counts.exposed, rollout.stages[0].counts.proved) == (1, 1)


async def test_retries_are_bounded(world: UpdateWorld) -> None:
    """After the plan's number the device has failed for good, and each attempt's end is kept."""
    view = await begun(world, plan_of())
    for attempt in (1, 2, 3):
        action = await only(world, view)
        assert action.attempt == attempt
        await fails(world, action)
        world.clock.advance(PAUSE.total_seconds())
        await world.tick()
    last = await only(world, view)
    assert (last.state, last.attempt, [each.cause for each in last.past]) == (
        ActionState.FAILED,
        3,
        [Cause.DOWNLOAD] * 2,
    )
    counts = (await state_of(world, view)).stages[0].counts
    assert (counts.exposed, counts.failed, counts.causes) == (1, 1, {Trace(DOWNLOAD): 1})


@pytest.mark.parametrize("state", [ActionState.CONFIRMED, ActionState.FAILED, ActionState.DOWNLOADING])
async def test_late_report_of_an_earlier_attempt_changes_nothing(world: UpdateWorld, state: ActionState) -> None:
    """Neither the action nor what is known to run, whatever it says and however high its sequence is."""
    view = await begun(world, plan_of())
    first = await only(world, view)
    await fails(world, first)
    before = await only(world, view)
    digests = view.release.digests if state.is_final else {}
    await told(world, first, state, sequence=99, digests=digests)
    assert await only(world, view) == before
    async with world.unit_of_work(read_only=True) as work:
        assert await work.installed.of([first.device_id]) == {}


@pytest.mark.parametrize("cause", [Cause.BOOT, Cause.GOLDEN_VECTORS, Cause.FLASH])
async def test_cause_that_the_plan_does_not_name_is_final(world: UpdateWorld, cause: Cause) -> None:
    """An image that did not start does not start the next time."""
    view = await begun(world, plan_of())
    await fails(world, await only(world, view), cause)
    assert (await only(world, view)).state is ActionState.FAILED


async def test_silent_device_that_runs_the_release_is_confirmed_without_work(world: UpdateWorld) -> None:
    """It fell silent in the middle and installed all the same: the next attempt finds it done."""
    view = await begun(world, plan_of(device_timeout=timedelta(hours=2)))
    first = await only(world, view)
    await world.director.timestamp(first.device_id)
    world.clock.advance(7200)
    await world.tick()
    assert (await only(world, view)).past[0].cause is Cause.SILENT
    async with world.unit_of_work() as work:
        await work.installed.put(first.device_id, view.release.digests, at=world.clock.now())
        await work.commit()
    world.clock.advance(PAUSE.total_seconds())
    await world.tick()
    await world.director.timestamp(first.device_id)
    await world.tick()
    assert (await only(world, view)).state is ActionState.CONFIRMED
    assert (await state_of(world, view)).state is RolloutState.FINISHED


async def test_failure_counts_at_once_and_a_success_does_not_erase_it(world: UpdateWorld) -> None:
    """Evidence halts while the devices wait for their next attempt; what waits ends as it had ended."""
    view = await begun(world, plan_of(gates=EvidenceGates(small_stage_rule=False)), devices=6)
    for numbered in await world.actions(view):
        await fails(world, numbered.action)
    await world.tick()
    rollout = await state_of(world, view)
    assert rollout.state is RolloutState.HALTED
    found = [numbered.action for numbered in await world.actions(view)]
    assert {action.state for action in found} == {ActionState.FAILED, ActionState.CANCELLED}
    assert "not tried again: rollout halted" in found[0].detail
    assert (
        sum(stage.counts.causes.get(Trace(DOWNLOAD), 0) for stage in rollout.stages) == rollout.stages[0].counts.failed
    )


async def test_poll_cache_of_a_new_process_knows_the_attempt(world: UpdateWorld) -> None:
    """A restart in between changes nothing for the device."""
    view = await begun(world, plan_of(retries=Retries(most=1, pause=timedelta(0))))
    first = await only(world, view)
    await fails(world, first)
    fresh = PendingActions()
    await fresh.load(world.unit_of_work)
    entry = fresh.first(first.device_id)
    assert entry is not None
    assert (entry, entry.attempt) == (world.pending.first(first.device_id), 2)


async def test_operator_has_those_that_failed_try_again(world: UpdateWorld) -> None:
    """A finished rollout runs again for them alone and ends; a second request with nothing left changes nothing."""
    plan = plan_of(retries=None, gates=ThresholdGates(success_percent=50, error_percent=50, small_stage_rule=False))
    view = await begun(world, plan, devices=4)
    first, *others = [numbered.action for numbered in await world.actions(view)]
    await told(world, first, ActionState.REVERTED, Cause.HANG)
    for action in others:
        await told(world, action, ActionState.CONFIRMED, digests=view.release.digests)
    rollout_id = view.stored.rollout.rollout_id
    assert (await state_of(world, view)).state is RolloutState.FINISHED
    assert (await world.rollouts.retry(RELEASER, rollout_id)).stored.rollout.state is RolloutState.RUNNING
    await world.tick()
    states = {n.action.device_id: (n.action.state, n.action.attempt) for n in await world.actions(view)}
    assert states.pop(first.device_id) == (ActionState.SCHEDULED, 2)
    assert set(states.values()) == {(ActionState.CONFIRMED, 1)}
    assert await world.confirm_all(view) == 1
    await world.tick()
    assert (await state_of(world, view)).state is RolloutState.RUNNING  # the report was of the first attempt
    (again,) = [n.action for n in await world.actions(view) if n.action.due_at is not None]
    await told(world, again, ActionState.CONFIRMED, digests=view.release.digests)
    after = await world.rollouts.get(rollout_id)
    assert after.stored.rollout.state is RolloutState.FINISHED
    same = await world.rollouts.retry(RELEASER, rollout_id)
    assert same.stored == after.stored
    async with world.unit_of_work(read_only=True) as work:
        audited = [entry.change.action for entry in await work.audit.page(before_id=None, limit=50)]
    assert audited.count("rollout.retry") == 1


async def test_retry_keeps_to_the_pace_and_survives_a_restart(world: UpdateWorld) -> None:
    """Twelve failed, five a minute: another worker goes on where the first one stopped."""
    plan = plan_of(retries=None, pace=Pace(per_minute=5))
    view = await begun(world, plan, devices=12)
    for _ in range(4):
        for action in [n.action for n in await world.actions(view) if n.action.due_at is not None]:
            await told(world, action, ActionState.FAILED, Cause.DOWNLOAD)
        world.clock.advance(60)
        await world.tick()
    assert (await state_of(world, view)).state is RolloutState.PAUSED
    await world.rollouts.retry(RELEASER, view.stored.rollout.rollout_id)
    seen = []
    for worker in "abcd":
        world.clock.advance(61)
        await world.tick(worker)
        seen.append(sum(n.action.attempt == 2 for n in await world.actions(view)))
    assert seen[0] <= 6
    assert seen == sorted(seen)
    assert seen[-1] == 12
    assert (await state_of(world, view)).retry_cursor is None


async def test_question_of_a_stage_is_answered_by_trying_again(world: UpdateWorld) -> None:
    """Neither yes nor no: the next stage stays closed until the device has confirmed."""
    plan = plan_of(PlanStage(count=2), PlanStage(percent=100), retries=None)
    view = await begun(world, plan, devices=5)
    first, second = [numbered.action for numbered in await world.actions(view)]
    await told(world, first, ActionState.FAILED, Cause.FLASH)
    await told(world, second, ActionState.CONFIRMED, digests=view.release.digests)
    assert (await state_of(world, view)).question
    await world.rollouts.retry(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    rollout = await state_of(world, view)
    assert (rollout.state, rollout.question, len(await world.actions(view))) == (RolloutState.RUNNING, "", 2)
    (again,) = [n.action for n in await world.actions(view) if n.action.due_at is not None]
    await told(world, again, ActionState.CONFIRMED, digests=view.release.digests)
    assert len(await world.actions(view)) == 5


async def test_device_of_a_newer_rollout_or_shut_out_is_left_alone(world: UpdateWorld) -> None:
    """What is newer stands, and who is blocked takes nothing."""
    view = await begun(world, plan_of(retries=None), devices=3)
    for numbered in await world.actions(view):
        await told(world, numbered.action, ActionState.FAILED, Cause.DOWNLOAD)
    blocked, *others = [numbered.action.device_id for numbered in await world.actions(view)]
    await world.change_device(blocked, "blocked")
    await world.rollouts.retry(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    tried = {n.action.device_id for n in await world.actions(view) if n.action.attempt == 2}
    assert tried == set(others)
    await world.release("second")
    await world.roll_out("second", (StagePlan(percent=100),))
    await world.tick()
    assert all(numbered.action.state.is_final for numbered in await world.actions(view))
    await world.rollouts.retry(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    assert all(numbered.action.state is ActionState.FAILED for numbered in await world.actions(view))


async def test_halted_aborted_and_draft_refuse_a_retry(world: UpdateWorld) -> None:
    """With the reason; nothing leads back to running."""
    view = await begun(world, plan_of(retries=None, gates=ThresholdGates()), devices=2)
    rollout_id = view.stored.rollout.rollout_id
    await fails(world, next(n.action for n in await world.actions(view)))
    with pytest.raises(RolloutStateError, match=r"found halted \(stage 1: expected at most 0 %"):
        await world.rollouts.retry(RELEASER, rollout_id)
    await world.rollouts.abort(RELEASER, rollout_id)
    with pytest.raises(RolloutStateError, match="found aborted"):
        await world.rollouts.retry(RELEASER, rollout_id)
    new = NewRollout("first", "Production", None, plan_of())
    draft = await world.rollouts.create(RELEASER, new, start_now=False)
    with pytest.raises(RolloutStateError, match="found draft"):
        await world.rollouts.retry(RELEASER, draft.stored.rollout.rollout_id)
