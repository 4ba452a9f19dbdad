"""Conditions and plans of rollouts by raw thresholds, as many tests want them."""

from collections.abc import Sequence
from datetime import timedelta

from protocol.plan import Plan, PlanStage, ThresholdGates
from service.domain.conditions import Conditions
from service.domain.membership import StagePlan
from service.domain.policy import ThresholdPolicy


def thresholds(
    success_percent: float = 100.0,
    error_percent: float = 0.0,
    *,
    min_reports: int = 1,
    soak: timedelta = timedelta(0),
    action_timeout: timedelta = timedelta(hours=24),
) -> Conditions:
    """Return conditions that judge each stage by its shares."""
    policy = ThresholdPolicy(success_percent, error_percent, min_reports)
    return Conditions(policy, soak=soak, action_timeout=action_timeout)


def threshold_plan(
    stages: Sequence[StagePlan],
    *,
    success_percent: float = 100.0,
    error_percent: float = 0.0,
    min_reports: int = 1,
    soak: timedelta = timedelta(0),
    action_timeout: timedelta = timedelta(hours=24),
) -> Plan:
    """Return a plan that judges each stage by its shares."""
    return Plan(
        stages=tuple(PlanStage(count=stage.count, percent=stage.percent, soak=soak) for stage in stages),
        gates=ThresholdGates(success_percent=success_percent, error_percent=error_percent, min_reports=min_reports),
        device_timeout=action_timeout,
    )
