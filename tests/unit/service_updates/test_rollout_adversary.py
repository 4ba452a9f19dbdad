"""What a rollout must bear: devices that vanish, late answers, clocks that go back, rates below one a minute."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, Pace, Plan, PlanStage
from service.application.plans import conditions_of, stages_of
from service.domain.action import Action
from service.domain.membership import StageCut
from service.domain.pacing import LONGEST_BURST, Pacing
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import abort, pause, resume, start
from service.domain.rollout_counts import StageCounts
from service.domain.rollout_evaluation import evaluate, next_look
from service.domain.stage import StageState
from service.domain.verdict import Decision

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def running(plan: Plan, *sizes: int) -> Rollout:
    """A started rollout whose stages were planned with these sizes; the first is open, its devices wait."""
    draft = Rollout("r", "release", "group", conditions_of(plan), stages_of(plan))
    reached, cuts = 0, []
    for size in sizes:
        reached += size
        cuts.append(StageCut(reached, size, is_capped=False))
    started = start(draft, cuts, now=NOW)
    return opened(started, 0, sizes[0])


def opened(rollout: Rollout, index: int, size: int) -> Rollout:
    stage = replace(rollout.stages[index], is_open=True, counts=StageCounts(scheduled=size))
    return rollout.with_stage(stage)


def become(
    rollout: Rollout,
    states: list[ActionState],
    times: int = 1,
    *,
    index: int = 0,
    cause: Cause | None = None,
    offered: bool = True,
) -> Rollout:
    """Let some devices of a stage, which all wait, go through states one after the other."""
    for _ in range(times):
        before = Action("a", "r", "d", index, ActionState.SCHEDULED, NOW, NOW)
        for state in states:
            after = replace(before, state=state, offered=offered, cause=cause if state.is_failure else None)
            rollout = rollout.with_moved(before, after)
            before = after
    return rollout


def plan_of(*stages: PlanStage, **rest: object) -> Plan:
    return Plan.model_validate({"stages": stages, "gates": EvidenceGates(alpha=0.01, beta=0.05), **rest})


TWO = (PlanStage(count=10), PlanStage(percent=100))
GIVEN_AND_GONE = [ActionState.OFFERED, ActionState.CANCELLED]


def test_canaries_that_were_all_shut_out_let_nobody_else_in() -> None:
    """A release that gets its canaries blocked has shown nothing: a person is asked, who may say yes."""
    rollout = evaluate(become(running(plan_of(*TWO), 10, 990), GIVEN_AND_GONE, 10), NOW)
    assert (rollout.state, rollout.stages[1].state) == (RolloutState.PAUSED, StageState.WAITING)
    assert rollout.question.startswith("stage 1: 0 of 0 confirmed")
    assert resume(rollout, NOW).stages[1].state is StageState.RUNNING


def test_canary_that_was_shut_out_after_it_was_given_the_release_has_not_confirmed() -> None:
    """Nine confirm, one is blocked in between: not all have shown what they must."""
    rollout = become(running(plan_of(*TWO), 10, 990), [ActionState.CONFIRMED], 9)
    assert evaluate(become(rollout, GIVEN_AND_GONE), NOW).state is RolloutState.PAUSED
    left = become(rollout, [ActionState.CANCELLED], offered=False)
    assert evaluate(left, NOW).stages[0].state is StageState.PASSED


def test_canaries_that_left_before_they_were_given_it_show_nothing() -> None:
    """All of them moved to another group: the next stage does not open unseen."""
    rollout = become(running(plan_of(*TWO), 10, 990), [ActionState.CANCELLED], 10, offered=False)
    assert evaluate(rollout, NOW).stages[1].state is StageState.WAITING
    assert evaluate(rollout, NOW).state is RolloutState.PAUSED


def test_last_stage_may_be_left_by_all() -> None:
    """Nobody would be exposed by its passing, so the rollout ends; nobody has its release: it has not finished."""
    rollout = become(running(plan_of(PlanStage(percent=100)), 10), [ActionState.CANCELLED], 10, offered=False)
    ended = evaluate(rollout, NOW)
    assert (ended.state, ended.halted_reason) == (RolloutState.ABORTED, "")
    assert ended.verdicts[-1].decision is Decision.ENDED_EMPTY
    assert "10 devices superseded by a later rollout, moved or shut out" in ended.verdicts[-1].reason


def test_withdrawn_devices_hold_a_large_stage_and_halt_nothing() -> None:
    """What they would have said is unknown: neither test may take it for what it wants to see."""
    rollout = become(running(plan_of(PlanStage(percent=10), PlanStage(percent=100)), 200, 1800), GIVEN_AND_GONE, 30)
    rollout = evaluate(become(rollout, [ActionState.CONFIRMED], 170), NOW)
    assert (rollout.state, rollout.stages[0].state) == (RolloutState.PAUSED, StageState.RUNNING)
    assert rollout.stages[0].counts.withdrawn == 30


def test_stage_does_not_become_small_by_devices_that_leave_it() -> None:
    """One revert among a hundred is no halt by rule, although half of the stage has moved away since."""
    rollout = become(running(plan_of(PlanStage(percent=100)), 100), [ActionState.OFFERED], 49)
    rollout = become(rollout, [ActionState.REVERTED], cause=Cause.HANG)
    rollout = become(rollout, [ActionState.CANCELLED], 50, offered=False)
    assert evaluate(rollout, NOW).state is RolloutState.RUNNING


def asked_and_joined() -> Rollout:
    """A stage asks; while the question stands, a device joins it."""
    rollout = become(running(plan_of(*TWO), 10, 990), [ActionState.CONFIRMED], 9)
    asked = evaluate(become(rollout, [ActionState.FAILED], cause=Cause.DOWNLOAD), NOW)
    newcomer = Action("n", "r", "n", 0, ActionState.SCHEDULED, NOW, NOW)
    return evaluate(asked.with_moved(None, newcomer), NOW)


def test_answer_is_kept_although_a_device_has_joined_since() -> None:
    """The person's yes is for the stage, and is not asked for again."""
    answered = resume(asked_and_joined(), NOW)
    assert answered.stages[0].is_approved
    assert [stage.state for stage in answered.stages] == [StageState.PASSED, StageState.RUNNING]


