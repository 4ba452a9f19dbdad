"""The plans of other update servers for the same engine, and ours with the same pace.

Their figures are what their documents begin with (see rollouts in docs): hawkBit counts failures against the group's
size and knows neither time-outs nor rates; AWS IoT Jobs paces by an exponential rate up to 1,000 a minute and aborts on
a share of the results once a minimum was executed; a plain ramp waits a day after 1 % and 10 %.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from protocol.plan import (
    PRESETS,
    ControlGate,
    EvidenceGates,
    FailureGate,
    HealthEvent,
    Pace,
    Plan,
    PlanStage,
    ThresholdGates,
)

AWS_PACE = Pace(per_minute=50, growth=2, every=1000, most_per_minute=1000)
FOREVER = timedelta(days=3)  # stands for no time-out: longer than the others of these rollouts run
EVIDENCE = EvidenceGates(
    alpha=0.01,
    beta=0.05,
    failures=(
        FailureGate(name="failures", acceptable=0.02, worst=0.05),
        FailureGate(
            name="broken",
            causes=PRESETS["careful"]["gates"]["failures"][1]["causes"],
            acceptable=0.005,
            worst=0.03,
            weight=2,
        ),
    ),
    control=(ControlGate(name="health", events=(HealthEvent.DRIFT, HealthEvent.CRASH)),),
)
CANARY = 1000  # devices of our first stage: enough for evidence to pass it at a healthy failure rate
REACHES = ((CANARY, 10, 100), (CANARY, 100))
"""Stages of ours, the last two in percent: two stages alone where three take longer than there is time."""
PACES = (
    Pace(per_minute=1, growth=1.5, every=100, most_per_minute=20_000),
    Pace(per_minute=5, growth=1.5, every=100, most_per_minute=20_000),
    Pace(per_minute=100, growth=2, every=500, most_per_minute=100_000),
    Pace(per_minute=500, growth=4, every=500, most_per_minute=500_000),
    Pace(per_minute=2000, growth=10, every=500),
    Pace(),
)
"""From slow to fast; ours gets the first that is as fast as the policy that it is compared with."""


def presets() -> list[Plan]:
    """Return the presets that are compared as they are."""
    return [Plan.model_validate(PRESETS[name]) for name in ("careful", "standard")]


def rivals() -> list[Plan]:
    """Return the policies of others."""
    return [
        _hawkbit("hawkbit 10 groups", (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)),
        _hawkbit("hawkbit 1/10/100", (1, 10, 100)),
        _aws("aws min 100", minimum=100),
        _aws("aws min 1000", minimum=1000),
        _ramp(),
    ]


def ours(pace: Pace, *, soak: timedelta, reaches: Sequence[int] = REACHES[0], name: str = "ours") -> Plan:
    """Return our gates with a pace; the soak follows each stage but the last."""
    first, *between = reaches[:-1]
    stages = (
        PlanStage(count=first, soak=soak, resolved=0.6),
        *(PlanStage(percent=percent, soak=soak, resolved=0.6) for percent in between),
        PlanStage(percent=reaches[-1], resolved=0.6),
    )
    return Plan(name=name, stages=stages, pace=pace, gates=EVIDENCE, device_timeout=timedelta(days=1))


def _hawkbit(name: str, percents: Iterable[float]) -> Plan:
    gates = ThresholdGates(success_percent=80, error_percent=5, small_stage_rule=False)
    return Plan(name=name, stages=_stages(percents), gates=gates, device_timeout=FOREVER)


def _aws(name: str, *, minimum: int) -> Plan:
    gates = ThresholdGates(
        success_percent=0.001, error_percent=5, min_reports=minimum, of_results=True, small_stage_rule=False
    )
    return Plan(name=name, stages=_stages((100,)), pace=AWS_PACE, gates=gates, device_timeout=timedelta(days=1))


def _ramp() -> Plan:
    gates = ThresholdGates(success_percent=90, error_percent=10, small_stage_rule=False)
    stages = (
        PlanStage(percent=1, soak=timedelta(days=1)),
        PlanStage(percent=10, soak=timedelta(days=1)),
        PlanStage(percent=100),
    )
    return Plan(name="ramp 1/10/100", stages=stages, pace=Pace(per_minute=1000), gates=gates)


def _stages(percents: Iterable[float]) -> tuple[PlanStage, ...]:
    return tuple(PlanStage(percent=percent) for percent in percents)
