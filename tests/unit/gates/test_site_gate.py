"""The gate that takes a site for one draw: what it keeps, what moves it, and what it may expect."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from service.domain.gates.failure_rate import InvalidGateError, threshold
from service.domain.gates.site_rate import (
    COMPONENTS,
    DEPTHS,
    MOST_DEVICES,
    Result,
    Site,
    SiteEvidence,
    SiteRateGate,
)

GATE = SiteRateGate(acceptable=0.02, worst=0.05)
FAILED, CLEARED, OPEN = Result(failed=True), Result(cleared=True), Result()
RESULTS = st.sampled_from((FAILED, CLEARED, OPEN))
EXAMPLES = settings(deadline=None)  # a busy machine is no slow gate
FLEETS = st.lists(st.lists(RESULTS, min_size=1, max_size=70), min_size=1, max_size=6)


def judged(sites: Sequence[Sequence[Result]]) -> SiteEvidence:
    evidence = SiteEvidence()
    for results in sites:
        evidence = GATE.after(evidence, None, Site.of(results))
    return evidence


def replayed(sites: Sequence[Sequence[Result]], order: Sequence[tuple[int, int]]) -> SiteEvidence:
    """Begin every device, then tell the results in an order, some of them twice."""
    known: dict[int, list[Result]] = {}
    evidence = SiteEvidence()

    def told(number: int, results: list[Result]) -> SiteEvidence:
        before = known.get(number)
        known[number] = results
        return GATE.after(evidence, None if before is None else Site.of(before), Site.of(results))

    for number, results in enumerate(sites):
        for count in range(1, len(results) + 1):
            evidence = told(number, [OPEN] * count)
    for number, place in order:
        results = list(known[number])
        results[place] = sites[number][place]
        evidence = told(number, results)
    return evidence


@EXAMPLES
@given(sites=FLEETS, data=st.data())
def test_any_order_and_repetition_of_results_gives_the_same_evidence(
    sites: list[list[Result]], data: st.DataObject
) -> None:
    """What is kept is what the same sites give when they are judged at once."""
    every = [(number, place) for number, results in enumerate(sites) for place in range(len(results))]
    order = data.draw(st.permutations(every))
    again = data.draw(st.lists(st.sampled_from(every), max_size=5))
    found, expected = replayed(sites, [*order, *again]), judged(sites)
    assert np.allclose(found.halt, expected.halt, atol=1e-9)
    assert np.allclose(found.passing, expected.passing, atol=1e-9)


@EXAMPLES
@given(sites=FLEETS, data=st.data())
def test_a_result_that_is_outstanding_delays_either_decision(sites: list[list[Result]], data: st.DataObject) -> None:
    """Seen evidence is at most the final evidence of the same sites, component by component."""
    number = data.draw(st.integers(0, len(sites) - 1))
    place = data.draw(st.integers(0, len(sites[number]) - 1))
    seen = [list(results) for results in sites]
    seen[number][place] = OPEN
    assert (judged(seen).halt <= judged(sites).halt + 1e-9).all()
    assert (judged(seen).passing <= judged(sites).passing + 1e-9).all()


@EXAMPLES
@given(sites=FLEETS, more=st.lists(RESULTS, min_size=1, max_size=10))
def test_devices_beyond_the_first_of_a_site_say_nothing(sites: list[list[Result]], more: list[Result]) -> None:
    """A site of any size costs the same, and no device that joins it late moves the evidence."""
    full = [[*results, *([CLEARED] * (MOST_DEVICES - len(results)))] for results in sites]
    longer = [[*results, *more] for results in full]
    assert np.array_equal(judged(full).halt, judged(longer).halt)
    assert np.array_equal(judged(full).passing, judged(longer).passing)


@pytest.mark.parametrize("failing", [2, 8, 32, 64])
def test_expected_factors_are_one_however_a_site_fails(failing: int) -> None:
    """At the acceptable rate, for each component: so many of a struck site's 64 devices fail, in a random order."""
    struck = GATE.acceptable * MOST_DEVICES / failing  # share of the sites
    for place, depth in enumerate(DEPTHS):
        failures = np.arange(depth + 1.0)
        factors = np.exp(GATE.log_halt_factors(np.tile(failures[:, np.newaxis], len(DEPTHS)))[:, place])
        chances = struck * hypergeom.pmf(failures, MOST_DEVICES, failing, depth)
        chances[0] += 1 - struck
        assert np.allclose(chances @ factors, 1.0)


def test_sites_of_one_device_are_judged_like_devices() -> None:
    """A tenth of the devices fails: halted within 130 devices, as without sites within 60 to 100."""
    sites = [[FAILED] if number % 10 == 9 else [CLEARED] for number in range(130)]
    assert judged(sites).log_halt >= threshold(0.01)


def test_many_sites_of_a_device_are_judged_at_once() -> None:
    """As one by one."""
    at_once = GATE.of_devices(failed=3, cleared=40, started=50)
    one_by_one = judged([[FAILED]] * 3 + [[CLEARED]] * 40 + [[OPEN]] * 7)
    assert np.allclose(at_once.halt, one_by_one.halt)
    assert np.allclose(at_once.passing, one_by_one.passing)
    assert (at_once.sites, at_once.struck) == (50, 3)


def test_one_site_that_fails_whole_halts_nothing() -> None:
    """A site without power is one draw: 64 failures of 6,400 devices."""
    sites = [[FAILED] * 64, *([[CLEARED] * 64] * 99)]
    assert judged(sites).log_halt < 0


def test_clean_sites_pass_as_many_as_clean_devices_would() -> None:
    """A device each: 110 are too few, 180 are enough."""
    assert judged([[CLEARED]] * 90).log_pass < threshold(0.05)
    assert judged([[CLEARED]] * 180).log_pass >= threshold(0.05)


def test_sites_that_have_begun_without_results_pass_nothing() -> None:
    """Begun and unheard of counts as failed there."""
    assert judged([[OPEN] * 16] * 500).log_pass < 0


def test_rates_that_make_no_test_are_refused() -> None:
    """The same message as for gates by device."""
    with pytest.raises(InvalidGateError, match=r"worst failure rate: expected above the acceptable 0\.05"):
        SiteRateGate(acceptable=0.05, worst=0.02)


@EXAMPLES
@given(sites=FLEETS)
def test_evidence_is_the_same_after_it_was_stored(sites: list[list[Result]]) -> None:
    """As JSON, between two reports; begun and struck sites are counted along."""
    evidence = judged(sites)
    read = SiteEvidence.of(json.loads(json.dumps(evidence.kept)))
    assert read.kept == evidence.kept
    assert (read.sites, read.struck) == (len(sites), sum(FAILED in results[:MOST_DEVICES] for results in sites))


def test_stored_evidence_of_another_form_is_refused() -> None:
    """What another version has stored must not be read as something else."""
    with pytest.raises(InvalidGateError, match=rf"expected {COMPONENTS} components, found 3"):
        SiteEvidence.of({**SiteEvidence().kept, "halt": [0.0, 0.0, 0.0]})
