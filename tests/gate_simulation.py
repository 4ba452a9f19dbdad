"""Many rollouts at once, as arrays: which gates halt, and after how many devices.

A run is a row. Devices start in a fixed order, fail or not, and report after a delay that may depend on which; every
gate looks after every report. Nothing ends a run but its halt, so a gate that halts seldom is looked at for longest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from service.domain.gates.budget import ErrorBudget
from service.domain.gates.failure_rate import FailureRateGate, threshold
from service.domain.gates.site_rate import DEPTHS, SiteRateGate

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
ALPHA = 0.01
FAILURES = FailureRateGate(acceptable=0.02, worst=0.05)
BROKEN = FailureRateGate(acceptable=0.005, worst=0.03)
BROKEN_SHARE = 0.25  # of failures: both gates stand at their acceptable rate together
SITE_FAILURES = SiteRateGate(acceptable=0.02, worst=0.05)
SITE_BROKEN = SiteRateGate(acceptable=0.005, worst=0.03)
BUDGET = ErrorBudget(ALPHA, {"failures": 2, "broken": 1})
LIMIT = 0.05  # of the raw thresholds
AWS_MINIMUM = 100
HAWKBIT_GROUP = 50
STAGES = (100, 500, 2000)  # cumulative
RESTARTS = 5  # of the service in each run, of a gate that forgets


@dataclass(frozen=True, slots=True)
class Delays:
    """When devices start and report, in units of the time between two starts.

    Attributes:
        wave: devices that start together.
        failure, success: mean of the exponential time to the report; 0 at once.
    """

    wave: int = 1
    failure: float = 0.0
    success: float = 0.0


@dataclass(frozen=True, slots=True)
class Sites:
    """Devices that fail together: beta-binomial.

    Attributes:
        size: devices of a site.
        correlation: of two devices of one site.
        together: they start one after the other, instead of being spread by their salted hashes.
    """

    size: int = 1
    correlation: float = 0.0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Looks:
    """What is known at each report of each run; arrays of runs by reports.

    Attributes:
        started: devices that were given the release by then.
        results: reports so far.
        failed: of them, failures; broken: of these, those that the second gate counts.
        by_start: failures in the order of the starts.
        sites: of the devices in the order of the starts.
        reported: places in that order of the devices that report.
    """

    started: Floats
    results: Floats
    failed: Floats
    broken: Floats
    by_start: Bools
    sites: Integers
    reported: Integers


Gate = Callable[[Looks], Bools]


def looks(
    rng: np.random.Generator, rate: float, *, runs: int, delays: Delays, sites: Sites, devices: int = STAGES[-1]
) -> Looks:
    """Draw runs of a release that fails on a share of the devices."""
    of_site = sites_of(rng, runs, devices, sites)
    failed = failures_of(rng, rate, of_site, sites)
    broken = failed & (rng.random(failed.shape) < BROKEN_SHARE)
    starts = (np.arange(devices) // delays.wave * delays.wave).astype(float)
    mean = np.where(failed, delays.failure, delays.success)
    # Within a wave failures come first, as a download that breaks off does.
    at = starts + rng.exponential(1.0, failed.shape) * mean + np.where(failed, 0.0, 0.5 * (delays.wave > 1))
    order = np.argsort(at, axis=1, kind="stable")
    started = np.searchsorted(starts, np.take_along_axis(at, order, 1).ravel(), side="right").reshape(at.shape)
    return Looks(
        started=started.astype(float),
        results=np.broadcast_to(np.arange(1.0, devices + 1), failed.shape),
        failed=np.cumsum(np.take_along_axis(failed, order, 1), axis=1, dtype=float),
        broken=np.cumsum(np.take_along_axis(broken, order, 1), axis=1, dtype=float),
        by_start=failed,
        sites=of_site,
        reported=order,
    )


def sites_of(rng: np.random.Generator, runs: int, devices: int, sites: Sites) -> Integers:
    """Return the site of each device, in the order of the starts."""
    of_site = np.broadcast_to(np.arange(devices) // sites.size, (runs, devices))
    return of_site if sites.together or sites.size == 1 else rng.permuted(of_site, axis=1)


def failures_of(rng: np.random.Generator, rate: float, of_site: Integers, sites: Sites) -> Bools:
    """Draw which devices fail."""
    if sites.correlation == 0:
        return np.asarray(rng.random(of_site.shape) < rate)
    strength = 1 / sites.correlation - 1  # a + b of the beta distribution
    rates = rng.beta(rate * strength, (1 - rate) * strength, (len(of_site), int(of_site.max()) + 1))
    return np.asarray(rng.random(of_site.shape) < np.take_along_axis(rates, of_site, 1))


def evidence(seen: Looks) -> Bools:
    """The product's gates: two of them, α split, devices in the order of their starts, unresolved ones successes."""
    first = _reaches(FAILURES, seen.failed, seen.started, seen.failed, BUDGET.part("failures"))
    second = _reaches(BROKEN, seen.broken, seen.started, seen.broken, BUDGET.part("broken"))
    return np.asarray(first | second)


def _reaches(gate: FailureRateGate, failed: Floats, devices: Floats, rising: Floats, alpha: float) -> Bools:
    # Evidence rises at a failure alone, so nothing is missed by looking only there.
    is_failure = np.diff(rising, axis=1, prepend=0) > 0
    found = np.zeros(failed.shape, bool)
    found[is_failure] = gate.log_halt_each(failed[is_failure], devices[is_failure]) >= threshold(alpha)
    return found


