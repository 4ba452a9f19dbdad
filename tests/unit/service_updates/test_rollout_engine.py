"""The rollout engine's decisions, one rule at a time."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState, Cause
from service.domain.action import Action, InvalidReportError, apply_report, cancel, offer, time_out
from service.domain.conditions import Conditions
from service.domain.deadline import at_deadline
from service.domain.listening import Listening, Outage
from service.domain.membership import InvalidPlanError, StageCut, StagePlan, check_plans, cut_stages
from service.domain.rollout import Rollout, RolloutState, RolloutStateError
from service.domain.rollout_commands import abort, pause, resume, start
from service.domain.rollout_evaluation import evaluate, next_look
from service.domain.stage import Stage, StageState
from tests.rollout_conditions import thresholds

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DIGESTS = {Slot.M4_0_MODEL: "a" * 64}
ACTION_ID = "00000000-0000-4000-8000-000000000001"


def rollout_of(sizes: Sequence[int], conditions: Conditions) -> Rollout:
    """A started rollout whose stages have the given sizes; the first one is open and its actions are scheduled."""
    stages = tuple(Stage(index) for index in range(len(sizes)))
    draft = Rollout("r", "release", "group", conditions, stages)
    cuts, reached = [], 0
    for size in sizes:
        reached += size
        cuts.append(StageCut(threshold=reached, planned=size, is_capped=False))
    return open_stage(start(draft, cuts, now=NOW), 0)


def open_stage(rollout: Rollout, index: int) -> Rollout:
    cut = rollout.stages[index].cut
    assert cut is not None
    for number in range(cut.planned):
        rollout = rollout.with_moved(None, action_of(index, f"{index}.{number}"))
    return rollout.with_stage(replace(rollout.stages[index], is_open=True))


def action_of(stage: int = 0, device: str = "0.0") -> Action:
    return Action(ACTION_ID, "r", device, stage, ActionState.SCHEDULED, NOW, NOW + HOUR)


def finish(rollout: Rollout, stage: int, state: ActionState, cause: Cause | None = None, times: int = 1) -> Rollout:
    for _ in range(times):
        before = action_of(stage)
        rollout = rollout.with_moved(before, replace(before, state=state, cause=cause, offered=True))
    return rollout


def report(state: ActionState, sequence: int, **fields: object) -> ActionReport:
    digests = DIGESTS if state is ActionState.CONFIRMED else {}
    values = {"action_id": ACTION_ID, "sequence": sequence, "state": state, "digests": digests, **fields}
    return ActionReport.model_validate(values)


def apply(action: Action, given: ActionReport) -> Action:
    return apply_report(action, given, DIGESTS, now=NOW, timeout=HOUR)


def test_stages_open_one_after_another_and_finish() -> None:
    """Each stage opens when the one before it has passed; the last one ends the rollout."""
    rollout = rollout_of([1, 2], thresholds())
    rollout = evaluate(finish(rollout, 0, ActionState.CONFIRMED), NOW)
    assert [s.state for s in rollout.stages] == [StageState.PASSED, StageState.RUNNING]
    assert next_look(rollout, NOW) == NOW
    rollout = evaluate(finish(open_stage(rollout, 1), 1, ActionState.CONFIRMED, times=2), NOW)
    assert rollout.state is RolloutState.FINISHED
    assert next_look(rollout, NOW) is None


def test_soak_holds_the_next_stage_until_its_end() -> None:
    """A stage that has its success is watched for the soak time, and the worker is called for its end."""
    rollout = evaluate(finish(rollout_of([1, 1], thresholds(soak=HOUR)), 0, ActionState.CONFIRMED), NOW)
    assert rollout.stages[0].state is StageState.SOAKING
    assert next_look(rollout, NOW) == NOW + HOUR
    assert evaluate(rollout, NOW + HOUR - timedelta(seconds=1)) == rollout
    assert evaluate(rollout, NOW + HOUR).stages[1].state is StageState.RUNNING


def test_failure_during_soak_halts() -> None:
    """A passed success does not protect a stage that fails while it soaks."""
    conditions = thresholds(success_percent=50, error_percent=30, soak=HOUR)
    rollout = evaluate(finish(rollout_of([2, 2], conditions), 0, ActionState.CONFIRMED), NOW)
    assert rollout.stages[0].state is StageState.SOAKING
    rollout = evaluate(finish(rollout, 0, ActionState.FAILED, Cause.DOWNLOAD), NOW)
    assert rollout.state is RolloutState.HALTED
    assert rollout.stages[1].state is StageState.WAITING


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (ActionState.REVERTED, Cause.HANG),
        (ActionState.FAILED, Cause.BOOT),
        (ActionState.FAILED, Cause.GOLDEN_VECTORS),
    ],
)
def test_small_stage_halts_at_the_first_failure_of_the_image(state: ActionState, cause: Cause) -> None:
    """Below 55 devices a revert, a failure to boot or of golden vectors halts, whatever the error condition."""
    rollout = rollout_of([54], thresholds(success_percent=10, error_percent=90, min_reports=54))
    rollout = evaluate(finish(rollout, 0, state, cause), NOW)
    assert rollout.state is RolloutState.HALTED
    assert "expected no revert" in rollout.halted_reason
    assert rollout.stages[0].reason == rollout.halted_reason


def test_large_stage_bears_failures_below_its_error_condition() -> None:
    """From 55 devices on the share decides: at the allowed share it runs on, above it halts."""
    rollout = rollout_of([100], thresholds(success_percent=95, error_percent=5))
    rollout = evaluate(finish(rollout, 0, ActionState.REVERTED, Cause.CRASH, times=5), NOW)
    assert rollout.state is RolloutState.RUNNING
    rollout = evaluate(finish(rollout, 0, ActionState.REVERTED, Cause.CRASH), NOW)
    assert "expected at most 5 % of 100 devices to fail, found 6" in rollout.halted_reason


def test_error_condition_waits_for_minimum_reports() -> None:
    """Too few results decide nothing; the minimum is met by successes too."""
    rollout = rollout_of([10], thresholds(success_percent=50, error_percent=10, min_reports=5))
    rollout = evaluate(finish(rollout, 0, ActionState.TIMED_OUT, Cause.SILENT, times=3), NOW)
    assert rollout.state is RolloutState.RUNNING
    rollout = evaluate(finish(rollout, 0, ActionState.CONFIRMED, times=2), NOW)
    assert rollout.state is RolloutState.HALTED


def test_stage_without_success_and_without_outstanding_result_halts() -> None:
    """Neither condition met and nobody left to hear: a person must decide."""
    rollout = rollout_of([10], thresholds(success_percent=100, error_percent=50))
    rollout = finish(rollout, 0, ActionState.CONFIRMED, times=9)
    rollout = evaluate(finish(rollout, 0, ActionState.FAILED, Cause.DOWNLOAD), NOW)
    assert "expected 100 % of 10 devices to confirm, found 9" in rollout.halted_reason


def test_partly_open_stage_counts_its_planned_devices() -> None:
    """While a stage is being opened its failure share is of the planned devices, so the batches' order is no matter."""
    rollout = rollout_of([100], thresholds(success_percent=90, error_percent=10))
    stage = replace(rollout.stages[0], is_open=False)
    rollout = rollout.with_stage(replace(stage, counts=replace(stage.counts, scheduled=2)))
    rollout = evaluate(finish(rollout, 0, ActionState.FAILED, Cause.BOOT, times=2), NOW)
    assert rollout.state is RolloutState.RUNNING


