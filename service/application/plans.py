"""Plans as the rollout engine takes them."""

from collections.abc import Mapping
from datetime import timedelta
from math import ceil

from protocol.geometry import ImageKind
from protocol.plan import Disruption, EvidenceGates, Metric, Plan, PlanStage, Shadow, ThresholdGates, Weekday
from protocol.plan import Retries as PlanRetries
from protocol.shadow import ShadowTask
from service.domain.conditions import Conditions
from service.domain.errors import InvalidError
from service.domain.gates.arms import EventGate
from service.domain.gates.averages import AverageGate
from service.domain.gates.control import ControlGate
from service.domain.gates.failure_rate import FailureRateGate
from service.domain.gates.kept import KeptGate
from service.domain.gates.means import MeanGate
from service.domain.membership import StagePlan
from service.domain.model_health import Limits
from service.domain.pacing import Pacing
from service.domain.policy import CauseGate, EvidencePolicy, Policy, ThresholdPolicy
from service.domain.release import Release
from service.domain.retries import Retries
from service.domain.shadowing import SHADOW, ShadowGate
from service.domain.stage import Stage
from service.domain.timing import Budget, DeferralLimits, Timing
from service.domain.windows import Maintenance, Window


class ShadowReleaseError(InvalidError):
    """The plan wants a shadow, and the release is not one model alone."""


def conditions_of(plan: Plan) -> Conditions:
    """Return what a plan demands, apart from its stages.

    Raises:
        InvalidPlanError, InvalidGateError: numbers that make no rollout.
    """
    pace = plan.pace
    others = {} if plan.shadow is None else {SHADOW: plan.shadow.weight}
    policy = _policy(plan.gates, silent_after=plan.device_timeout, others=others)
    return Conditions(
        policy=policy,
        action_timeout=plan.device_timeout,
        pacing=Pacing(
            per_minute=pace.per_minute,
            growth=pace.growth,
            every=pace.every,
            most_per_minute=pace.most_per_minute,
            concurrency=pace.concurrency,
        ),
        deadline=plan.deadline,
        target=plan.target,
        roll_back=plan.roll_back,
        retries=_retries(plan.retries),
        timing=timing_of(plan),
        download_only=plan.download_only,
        shadow=_shadow(plan.shadow, policy),
    )


def timing_of(plan: Plan) -> Timing:
    """Return when a plan lets a device have its release; forced, windows and deferral do not hold."""
    budget = None if plan.disruption is None else _budget(plan.disruption)
    if plan.forced:
        return Timing(budget=budget, forced=True)
    order = list(Weekday)
    windows = tuple(
        Window(frozenset(order.index(day) for day in window.days), window.start, window.end)
        for window in plan.maintenance
    )
    deferral = None if plan.deferral is None else DeferralLimits(plan.deferral.most, plan.deferral.longest)
    return Timing(Maintenance(windows, plan.time_zone), budget, deferral)


def _budget(disruption: Disruption) -> Budget:
    found = disruption.max_unavailable
    if isinstance(found, int):
        return Budget(disruption.group_by, found)
    return Budget(disruption.group_by, None, int(found.removesuffix("%")))


def check_shadow(plan: Plan, release: Release) -> None:
    """Check that what a plan wants in shadow can run there.

    Raises:
        ShadowReleaseError: the release is not one model alone.
    """
    slots = sorted(release.digests)
    if plan.shadow is not None and [slot.kind for slot in slots] != [ImageKind.MODEL]:
        raise ShadowReleaseError(
            f"release {release.name}: expected a model alone, which can run in shadow, found {', '.join(slots)}"
        )


def stage_plans(plan: Plan) -> tuple[StagePlan, ...]:
    """Return how far each stage reaches."""
    return tuple(StagePlan(stage.count, stage.percent, stage.where) for stage in plan.stages)


def all_stages(plan: Plan) -> tuple[PlanStage, ...]:
    """Return the plan's stages, and after them the one of devices that are held out, if there are such."""
    if plan.hold_out is None:
        return plan.stages
    *others, last = plan.stages
    watched = last.model_copy(update={"soak": max(last.soak, plan.hold_out.soak)})
    return (*others, watched, PlanStage(percent=100))


def stages_of(plan: Plan) -> tuple[Stage, ...]:
    """Return the stages of a draft."""
    return tuple(
        Stage(
            index,
            soak=stage.soak,
            resolved=stage.resolved,
            where=stage.where,
            is_control=index == len(plan.stages),
        )
        for index, stage in enumerate(all_stages(plan))
    )


def _retries(plan: PlanRetries | None) -> Retries | None:
    return None if plan is None else Retries(plan.most, plan.pause, frozenset(plan.causes))


def _shadow(shadow: Shadow | None, policy: Policy) -> ShadowGate | None:
    if shadow is None or not isinstance(policy, EvidencePolicy):
        return None
    return ShadowGate(
        ShadowTask(frames=shadow.frames, longest_seconds=ceil(shadow.longest.total_seconds())),
        tolerated=shadow.tolerated,
        rate=FailureRateGate(acceptable=shadow.acceptable, worst=shadow.worst),
        alpha=policy.budget.part(SHADOW),
        beta=policy.beta,
        small_stage_rule=policy.small_stage_rule,
    )


def _policy(gates: EvidenceGates | ThresholdGates, *, silent_after: timedelta, others: Mapping[str, float]) -> Policy:
    if isinstance(gates, ThresholdGates):
        return ThresholdPolicy(
            gates.success_percent,
            gates.error_percent,
            gates.min_reports,
            small_stage_rule=gates.small_stage_rule,
            of_results=gates.of_results,
        )
    return EvidencePolicy(
        tuple(
            CauseGate(
                gate.name,
                FailureRateGate(acceptable=gate.acceptable, worst=gate.worst),
                frozenset(gate.causes),
                weight=gate.weight,
                group_by=gate.group_by or "",
            )
            for gate in gates.failures
        ),
        alpha=gates.alpha,
        beta=gates.beta,
        small_stage_rule=gates.small_stage_rule,
        kept_gates=_kept_gates(gates, silent_after=silent_after),
        others=others,
    )


def _kept_gates(gates: EvidenceGates, *, silent_after: timedelta) -> tuple[KeptGate, ...]:
    control = (
        EventGate(
            gate.name,
            frozenset(gate.events),
            ControlGate(gate.tolerated),
            Limits(gate.slow_ms, gate.class_shift, gate.confidence_shift, gate.fault_share),
            silent_after,
            gate.weight,
        )
        for gate in gates.control
    )
    means = (
        AverageGate(
            gate.name,
            gate.metric,
            gate.core,
            MeanGate(
                gate.margin,
                gate.expected_change,
                gate.metric is not Metric.CONFIDENCE if gate.higher_is_worse is None else gate.higher_is_worse,
                gate.bound or 0.0,
            ),
            gate.weight,
        )
        for gate in gates.means
    )
    return (*control, *means)
