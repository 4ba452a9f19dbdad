"""The gates on the failure rate: the formulas are the integrals they stand for, and their error probabilities hold."""

from math import exp, inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from service.domain.gates.beta import log_above, log_below
from service.domain.gates.failure_rate import FailureRateGate, InvalidGateError, in_words, threshold

GATE = FailureRateGate()


@pytest.mark.parametrize(("a", "b", "x"), [(1, 9, 0.02), (3, 40, 0.05), (2.5, 7, 0.5), (30, 3, 0.9)])
def test_parts_are_the_integrals(a: float, b: float, x: float) -> None:
    """Both parts agree with numerical integration."""
    below, _ = quad(lambda p: p ** (a - 1) * (1 - p) ** (b - 1), 0, x, epsabs=0, epsrel=1e-10)
    above, _ = quad(lambda p: p ** (a - 1) * (1 - p) ** (b - 1), x, 1, epsabs=0, epsrel=1e-10)
    assert exp(log_below(a, b, x)) == pytest.approx(below, rel=1e-8)
    assert exp(log_above(a, b, x)) == pytest.approx(above, rel=1e-8)


@pytest.mark.parametrize("devices", [30_000, 40_000, 1_000_000])
def test_negligible_part_does_not_vanish(devices: int) -> None:
    """Beyond the range of doubles, where scipy's regularised integral is 0, the logarithm goes on smoothly."""
    before, after = (log_above(1, devices + more, 0.02) for more in (0, 1))
    assert after - before == pytest.approx(log(0.98), rel=1e-2)
    assert log_below(devices, 1, 0.02) == pytest.approx(devices * log(0.02) - log(devices), rel=1e-12)


def test_one_failure_in_one_device_decides_nothing() -> None:
    """E is 5.9 then: far from 100."""
    assert exp(GATE.log_halt(1, 1)) == pytest.approx(5.9, abs=0.01)


def test_mixture_is_the_average_of_likelihood_ratios() -> None:
    """E of 7 failures in 90 devices, integrated by hand."""
    weight, _ = quad(lambda p: (1 - p) ** 8, 0.02, 1)
    ratio, _ = quad(lambda p: (1 - p) ** 8 * (p / 0.02) ** 7 * ((1 - p) / 0.98) ** 83, 0.02, 1)
    assert exp(GATE.log_halt(7, 90)) == pytest.approx(ratio / weight, rel=1e-6)


def test_mirror_is_the_average_below_the_worst_rate() -> None:
    """E′ of 2 failures in 150 devices, integrated by hand."""
    ratio, _ = quad(lambda p: (p / 0.05) ** 2 * ((1 - p) / 0.95) ** 148 / 0.05, 0, 0.05)
    assert exp(GATE.log_pass(2, 150)) == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize(("failed", "started"), [(817, 3722), (1813, 14_248), (4008, 43_911), (7008, 89_798)])
def test_evidence_falls_where_one_form_of_the_integral_follows_the_other(failed: int, started: int) -> None:
    """Below 1e-280 the expansion takes over from scipy, without a step that is as large as a failure."""
    before, at, after = (GATE.log_pass(failed + more, started) for more in (-1, 0, 1))
    assert at - after == pytest.approx(before - at, rel=0.05)
    assert after < at < before


@given(devices=st.integers(1, 100_000), data=st.data())
def test_another_failure_speaks_against_the_release(devices: int, data: st.DataObject) -> None:
    """At the same number of devices E rises and E′ falls with each failure, so an unknown result only delays."""
    failed = data.draw(st.integers(0, devices - 1))
    assert GATE.log_halt(failed + 1, devices) > GATE.log_halt(failed, devices)
    assert GATE.log_pass(failed + 1, devices) < GATE.log_pass(failed, devices)


def test_arrays_say_what_single_counts_say() -> None:
    """Simulations of many runs stand on the same formulas, beyond the range of doubles too."""
    failed, started = np.array([0.0, 7.0, 90.0, 0.0]), np.array([10.0, 90.0, 100.0, 200_000.0])
    pairs = [(int(f), int(n)) for f, n in zip(failed, started, strict=True)]
    assert GATE.log_halt_each(failed, started) == pytest.approx([GATE.log_halt(*pair) for pair in pairs])
    assert GATE.log_pass_each(failed, started) == pytest.approx([GATE.log_pass(*pair) for pair in pairs])