def test_empty_stage_passes_without_soak() -> None:
    """A stage that holds nobody is passed at once."""
    rollout = evaluate(rollout_of([0, 1], thresholds(soak=HOUR)), NOW)
    assert [s.state for s in rollout.stages] == [StageState.PASSED, StageState.RUNNING]


def test_paused_rollout_opens_nothing_but_halts() -> None:
    """A pause holds the next stage; failures still count."""
    rollout = pause(rollout_of([1, 1], thresholds()))
    passed = evaluate(finish(rollout, 0, ActionState.CONFIRMED), NOW)
    assert passed.stages[1].state is StageState.WAITING
    assert resume(passed, NOW).stages[1].state is StageState.RUNNING
    assert evaluate(finish(rollout, 0, ActionState.REVERTED), NOW).state is RolloutState.HALTED


def test_operator_steps_are_idempotent() -> None:
    """The same step twice changes nothing."""
    running = rollout_of([1], thresholds())
    assert start(running, [], now=NOW) is running
    assert resume(running, NOW) is running
    paused = pause(running)
    assert pause(paused) is paused
    aborted = abort(paused)
    assert abort(aborted) is aborted


@pytest.mark.parametrize("state", [RolloutState.HALTED, RolloutState.FINISHED, RolloutState.ABORTED])
def test_ended_rollout_never_runs_again(state: RolloutState) -> None:
    """Neither start, resume, pause nor the passage of time leads back to running."""
    ended = replace(rollout_of([1], thresholds()), state=state, halted_reason="why")
    with pytest.raises(RolloutStateError, match=rf"expected draft, found {state} \(why\)"):
        start(ended, [], now=NOW)
    with pytest.raises(RolloutStateError, match="expected paused"):
        resume(ended, NOW)
    with pytest.raises(RolloutStateError, match="expected running"):
        pause(ended)
    assert evaluate(finish(ended, 0, ActionState.CONFIRMED), NOW + HOUR).state is state


