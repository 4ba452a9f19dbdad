"""The gate on means: within its margin a release stays, whatever the spread; beyond it it halts; one pair is little."""

import numpy as np
import pytest

from service.domain.gates.budget import ErrorBudget
from service.domain.gates.failure_rate import InvalidGateError, threshold
from service.domain.gates.means import STAKES, MeanGate

LATENCY = MeanGate(margin=2.0)


def _halted(
    mean: float, *, gate: MeanGate = LATENCY, deviation: float = 5.0, pairs: int = 400, runs: int = 300
) -> float:
    """Return the share of runs that ever reach 1/α = 100, looked at after every pair."""
    differences = np.random.default_rng(5).normal(mean, deviation, (runs, pairs))
    halted = 0
    for run in differences:
        excess = np.array([gate.excess(float(each)) for each in run])
        wealth = np.cumsum(np.log1p(STAKES * excess[:, None]), axis=0)
        halted += (np.logaddexp.reduce(wealth, axis=1) - np.log(STAKES.size)).max() >= threshold(0.01)
    return halted / runs


@pytest.mark.parametrize(("mean", "deviation"), [(-5.0, 5.0), (0.0, 5.0), (2.0, 5.0), (2.0, 0.5), (2.0, 100.0)])
def test_release_within_its_margin_is_halted_seldom(mean: float, deviation: float) -> None:
    """At most 1 %, looked at after every pair, also at the margin's edge and however far the devices spread."""
    assert _halted(mean, deviation=deviation) <= 0.01 + 3 * (0.01 * 0.99 / 300) ** 0.5


def test_slower_release_is_halted() -> None:
    """5 ms where 2 are tolerated."""
    assert _halted(5.0) >= 0.99


def test_expected_change_is_no_fault() -> None:
    """A model that is meant to lower confidence by 10 is judged by what goes beyond it."""
    gate = MeanGate(margin=2.0, expected_change=-10.0, higher_is_worse=False)
    assert _halted(-10.0, gate=gate) <= 0.01
    assert _halted(-15.0, gate=gate) >= 0.99


def test_pair_is_cut_at_the_bound() -> None:
    """Four margins where the plan says none; to halt takes several pairs, whatever they tell."""
    assert [LATENCY.excess(difference) for difference in (-1e9, -6.0, 2.0, 6.0, 10.0, 1e9)] == [-1, -1, 0, 0.5, 1, 1]
    assert MeanGate(margin=2.0, bound=4.0).excess(6.0) == 1
    wealth = LATENCY.start()
    assert LATENCY.log_evidence(wealth) == pytest.approx(0)
    for _ in range(5):
        wealth = LATENCY.after(wealth, 1.0)
    assert LATENCY.log_evidence(wealth) < threshold(0.01)


def test_bound_is_not_below_zero() -> None:
    """The error says which number."""
    with pytest.raises(InvalidGateError, match="bound: expected at least 0, found -1"):
        MeanGate(margin=1.0, bound=-1.0)


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
