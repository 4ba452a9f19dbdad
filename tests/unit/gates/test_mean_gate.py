"""The gate on means: within its margin a release stays, beyond it it halts, and few devices decide nothing."""

import numpy as np
import pytest

from service.domain.gates.budget import ErrorBudget
from service.domain.gates.failure_rate import InvalidGateError, threshold
from service.domain.gates.means import Baseline, MeanGate

BEFORE = Baseline(devices=200, mean=100.0, variance=25.0)
LATENCY = MeanGate(margin=2.0)


def _halted(mean: float, *, gate: MeanGate = LATENCY, devices: int = 400, runs: int = 300) -> float:
    rng = np.random.default_rng(5)
    halted = 0
    for _ in range(runs):
        means = np.cumsum(rng.normal(mean, 5.0, devices)) / np.arange(1, devices + 1)
        evidence = max(gate.log_evidence(BEFORE, count, float(means[count - 1])) for count in range(1, devices + 1))
        halted += evidence >= threshold(0.01)
    return halted / runs


@pytest.mark.parametrize("mean", [95.0, 100.0, 102.0])
def test_release_within_its_margin_is_halted_seldom(mean: float) -> None:
    """At most 1 %, looked at after every device, also at the margin's edge."""
    assert _halted(mean) <= 0.01


def test_slower_release_is_halted() -> None:
    """5 ms beyond the baseline where 2 are tolerated."""
    assert _halted(105.0) >= 0.99


def test_expected_change_is_no_fault() -> None:
    """A model that is meant to lower confidence by 10 is judged by what goes beyond it."""
    gate = MeanGate(margin=2.0, expected_change=-10.0, higher_is_worse=False)
    assert _halted(90.0, gate=gate) <= 0.01
    assert _halted(85.0, gate=gate) >= 0.99


@pytest.mark.parametrize("baseline", [Baseline(29, 100.0, 25.0), Baseline(200, 100.0, 0.0)])
def test_baseline_of_few_devices_makes_no_test(baseline: Baseline) -> None:
    """A variance that is guessed halts healthy releases."""
    with pytest.raises(InvalidGateError, match="baseline: expected at least 30 devices"):
        LATENCY.log_evidence(baseline, 10, 100.0)


def test_margin_is_above_zero() -> None:
    """No two means are equal."""
    with pytest.raises(InvalidGateError, match="margin: expected above 0"):
        MeanGate(margin=0.0)


def test_budget_is_split_by_weights() -> None:
    """The parts are α together."""
    budget = ErrorBudget(0.01, {"failures": 3.0, "control": 1.0})
    assert budget.part("failures") == pytest.approx(0.0075)
    assert budget.part("failures") + budget.part("control") == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("alpha", "weights", "expected"),
    [(0.0, {"a": 1.0}, "alpha: expected above 0"), (0.01, {"a": 0.0}, "weight of a: expected above 0")],
)
def test_budget_that_is_none_is_refused(alpha: float, weights: dict[str, float], expected: str) -> None:
    """The error says which number."""
    with pytest.raises(InvalidGateError, match=expected):
        ErrorBudget(alpha, weights)


def test_gate_without_a_part_is_refused() -> None:
    """A gate that the plan does not know has nothing to spend."""
    with pytest.raises(InvalidGateError, match="gate drift: expected one of a"):
        ErrorBudget(0.01, {"a": 1.0}).part("drift")