def evidence_by_site(seen: Looks) -> Bools:
    """The product's gates where the plan groups devices by site."""
    first = _reaches_by_site(SITE_FAILURES, seen, seen.failed, BUDGET.part("failures"))
    second = _reaches_by_site(SITE_BROKEN, seen, seen.broken, BUDGET.part("broken"))
    return np.asarray(first | second)


def _reaches_by_site(gate: SiteRateGate, seen: Looks, rising: Floats, alpha: float) -> Bools:
    run, look = (np.diff(rising, axis=1, prepend=0) > 0).nonzero()  # in each run, in the order of the reports
    device, before = seen.reported[run, look], _before(seen.sites)
    is_new = before == 0
    begun = np.cumsum(is_new, axis=1)[run, seen.started[run, look].astype(int) - 1]
    site = run * seen.sites.shape[1] + seen.sites[run, device]
    wealth = begun[:, np.newaxis, np.newaxis] * gate.log_halt_factors(np.zeros(len(DEPTHS)))
    for place, depth in enumerate(DEPTHS):
        counts = before[run, device] < depth
        wealth[:, place] += _summed(_rises(gate, site, counts, place), run)
    log_mean = np.logaddexp.reduce(wealth.reshape(len(run), -1), axis=1) - np.log(wealth[0].size)
    found = np.zeros(rising.shape, bool)
    found[run, look] = log_mean >= threshold(alpha)
    return found


def _before(groups: Integers) -> Integers:
    """Return how many of the same group stand before each, row by row."""
    order = np.argsort(groups, axis=1, kind="stable")
    ordered = np.take_along_axis(groups, order, 1)
    is_first = np.diff(ordered, axis=1, prepend=-1) != 0
    place = np.broadcast_to(np.arange(groups.shape[1]), groups.shape)
    since = place - np.maximum.accumulate(np.where(is_first, place, 0), axis=1)
    found = np.empty_like(since)
    np.put_along_axis(found, order, since, 1)
    return found


def _rises(gate: SiteRateGate, site: Integers, counts: Bools, place: int) -> Floats:
    """Return by how much each failure raises the components of one depth; 0 where its device does not count."""
    failures = np.zeros((DEPTHS[place] + 1, len(DEPTHS)))
    failures[:, place] = np.arange(DEPTHS[place] + 1)
    steps = np.diff(gate.log_halt_factors(failures)[:, place], axis=0)
    found = np.zeros((len(site), steps.shape[1]))
    found[counts] = steps[_before(site[counts][np.newaxis])[0]]
    return found


def _summed(rises: Floats, run: Integers) -> Floats:
    """Return the sums so far, from zero in each run."""
    total = np.cumsum(rises, axis=0)
    first = np.searchsorted(run, run)
    return np.asarray(total - (total - rises)[first], float)


def evidence_as_reported(seen: Looks) -> Bools:
    """The same formula, counting results as they come in: not valid, for failures report first."""
    return _reaches(FAILURES, seen.failed, seen.results, seen.failed, ALPHA)


def evidence_forgotten(seen: Looks) -> Bools:
    """The same formula, begun anew at each of some restarts, with nothing of alpha kept back for it: not valid."""
    length = seen.failed.shape[1] // (RESTARTS + 1)
    before = np.arange(seen.failed.shape[1]) // length * length
    index = np.broadcast_to(np.maximum(before - 1, 0), seen.failed.shape)
    first = before == 0
    failed = seen.failed - np.where(first, 0.0, np.take_along_axis(seen.failed, index, 1))
    started = seen.started - np.where(first, 0.0, np.take_along_axis(seen.started, index, 1))
    return _reaches(FAILURES, failed, np.maximum(started, failed), seen.failed, ALPHA)


def raw(seen: Looks) -> Bools:
    """Share of the results so far, looked at from the first one on."""
    return np.asarray(seen.failed > LIMIT * seen.results)


def raw_with_minimum(seen: Looks) -> Bools:
    """As AWS IoT Jobs: the same from 100 results on."""
    return raw(seen) & (seen.results >= AWS_MINIMUM)


def raw_in_groups(seen: Looks) -> Bools:
    """As hawkBit: share of a group of 50, in the order of starts."""
    runs, devices = seen.by_start.shape
    grouped = np.cumsum(seen.by_start.reshape(runs, devices // HAWKBIT_GROUP, HAWKBIT_GROUP), axis=2)
    return np.asarray(grouped.reshape(runs, devices) > LIMIT * HAWKBIT_GROUP)


GATES: Mapping[str, Gate] = MappingProxyType(
    {
        "evidence": evidence,
        "evidence, by site": evidence_by_site,
        "evidence, as reported": evidence_as_reported,
        "evidence, forgotten at restarts": evidence_forgotten,
        "5 % of results": raw,
        "5 % of results, from 100 on": raw_with_minimum,
        "5 % of groups of 50": raw_in_groups,
    }
)


@dataclass(frozen=True, slots=True)
class Halts:
    """How a gate did.

    Attributes:
        share: of the runs that it halted.
        median: devices that had been given the release at the halt; None where it halted none.
    """

    share: float
    median: int | None


def halts(gate: Gate, runs: list[Looks]) -> Halts:
    """Return how often a gate halts, and after how many devices."""
    halted = [gate(seen) for seen in runs]
    at = [
        seen.started[found.any(axis=1), found.argmax(axis=1)[found.any(axis=1)]]
        for seen, found in zip(runs, halted, strict=True)
    ]
    devices = np.concatenate(at)
    total = sum(len(found) for found in halted)
    return Halts(len(devices) / total, int(np.median(devices)) if devices.size else None)