def test_ended_rollout_calls_the_worker_to_cancel_what_waits() -> None:
    """Scheduled actions of an ended rollout are cancelled in batches."""
    halted = abort(rollout_of([3], thresholds()))
    assert next_look(halted, NOW) == NOW
    assert next_look(finish(halted, 0, ActionState.CANCELLED, times=3), NOW) is None


def test_reports_twice_late_or_out_of_order_change_nothing() -> None:
    """States only advance; what is final stays."""
    trial = apply(action_of(), report(ActionState.TRIAL, 3))
    assert trial.state is ActionState.TRIAL
    assert apply(trial, report(ActionState.TRIAL, 3)) is trial
    assert apply(trial, report(ActionState.DOWNLOADING, 1)) is trial
    done = apply(trial, report(ActionState.CONFIRMED, 4))
    assert done.state is ActionState.CONFIRMED
    assert done.due_at is None
    assert apply(done, report(ActionState.REVERTED, 5)) is done


def test_report_with_an_older_sequence_does_not_advance() -> None:
    """A device's later word stands even where an older report names a later state."""
    installing = apply(action_of(), report(ActionState.INSTALLING, 5))
    assert apply(installing, report(ActionState.TRIAL, 4)) is installing


def test_confirmed_report_of_another_digest_is_a_failure() -> None:
    """Success is the confirmed digest, never the device's word."""
    failed = apply(action_of(), report(ActionState.CONFIRMED, 1, digests={Slot.M4_0_MODEL: "b" * 64}))
    assert (failed.state, failed.cause) == (ActionState.FAILED, Cause.VERIFY)
    assert "expected digest aaaaaaaaaaaa" in failed.detail
    assert apply(action_of(), report(ActionState.CONFIRMED, 1, digests={})).state is ActionState.FAILED


@pytest.mark.parametrize("state", [ActionState.SCHEDULED, ActionState.TIMED_OUT, ActionState.CANCELLED])
def test_state_that_only_the_service_sets_is_refused(state: ActionState) -> None:
    """A device cannot cancel or time out its own action."""
    with pytest.raises(InvalidReportError, match=f"found {state}"):
        apply(action_of(), report(state, 1))


def test_only_unstarted_actions_are_cancelled() -> None:
    """Cancelling spares a device in the middle of its swap."""
    assert cancel(action_of(), "why", now=NOW).state is ActionState.CANCELLED
    trial = apply(action_of(), report(ActionState.TRIAL, 3))
    assert cancel(trial, "why", now=NOW) is trial


def test_offer_renews_the_deadline_once() -> None:
    """Being given the release starts the device's time; a second offer does not."""
    offered = offer(action_of(), NOW + HOUR, timeout=HOUR)
    assert (offered.state, offered.due_at, offered.offered) == (ActionState.OFFERED, NOW + 2 * HOUR, True)
    assert offer(offered, NOW + 2 * HOUR, timeout=HOUR) is offered


def at_due(action: Action, rollout: Rollout, hours: int, **given: object) -> Action:
    values: dict[str, object] = {"listening": Listening(NOW), "is_eligible": True, "is_busy": False, **given}
    return at_deadline(action, rollout, now=NOW + hours * HOUR, **values)  # type: ignore[arg-type]  # keywords by name


def test_silent_device_times_out() -> None:
    """No report before the deadline is final, with its own cause; late words do not change it."""
    rollout = rollout_of([1], thresholds(action_timeout=HOUR))
    silent = at_due(action_of(), rollout, 1)
    assert (silent.state, silent.cause) == (ActionState.TIMED_OUT, Cause.SILENT)
    assert apply(silent, report(ActionState.CONFIRMED, 1)) is silent
    assert time_out(silent, NOW) is silent


