"""A rollout on evidence: halts late enough to be right, never forgets, and asks where it cannot know."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages import ActionState, Cause
from protocol.plan import PRESETS, EvidenceGates, FailureGate, Plan, PlanStage, merge_preset
from service.application.plans import conditions_of, stage_plans, stages_of
from service.domain.action import Action
from service.domain.membership import StageCut
from service.domain.policy import EvidencePolicy
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import resume, start
from service.domain.rollout_counts import Exposure, StageCounts, Trace
from service.domain.rollout_evaluation import evaluate, next_look
from service.domain.stage import StageState
from service.domain.verdict import Decision

NOW = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ONE_GATE = EvidenceGates(alpha=0.01, beta=0.05)


def plan_of(*stages: PlanStage, gates: EvidenceGates = ONE_GATE, deadline: timedelta | None = None) -> Plan:
    return Plan(stages=stages, gates=gates, deadline=deadline)


def running(plan: Plan, *sizes: int) -> Rollout:
    """A started rollout whose stages have these sizes; the first is open, its devices wait."""
    draft = Rollout("r", "release", "group", conditions_of(plan), stages_of(plan))
    reached, cuts = 0, []
    for size in sizes:
        reached += size
        cuts.append(StageCut(reached, size, is_capped=False))
    return opened(start(draft, cuts, now=NOW), 0)


def opened(rollout: Rollout, index: int) -> Rollout:
    stage = rollout.stages[index]
    assert stage.cut is not None
    counts = StageCounts(scheduled=stage.cut.planned)
    return rollout.with_stage(replace(stage, is_open=True, counts=counts))


def told(
    rollout: Rollout, index: int, state: ActionState, times: int, *, cause: Cause | None = None, offered: bool = True
) -> Rollout:
    before = Action("a", "r", "d", index, ActionState.SCHEDULED, NOW, NOW)
    after = replace(before, state=state, cause=cause, offered=offered)
    counts = rollout.stages[index].counts
    for _ in range(times):
        counts = counts.moved(before, after)
    return rollout.with_stage(replace(rollout.stages[index], counts=counts))


def decisions(rollout: Rollout) -> list[Decision]:
    return [verdict.decision for verdict in rollout.verdicts]


def test_bad_release_halts_with_its_evidence() -> None:
    """Thirty failures of a hundred started: the gate, the figures and the threshold are in the decision."""
    rollout = told(running(plan_of(PlanStage(percent=100)), 1000), 0, ActionState.OFFERED, 70)
    rollout = evaluate(told(rollout, 0, ActionState.REVERTED, 30, cause=Cause.HANG), NOW)
    assert rollout.state is RolloutState.HALTED
    verdict = rollout.verdicts[-1]
    assert (verdict.decision, verdict.gate) == (Decision.HALTED, "failures")
    assert "expected at most 0.02 of the devices to fail, found 30 of 100; E = " in verdict.reason
    assert verdict.figures["started"] == 100
    assert float(verdict.figures["failures.ln_halt"]) >= float(verdict.figures["failures.halts_at"])


def test_failures_that_come_first_are_weighed_by_all_that_started() -> None:
    """Three failures of 200 devices that were given the release halt nothing, although nobody else has reported."""
    rollout = told(running(plan_of(PlanStage(percent=100)), 200), 0, ActionState.OFFERED, 197)
    assert evaluate(told(rollout, 0, ActionState.REVERTED, 3, cause=Cause.HANG), NOW).state is RolloutState.RUNNING


def test_evidence_is_of_the_whole_rollout() -> None:
    """Failures of the stage before count on in the next one: nothing is reset."""
    plan = plan_of(PlanStage(percent=10, resolved=0.5), PlanStage(percent=100))
    rollout = told(running(plan, 500, 4500), 0, ActionState.CONFIRMED, 492)
    rollout = evaluate(told(rollout, 0, ActionState.FAILED, 8, cause=Cause.DOWNLOAD), NOW)
    assert rollout.stages[0].state is StageState.PASSED
    rollout = told(opened(rollout, 1), 1, ActionState.CONFIRMED, 100)
    exposure = Exposure.of(stage.counts for stage in rollout.stages)
    assert (exposure.started, exposure.failed(frozenset())) == (600, 8)


def test_stage_waits_for_its_share_of_results() -> None:
    """Evidence alone does not pass a stage in which most devices have not answered."""
    plan = plan_of(PlanStage(percent=10, resolved=0.8), PlanStage(percent=100))
    rollout = evaluate(told(running(plan, 1000, 9000), 0, ActionState.CONFIRMED, 799), NOW)
    assert rollout.stages[0].state is StageState.RUNNING
    assert evaluate(told(rollout, 0, ActionState.CONFIRMED, 1), NOW).stages[0].state is StageState.PASSED


def test_devices_without_a_result_hold_the_stage() -> None:
    """Given the release and silent: for passing they count as failures."""
    plan = plan_of(PlanStage(percent=10, resolved=0.5), PlanStage(percent=100))
    rollout = told(running(plan, 1000, 9000), 0, ActionState.CONFIRMED, 700)
    rollout = evaluate(told(rollout, 0, ActionState.OFFERED, 300), NOW)
    assert rollout.stages[0].state is StageState.RUNNING


def test_silence_of_an_outage_halts_nothing_and_asks() -> None:
    """Everybody given the release falls silent: no gate names silence, so a person is asked instead."""
    rollout = told(running(plan_of(PlanStage(percent=100)), 300), 0, ActionState.CONFIRMED, 100)
    rollout = evaluate(told(rollout, 0, ActionState.TIMED_OUT, 200, cause=Cause.SILENT), NOW)
    assert rollout.state is RolloutState.PAUSED
    assert rollout.question == (
        "stage 1: 100 of 300 confirmed, 200 failed and no result outstanding, which neither halts nor passes"
    )
    assert decisions(rollout)[-1] is Decision.ASKED


def test_silence_halts_where_a_gate_names_it() -> None:
    """A plan may say how much silence it bears."""
    gates = EvidenceGates(failures=(FailureGate(name="silence", causes=(Cause.SILENT,), acceptable=0.1, worst=0.3),))
    rollout = told(running(plan_of(PlanStage(percent=100), gates=gates), 300), 0, ActionState.CONFIRMED, 100)
    rollout = evaluate(told(rollout, 0, ActionState.TIMED_OUT, 200, cause=Cause.SILENT), NOW)
    assert rollout.state is RolloutState.HALTED


def test_device_that_was_never_reached_failed_nothing() -> None:
    """Off-line from beginning to end: its silence is no evidence about the release."""
    rollout = told(running(plan_of(PlanStage(percent=100)), 400), 0, ActionState.CONFIRMED, 300)
    rollout = evaluate(told(rollout, 0, ActionState.TIMED_OUT, 100, cause=Cause.SILENT, offered=False), NOW)
    assert rollout.state is RolloutState.FINISHED


def test_causes_have_gates_of_their_own() -> None:
    """Six crashes of 300 are nothing for all failures, and too many for crashes."""
    crashes = FailureGate(name="crashes", causes=(Cause.CRASH,), acceptable=0.002, worst=0.02)
    rollout = told(
        running(plan_of(PlanStage(percent=100), gates=EvidenceGates(failures=(FailureGate(), crashes))), 300),
        0,
        ActionState.OFFERED,
        294,
    )
    rollout = evaluate(told(rollout, 0, ActionState.REVERTED, 6, cause=Cause.CRASH), NOW)
    assert rollout.verdicts[-1].gate == "crashes"


def test_small_stage_passes_by_its_devices_and_halts_by_the_rule() -> None:
    """Below 55 devices no test decides."""
    plan = plan_of(PlanStage(count=10, soak=HOUR), PlanStage(percent=100))
    rollout = evaluate(told(running(plan, 10, 990), 0, ActionState.CONFIRMED, 10), NOW)
    assert rollout.stages[0].state is StageState.SOAKING
    assert next_look(rollout, NOW) == NOW + HOUR
    halted = evaluate(told(running(plan, 10, 990), 0, ActionState.REVERTED, 1, cause=Cause.HANG), NOW)
    assert halted.verdicts[-1].gate == "small-stage"


def test_person_may_say_yes() -> None:
    """To resume a rollout that asks is the answer yes; the stage passes, and the decision says by whom."""
    plan = plan_of(PlanStage(count=10), PlanStage(percent=100))
    rollout = told(running(plan, 10, 990), 0, ActionState.CONFIRMED, 9)
    asked = evaluate(told(rollout, 0, ActionState.FAILED, 1, cause=Cause.DOWNLOAD), NOW)
    assert asked.state is RolloutState.PAUSED
    assert evaluate(asked, NOW + HOUR) == asked
    answered = resume(asked, NOW)
    assert [stage.state for stage in answered.stages] == [StageState.PASSED, StageState.RUNNING]
    assert answered.question == ""
    assert "approved by a person" in answered.stages[0].reason


def test_deadline_asks_once() -> None:
    """A rollout that still runs at its deadline pauses; whoever resumes it has answered."""
    rollout = running(plan_of(PlanStage(percent=100), deadline=2 * HOUR), 100)
    assert next_look(rollout, NOW) == NOW + 2 * HOUR
    asked = evaluate(rollout, NOW + 2 * HOUR)
    assert asked.state is RolloutState.PAUSED
    assert asked.question.startswith("deadline 2030-01-01T02:00:00Z: expected the rollout to be over")
    resumed = resume(asked, NOW + 3 * HOUR)
    assert (resumed.state, resumed.deadline_at) == (RolloutState.RUNNING, None)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_rollouts(preset: str) -> None:
    """Every preset's numbers make gates, stages and a pace."""
    plan = Plan.model_validate(merge_preset({"preset": preset}))
    assert conditions_of(plan).pacing is not None
    assert len(stage_plans(plan)) == len(stages_of(plan)) == len(plan.stages)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_decisions_are_the_same_in_any_order(data: st.DataObject) -> None:
    """Counts decide: the same results in another order lead to the same verdict."""
    results = data.draw(
        st.lists(st.sampled_from([ActionState.CONFIRMED] * 9 + [ActionState.REVERTED]), min_size=60, max_size=120)
    )
    shuffled = data.draw(st.permutations(results))
    ends = []
    for order in (results, shuffled):
        rollout = running(plan_of(PlanStage(percent=100)), len(order))
        rollout = told(rollout, 0, ActionState.OFFERED, 0)
        for state in order:
            rollout = told(rollout, 0, state, 1, cause=Cause.HANG if state is ActionState.REVERTED else None)
        ends.append(evaluate(rollout, NOW).state)
    assert ends[0] is ends[1]


@settings(max_examples=200, deadline=None)
@given(failed=st.integers(0, 300), confirmed=st.integers(0, 3000))
def test_gate_that_may_not_halt_has_no_evidence(failed: int, confirmed: int) -> None:
    """At the acceptable share or below, E is at most 1, however many devices have it."""
    counts = StageCounts(exposed=failed + confirmed, proved=confirmed, causes={Trace(frozenset({Cause.BOOT})): failed})
    exposure = Exposure.of([counts])
    policy = conditions_of(plan_of(PlanStage(percent=100))).policy
    assert isinstance(policy, EvidencePolicy)
    for gate in policy.gates:
        assert gate.may_halt(exposure) or gate.log_halt(exposure, {}) <= 1e-9