def test_answer_to_the_deadline_approves_no_stage() -> None:
    """A stage that got stuck while the deadline's question stood is asked about by itself."""
    plan = plan_of(*TWO, deadline=HOUR)
    rollout = become(running(plan, 10, 990), [ActionState.CONFIRMED], 9)
    asked = evaluate(rollout, NOW + HOUR)
    assert asked.question.startswith("deadline")
    stuck = evaluate(become(asked, [ActionState.FAILED], cause=Cause.DOWNLOAD), NOW + HOUR)
    resumed = resume(stuck, NOW + 2 * HOUR)
    assert (resumed.state, resumed.deadline_at) == (RolloutState.PAUSED, None)
    assert resumed.question.startswith("stage 1: 9 of 10")
    assert not resumed.stages[0].is_approved


def test_stage_that_got_stuck_during_a_pause_asks_when_it_runs_again() -> None:
    """Whoever resumes a rollout that asked nothing has answered nothing."""
    rollout = become(pause(running(plan_of(*TWO), 10, 990)), [ActionState.CONFIRMED], 9)
    rollout = evaluate(become(rollout, [ActionState.FAILED], cause=Cause.DOWNLOAD), NOW)
    assert (rollout.state, rollout.question) == (RolloutState.PAUSED, "")
    resumed = resume(rollout, NOW)
    assert (resumed.state, resumed.stages[1].state) == (RolloutState.PAUSED, StageState.WAITING)
    assert resumed.question.startswith("stage 1")


def test_resumed_after_its_deadline_it_runs() -> None:
    """Who lets it run on when its time is over has answered the deadline."""
    rollout = pause(running(plan_of(PlanStage(percent=100), deadline=HOUR), 100))
    resumed = resume(rollout, NOW + 2 * HOUR)
    assert (resumed.state, resumed.deadline_at) == (RolloutState.RUNNING, None)


