"""The gate against a control arm: what hits both arms halts nothing, what hits canaries more than tolerated does."""

import numpy as np
import pytest

from service.domain.gates.control import RATIOS, ControlGate
from service.domain.gates.failure_rate import InvalidGateError, threshold

GATE = ControlGate(tolerated=1.5)


def _halted(ratio: float, *, share: float = 0.3, events: int = 400, runs: int = 600) -> float:
    """Return the share of runs that ever reach 1/α = 100, looked at after every event."""
    rng = np.random.default_rng(3)
    in_canary = rng.random((runs, events)) < share * ratio / (share * ratio + 1 - share)
    canary, control = GATE.log_factors(share)
    steps = np.where(in_canary[..., None], canary, control)
    evidence = np.logaddexp.reduce(np.cumsum(steps, axis=1), axis=2) - np.log(RATIOS.size)
    return float((evidence.max(axis=1) >= threshold(0.01)).mean())


def test_factors_are_a_fair_bet_at_the_tolerated_ratio() -> None:
    """At the tolerated ratio each factor is 1 in expectation, below it less: the condition of Ville's inequality."""
    share = 0.3
    canary, control = (np.exp(part) for part in GATE.log_factors(share))
    for ratio, bound in ((1.5, 1.0), (1.0, 1.0), (0.5, 1.0)):
        chance = share * ratio / (share * ratio + 1 - share)
        assert np.all(chance * canary + (1 - chance) * control <= bound + 1e-12)
    chance = share * 1.5 / (share * 1.5 + 1 - share)
    assert chance * canary + (1 - chance) * control == pytest.approx(1.0)


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_release_within_the_tolerance_is_halted_seldom(ratio: float) -> None:
    """At most 1 %, also exactly at the tolerated ratio, within three deviations of 600 runs."""
    assert _halted(ratio) <= 0.01 + 3 * (0.01 * 0.99 / 600) ** 0.5


def test_release_that_is_four_times_worse_is_halted() -> None:
    """Within 400 events of both arms."""
    assert _halted(4.0) >= 0.99


def test_outage_of_everybody_moves_nothing() -> None:
    """A thousand events in proportion to the arms speak for the release, not against it."""
    wealth = GATE.after(GATE.start(), canary=300, control=700, share=0.3)
    assert GATE.log_evidence(wealth) < 0


def test_order_of_events_changes_nothing() -> None:
    """Events may be reported late: only which arm they fell in, and its share then, counts."""
    first = GATE.after(GATE.after(GATE.start(), canary=3, control=1, share=0.2), canary=1, control=4, share=0.4)
    second = GATE.after(GATE.after(GATE.start(), canary=1, control=4, share=0.4), canary=3, control=1, share=0.2)
    assert first == pytest.approx(second)


def test_nothing_is_known_at_first() -> None:
    """E starts at 1."""
    assert GATE.log_evidence(GATE.start()) == pytest.approx(0)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_tolerance_is_above_one(ratio: float) -> None:
    """With no tolerance a healthy release halts in the long run."""
    with pytest.raises(InvalidGateError, match="tolerated ratio: expected above 1"):
        ControlGate(tolerated=ratio)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_arm_alone_decides_nothing(share: float) -> None:
    """Without devices at risk in both arms there is no comparison."""
    with pytest.raises(InvalidGateError, match="share of the canary arm"):
        GATE.log_factors(share)
