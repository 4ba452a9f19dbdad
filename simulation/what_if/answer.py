"""What a plan will do to a fleet: one full run device by device, and many aggregated ones for the shares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from protocol.document import Document
from protocol.plan import Plan
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault
from service.domain.rollout import RolloutState
from simulation.errors import WhatIfError
from simulation.what_if.course import COARSE, FINE, Course, Ended, Moment
from simulation.what_if.fleet import FleetModel, model_of, plain_fault
from simulation.what_if.limits import left_out_of_places, not_simulated
from simulation.what_if.planned import under
from simulation.what_if.sampling import Aggregated, EachDevice

USUAL_FAILURE_RATE = 0.1  # of the bad release, where neither the scenario nor the question says
TIMELINE_POINTS = 400
_FULL, _HEALTHY, _BAD = range(3)  # purposes of random numbers


class Spread(Document):
    """Of a figure over replications."""

    median: float
    p90: float


class Point(Document):
    """How far the full run was: devices, at seconds from its start."""

    at: float
    exposed: int
    confirmed: int
    failed: int


class FullRun(Document):
    """One run of the healthy release, device by device.

    Attributes:
        state: finished, halted, or paused where it asks a person.
        seconds: from its start to its end, by the virtual clock.
        reason: of a halt or a question.
    """

    state: RolloutState
    seconds: float
    exposed: int
    confirmed: int
    failed: int
    reason: str
    timeline: tuple[Point, ...]


class Answer(Document):
    """What was found.

    Attributes:
        plan: its name.
        devices: of the fleet.
        seconds: that the full run took from start to end, by the virtual clock.
        seed: decides everything in it.
        base_failure: share of devices on which any update fails, the healthy release too.
        failure_rate: share of devices that the bad release does not boot on; None: the scenario's release faults.
        replications: how many of each release were run; below what was asked for where somebody stopped it.
        false_halt_share: of the replications with the healthy release, those that were halted.
        asked_share: that paused and asked a person.
        finished_share: that finished.
        completion: seconds from start to end of those that finished; None if none did.
        halted_share: of the replications with the bad release, those that were halted.
        bad_asked_share: that paused and asked a person.
        exposed_median, exposed_p90: devices that were given the bad release before its rollout ended.
        harmed_median, harmed_p90: of these, the ones that it is bad for.
        halt_seconds: from the start to the halt, of those halted; None if none was.
        exposed: of the bad release, by replication, rising.
        full: the full run.
        not_simulated: what the plan says and the answer leaves out for this fleet, a line each.
    """

    plan: str
    devices: int
    seconds: float
    seed: int
    base_failure: float
    failure_rate: float | None
    replications: int
    false_halt_share: float
    asked_share: float
    finished_share: float
    completion: Spread | None
    halted_share: float
    bad_asked_share: float
    exposed_median: float
    exposed_p90: float
    harmed_median: float
    harmed_p90: float
    halt_seconds: Spread | None
    exposed: tuple[int, ...]
    full: FullRun
    not_simulated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a question is.

    Attributes:
        doing: what is being run.
        done, of: replications.
        moment: of the full run; None later.
    """

    doing: str
    done: int
    of: int
    moment: Moment | None = None


@dataclass(slots=True)
class _Found:
    healthy: list[Ended] = field(default_factory=list)
    bad: list[Ended] = field(default_factory=list)