def test_approved_stage_still_halts() -> None:
    """A person's yes stands in for what was not shown, not against what shows."""
    plan = plan_of(PlanStage(percent=50, soak=HOUR), PlanStage(percent=100))
    rollout = become(running(plan, 60, 60), [ActionState.CONFIRMED], 40)
    asked = evaluate(become(rollout, [ActionState.TIMED_OUT], 20, cause=Cause.SILENT), NOW)
    soaking = resume(asked, NOW)
    assert soaking.stages[0].state is StageState.SOAKING
    joined = soaking.with_stage(replace(soaking.stages[0], counts=replace(soaking.stages[0].counts, scheduled=10)))
    halted = evaluate(become(joined, [ActionState.REVERTED], 10, cause=Cause.HANG), NOW)
    assert halted.state is RolloutState.HALTED


def test_abort_of_a_halted_rollout_still_brings_its_devices_back() -> None:
    """The plan's word to roll back stands, although a person ended the rollout before the worker came to it."""
    rollout = become(running(plan_of(*TWO, roll_back=True), 10, 990), [ActionState.REVERTED], cause=Cause.BOOT)
    halted = evaluate(rollout, NOW)
    assert halted.is_to_be_undone
    assert abort(halted).is_to_be_undone
    assert not abort(running(plan_of(*TWO, roll_back=True), 10, 990)).is_to_be_undone


def test_rollout_does_not_end_while_a_stage_is_opened_again() -> None:
    """A newcomer that waits for the pace is not left behind."""
    rollout = become(running(plan_of(PlanStage(percent=100)), 10), [ActionState.CONFIRMED], 9)
    done = become(rollout, [ActionState.CONFIRMED])
    reopened = done.with_stage(replace(done.stages[0], is_open=False, state=StageState.PASSED))
    assert evaluate(reopened, NOW).state is RolloutState.RUNNING
    assert evaluate(reopened.with_stage(replace(reopened.stages[0], is_open=True)), NOW).state is RolloutState.FINISHED


def test_clock_that_went_back_does_not_stop_the_pace() -> None:
    """The pace was used up to tomorrow; back today, the next device comes after two minutes at the latest."""
    rollout = running(plan_of(PlanStage(percent=100), pace=Pace(per_minute=60)), 100)
    stage = replace(rollout.stages[0], is_open=False)
    back = evaluate(replace(rollout, paced_at=NOW + 24 * HOUR).with_stage(stage), NOW)
    look = next_look(back, NOW)
    assert look is not None
    assert look <= NOW + 2 * MINUTE
    assert back.allowed(NOW + 2 * MINUTE) >= 1


def test_slow_rate_lets_devices_in_all_the_same() -> None:
    """One device in five minutes: one at once, then one each five minutes, however seldom the worker looks."""
    pacing = Pacing(per_minute=0.2)
    since, let_in = pacing.first(NOW), []
    for step in range(16):
        now = NOW + step * MINUTE
        devices = pacing.allowed(confirmed=0, in_flight=0, since=since, now=now)
        since = pacing.used(devices, confirmed=0, since=since, now=now) if devices else since
        let_in += [step] * devices
    assert let_in == [0, 5, 10, 15]


def test_newcomers_are_lent_a_minute_and_no_more() -> None:
    """Ahead of the rate they are let in, others wait for them; a flood of them waits like everybody."""
    pacing, since, lent = Pacing(per_minute=6), NOW, 0
    while pacing.lends(in_flight=0, since=since, now=NOW):
        since, lent = pacing.used(1, confirmed=0, since=since, now=NOW), lent + 1
    assert lent == 6
    assert pacing.allowed(confirmed=0, in_flight=0, since=since, now=NOW + LONGEST_BURST) == 0
    assert pacing.allowed(confirmed=0, in_flight=0, since=since, now=NOW + LONGEST_BURST + 10 * MINUTE / 60) == 1
    assert not Pacing(concurrency=2).lends(in_flight=2, since=NOW, now=NOW)