def test_nothing_is_known_at_first() -> None:
    """Both start at 1."""
    assert GATE.log_halt(0, 0) == pytest.approx(0)
    assert GATE.log_pass(0, 0) == pytest.approx(0)


def _crossed(rate: float, *, devices: int = 1000, runs: int = 1500, mirror: bool = False) -> float:
    rng = np.random.default_rng(20_260_101)
    failed = np.cumsum(rng.random((runs, devices)) < rate, axis=1)
    started = np.broadcast_to(np.arange(1, devices + 1), failed.shape)
    each = GATE.log_pass_each if mirror else GATE.log_halt_each
    evidence = each(failed.astype(float), started.astype(float))
    return float((evidence.max(axis=1) >= threshold(0.05 if mirror else 0.01)).mean())


def test_healthy_release_is_halted_seldom() -> None:
    """At the acceptable rate, looked at after every device: at most 1 %."""
    assert _crossed(0.02) <= 0.01


@pytest.mark.parametrize(("rate", "power"), [(0.05, 0.93), (0.1, 0.999), (0.3, 0.999)])
def test_bad_release_is_halted(rate: float, power: float) -> None:
    """The gate has power, within 1,000 devices."""
    assert _crossed(rate) >= power


def test_release_at_the_worst_rate_passes_seldom() -> None:
    """At the worst acceptable rate, looked at after every device: at most 5 %."""
    assert _crossed(0.05, mirror=True) <= 0.05


def test_healthy_release_passes() -> None:
    """At half a percent nearly every release passes within 1,000 devices."""
    assert _crossed(0.005, mirror=True) >= 0.99


def _in_waves(*, as_they_report: bool) -> float:
    """Return the share of healthy runs that halt: waves of 100, failures report at once, successes at the end."""
    rng, halted, runs = np.random.default_rng(7), 0, 300
    for _ in range(runs):
        failures = (rng.random((10, 100)) < 0.02).sum(axis=1)
        before = np.concatenate([[0], np.cumsum(failures)])
        for wave, failed in enumerate(failures):
            seen = before[wave] + np.arange(1, failed + 1)
            counted = wave * 100 + np.arange(1, failed + 1) if as_they_report else np.full(failed, (wave + 1) * 100)
            if failed and GATE.log_halt_each(seen.astype(float), counted.astype(float)).max() >= threshold(0.01):
                halted += 1
                break
    return halted / runs


def test_failures_that_report_first_halt_no_healthy_release() -> None:
    """Devices without a result count as successes; counted as they report, the same releases would halt."""
    assert _in_waves(as_they_report=False) <= 0.01
    assert _in_waves(as_they_report=True) > 0.1


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"acceptable": 0}, "acceptable failure rate: expected above 0"),
        ({"acceptable": 0.1, "worst": 0.05}, r"worst failure rate: expected above the acceptable 0\.1"),
        ({"worst": 1}, "worst failure rate"),
        ({"prior_failures": 0.5}, "prior: expected at least 1 and 1, found 0.5 and 9"),
    ],
)
def test_numbers_that_make_no_test_are_refused(numbers: dict[str, float], expected: str) -> None:
    """The error says which number and what it may be."""
    with pytest.raises(InvalidGateError, match=expected):
        FailureRateGate(**numbers)


@pytest.mark.parametrize(("failed", "started"), [(-1, 5), (6, 5)])
def test_counts_that_cannot_be_are_refused(failed: int, started: int) -> None:
    """No more failures than devices."""
    with pytest.raises(InvalidGateError, match="counts: expected 0 to 5 failures"):
        GATE.log_halt(failed, started)


@pytest.mark.parametrize("alpha", [0, 1, -0.5, inf])
def test_error_probability_is_a_probability(alpha: float) -> None:
    """Above 0 and below 1."""
    with pytest.raises(InvalidGateError, match="error probability"):
        threshold(alpha)


def test_evidence_is_said_in_words() -> None:
    """Short where it is short."""
    assert (in_words(log(137)), in_words(100 * log(10))) == ("E = 137", "E = 10^100.0")