def ask(
    plan: Plan,
    scenario: Scenario,
    *,
    base_failure: float = 0.02,
    failure_rate: float | None = None,
    replications: int = 1000,
    seed: int | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> Answer:
    """Return what the plan will do; the same for the same arguments.

    A KeyboardInterrupt after the full run ends it with what is known by then.

    Args:
        plan: in question.
        scenario: whose fleets count; its release faults make the bad release if no rate is given.
        base_failure: share of devices on which any update fails, 0 to below 1.
        failure_rate: share of devices that the bad release does not boot on, above 0 to 1; None: what the scenario
            says, or a tenth.
        replications: of the healthy and of the bad release each, at least 1.
        seed: None: the scenario's.
        tell: hears how far it is.

    Raises:
        WhatIfError: no devices, or a number outside its range.
    """
    check_numbers(base_failure=base_failure, failure_rate=failure_rate, replications=replications)
    if failure_rate is None and not scenario.release_faults:
        failure_rate = USUAL_FAILURE_RATE
    seed = scenario.seed if seed is None else seed
    healthy = under(plan, model_of(scenario, base_failure=base_failure), origin=scenario.start)
    faults = faults_of(scenario, failure_rate)
    bad = under(plan, model_of(scenario, base_failure=base_failure, faults=faults), origin=scenario.start)
    full = _full_run(plan, scenario, healthy, seed=seed, tell=tell)
    found = _Found()
    try:
        for number in range(replications):
            found.healthy.append(replicate(plan, scenario, healthy, seeds=(seed, _HEALTHY, number)))
            found.bad.append(replicate(plan, scenario, bad, seeds=(seed, _BAD, number)))
            if tell is not None:
                tell(Progress("replications", number + 1, replications))
    except KeyboardInterrupt:
        if not found.bad:
            raise
    return Answer(
        plan=plan.name,
        devices=healthy.devices,
        seconds=full.seconds,
        seed=seed,
        base_failure=base_failure,
        failure_rate=failure_rate,
        replications=len(found.bad),
        exposed=tuple(sorted(ended.exposed for ended in found.bad)),
        full=full,
        not_simulated=(*not_simulated(plan), *left_out_of_places(healthy)),
        **_of_healthy(found.healthy),
        **_of_bad(found.bad),
    )


def check_numbers(*, base_failure: float, failure_rate: float | None, replications: int) -> None:
    """Refuse numbers that ask nothing.

    Raises:
        WhatIfError: names the one that is out of its range.
    """
    if not 0 <= base_failure < 1:
        raise WhatIfError(f"base failure: expected a share of 0 to below 1, found {base_failure:g}")
    if failure_rate is not None and not 0 < failure_rate <= 1:
        raise WhatIfError(f"failure rate: expected a share above 0 to 1, found {failure_rate:g}")
    if replications < 1:
        raise WhatIfError(f"replications: expected at least 1, found {replications}")


def faults_of(scenario: Scenario, failure_rate: float | None) -> Sequence[ReleaseFault]:
    """Return what is wrong with the bad release: its rate, or else the scenario's faults of its first release."""
    if failure_rate is not None:
        return plain_fault(failure_rate)
    names = {"*", *(release.name for release in scenario.releases[:1])}
    return [fault for fault in scenario.release_faults if fault.release in names or not scenario.releases]


def replicate(plan: Plan, scenario: Scenario, model: FleetModel, *, seeds: tuple[int, ...]) -> Ended:
    """Return how one aggregated rollout ends; the model is the fleet as it is under the plan."""
    sampler = Aggregated(model, np.random.default_rng(seeds))
    return Course(model, plan, sampler, origin=scenario.start, precision=COARSE).run()


def spread(values: Sequence[float]) -> Spread | None:
    """Return median and 90th percentile; None of nothing."""
    if not values:
        return None
    median, p90 = np.percentile(values, [50, 90])
    return Spread(median=float(median), p90=float(p90))


def share(runs: Sequence[Ended], state: RolloutState) -> float:
    """Return which share of the runs ended in a state."""
    return sum(ended.state is state for ended in runs) / len(runs)


def _full_run(
    plan: Plan, scenario: Scenario, model: FleetModel, *, seed: int, tell: Callable[[Progress], None] | None
) -> FullRun:
    sampler = EachDevice(model, np.random.default_rng((seed, _FULL)))
    course = Course(model, plan, sampler, origin=scenario.start, precision=FINE, keeps_timeline=True)
    ended = course.run(tell=None if tell is None else lambda moment: tell(Progress("full run", 0, 1, moment)))
    return FullRun(
        state=ended.state,
        seconds=ended.seconds,
        exposed=ended.exposed,
        confirmed=ended.confirmed,
        failed=ended.failed,
        reason=ended.reason,
        timeline=tuple(_points(ended.timeline)),
    )


def _points(timeline: Sequence[Moment]) -> Iterator[Point]:
    """Yield at most so many points, the last among them."""
    stride = -(-len(timeline) // TIMELINE_POINTS)
    for moment in [*timeline[:-1:stride], *timeline[-1:]]:
        yield Point(at=moment.seconds, exposed=moment.exposed, confirmed=moment.confirmed, failed=moment.failed)


def _of_healthy(runs: Sequence[Ended]) -> dict[str, object]:
    return {
        "false_halt_share": share(runs, RolloutState.HALTED),
        "asked_share": share(runs, RolloutState.PAUSED),
        "finished_share": share(runs, RolloutState.FINISHED),
        "completion": spread([ended.seconds for ended in runs if ended.state is RolloutState.FINISHED]),
    }


def _of_bad(runs: Sequence[Ended]) -> dict[str, object]:
    exposed, harmed = np.array([(ended.exposed, ended.harmed) for ended in runs]).T
    return {
        "halted_share": share(runs, RolloutState.HALTED),
        "bad_asked_share": share(runs, RolloutState.PAUSED),
        "exposed_median": float(np.median(exposed)),
        "exposed_p90": float(np.percentile(exposed, 90)),
        "harmed_median": float(np.median(harmed)),
        "harmed_p90": float(np.percentile(harmed, 90)),
        "halt_seconds": spread([ended.seconds for ended in runs if ended.state is RolloutState.HALTED]),
    }