def test_pause_busy_device_and_outage_give_time_back() -> None:
    """A device is not silent while nobody offered it anything, or nobody listened."""
    rollout = rollout_of([1], thresholds(action_timeout=HOUR))
    action = action_of()
    assert at_due(action, replace(rollout, state=RolloutState.PAUSED), 1).due_at == NOW + 2 * HOUR
    assert at_due(action, rollout, 1, is_busy=True).due_at == NOW + 2 * HOUR
    resumed = replace(rollout, resumed_at=NOW + HOUR / 2)
    assert at_due(action, resumed, 1).due_at == NOW + 1.5 * HOUR
    assert at_due(action, rollout, 1, listening=Listening(NOW + HOUR)).due_at == NOW + 2 * HOUR


def test_outages_that_come_more_often_than_the_time_out_only_delay_it() -> None:
    """Ten minutes in every hour: a silent device has its four hours of service, and as much as the outages took."""
    rollout = rollout_of([1], thresholds(action_timeout=4 * HOUR))
    outages = [Outage(NOW + (hour + 5 / 6) * HOUR, NOW + (hour + 1) * HOUR) for hour in range(12)]
    action, looks = action_of(), []
    for hour in range(1, 12):
        if action.due_at is not None and action.due_at <= NOW + hour * HOUR:
            looks.append(hour)
            action = at_due(action, rollout, hour, listening=Listening(NOW, tuple(outages[:hour])))
    assert (action.state, action.cause, looks) == (ActionState.TIMED_OUT, Cause.SILENT, [1, 5, 6])


def test_deadline_cancels_what_was_not_begun_and_cannot_be() -> None:
    """A blocked device, or an ended rollout, is no silent device."""
    rollout = rollout_of([1], thresholds(action_timeout=HOUR))
    assert at_due(action_of(), rollout, 1, is_eligible=False).state is ActionState.CANCELLED
    assert at_due(action_of(), abort(rollout), 1).state is ActionState.CANCELLED
    trial = apply(action_of(), report(ActionState.TRIAL, 3))
    assert at_due(trial, abort(rollout), 1).state is ActionState.TIMED_OUT


def test_stages_are_planned_by_the_number_of_members() -> None:
    """Cumulative; a percentage of a small group rounds up."""
    plans = (StagePlan(count=1), StagePlan(percent=25), StagePlan(percent=100))
    assert [cut.planned for cut in cut_stages(plans, 100)] == [1, 24, 75]
    assert [cut.planned for cut in cut_stages(plans[1:], 3)] == [1, 2]
    assert [(cut.is_settled, cut.is_capped) for cut in cut_stages(plans, 100)] == [
        (False, True),
        (False, False),
        (True, False),
    ]


def test_counted_stage_is_not_enlarged_by_a_device_that_joins() -> None:
    """A canary of one stays one: the newcomer falls into the next stage."""
    cuts = (StageCut(5, 1, is_capped=True), StageCut(9, 1, is_capped=False))
    rollout = start(Rollout("r", "release", "group", thresholds(), (Stage(0), Stage(1))), cuts, now=NOW)
    assert rollout.stage_at(3) == rollout.stages[0]
    full = rollout.with_moved(None, action_of())
    assert full.stage_at(3) == full.stages[1]


@pytest.mark.parametrize(
    ("count", "percent", "message"),
    [
        (None, None, "either a count"),
        (1, 1.0, "either a count"),
        (0, None, "at least 1"),
        (None, 101, "above 0 to 100"),
    ],
)
def test_stage_of_no_size_is_refused(count: int | None, percent: float | None, message: str) -> None:
    """A stage is a count or a percent."""
    with pytest.raises(InvalidPlanError, match=message):
        StagePlan(count, percent)


@pytest.mark.parametrize(
    ("plans", "found"),
    [
        ([StagePlan(count=1), StagePlan(count=1)], "further than 1, found 1"),
        ([StagePlan(percent=50), StagePlan(percent=25)], "further than 50%, found 25%"),
    ],
)
def test_stage_that_adds_nobody_is_refused(plans: list[StagePlan], found: str) -> None:
    """Stages are cumulative: a plan that does not rise is another plan than its author meant."""
    with pytest.raises(InvalidPlanError, match=found):
        check_plans(plans)
    check_plans([StagePlan(count=1), StagePlan(percent=25), StagePlan(percent=100)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"success_percent": 0}, "success percent"),
        ({"error_percent": 100}, "error percent"),
        ({"min_reports": 0}, "minimum reports"),
        ({"soak": -HOUR}, "soak"),
        ({"action_timeout": timedelta(0)}, "time-out"),
    ],
)
def test_condition_out_of_range_is_refused(fields: dict[str, object], message: str) -> None:
    """Each condition has its range."""
    with pytest.raises(InvalidPlanError, match=message):
        thresholds(**fields)  # type: ignore[arg-type]  # one wrong value per case
