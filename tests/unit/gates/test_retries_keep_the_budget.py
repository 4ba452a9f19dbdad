"""Retries leave the error budget as it is, shown by simulation; seeded.

Devices of a healthy release fail as often as is acceptable, at any of their attempts, and those that fail mostly fail
again: a broken cable stays broken. The engine's own actions and counters are used, looked at after every move.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, FailureGate, Plan, PlanStage
from protocol.plan import Retries as PlanRetries
from service.application.plans import conditions_of
from service.domain.action import Action
from service.domain.policy import EvidencePolicy, Shown
from service.domain.retries import retried
from service.domain.rollout_counts import StageCounts, Trace
from tests.unit.gates.test_gate_validity import bound

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ALPHA, RUNS, DEVICES, WAVE = 0.05, 600, 1000, 100
FAILED, BROKEN = 0.02, 0.005  # share of the devices that ever fail, and that ever fail to boot
FAILS_AGAIN = 0.8
PLAN = Plan(
    stages=(PlanStage(percent=100),),
    gates=EvidenceGates(
        alpha=ALPHA,
        failures=(
            FailureGate(weight=2, acceptable=FAILED, worst=0.05),
            FailureGate(name="broken", causes=(Cause.BOOT,), acceptable=BROKEN, worst=0.03),
        ),
        small_stage_rule=False,
    ),
    retries=PlanRetries(most=2, pause=timedelta(0)),
)
CONDITIONS = conditions_of(PLAN)


def life(rng: np.random.Generator, *, failed: float, broken: float) -> Iterator[tuple[Action, Action]]:
    """Yield the moves of one device that ever fails: each attempt given, and how it ends."""
    retries = CONDITIONS.retries
    assert retries is not None
    boots_never = rng.random() < broken / failed
    before = Action("a", "r", "d", 0, ActionState.OFFERED, NOW, NOW, offered=True)
    while True:
        # Half of those that do not boot have a bad download before.
        is_download = not boots_never or (before.attempt == 1 and rng.random() < 0.5)
        cause = Cause.DOWNLOAD if is_download else Cause.BOOT
        after = replace(before, state=ActionState.FAILED, cause=cause, due_at=None)
        if not retries.apply_to(after):
            yield before, after
            return
        waiting = retried(after, now=NOW, pause=retries.pause, timeout=timedelta(days=1))
        yield before, waiting
        before = replace(waiting, state=ActionState.OFFERED)
        yield waiting, before
        if not boots_never and rng.random() > FAILS_AGAIN:
            yield before, replace(before, state=ActionState.CONFIRMED, due_at=None)
            return


def is_halted(rng: np.random.Generator, *, failed: float, broken: float, counts_attempts: bool = False) -> bool:
    """Run one rollout in waves, failures first; the successes of a wave come when nobody looks any more."""
    policy = CONDITIONS.policy
    assert isinstance(policy, EvidencePolicy)
    counts = StageCounts()
    for _ in range(DEVICES // WAVE):
        counts = replace(counts, exposed=counts.exposed + WAVE, in_progress=counts.in_progress + WAVE)
        for _ in range(rng.binomial(WAVE, failed)):
            for before, after in life(rng, failed=failed, broken=broken):
                counts = counts.moved(before, after)
                if counts_attempts and after.state is ActionState.OFFERED:
                    counts = _with_attempt(counts, before)
                if policy.halt([Shown(0, counts, DEVICES, is_open=True, planned=DEVICES)]):
                    return True
    return False


def _with_attempt(counts: StageCounts, before: Action) -> StageCounts:
    """What a gate would count that took each attempt for a device: the failed one stands beside the next."""
    trace = Trace(before.blames)
    causes = {**counts.causes, trace: counts.causes.get(trace, 0) + 1}
    return replace(counts, exposed=counts.exposed + 1, causes=causes)


def share(*, failed: float = FAILED, broken: float = BROKEN, counts_attempts: bool = False, runs: int = RUNS) -> float:
    """Return the share of rollouts that were halted."""
    rng = np.random.default_rng(20_306)
    return (
        sum(is_halted(rng, failed=failed, broken=broken, counts_attempts=counts_attempts) for _ in range(runs)) / runs
    )


def test_healthy_release_with_retries_is_halted_within_the_budget() -> None:
    """Both gates at what is acceptable of devices that ever fail."""
    assert share() <= bound(ALPHA, RUNS)


def test_bad_release_is_halted_although_some_mend() -> None:
    """A success at a later attempt does not erase the failure."""
    assert share(failed=0.1, broken=0.01, runs=100) == 1.0


def test_counting_attempts_would_exceed_the_budget() -> None:
    """The same healthy release, each failed attempt taken for one more device that failed."""
    assert share(counts_attempts=True, runs=200) > 3 * ALPHA
