"""Policies side by side: each against a healthy release and what can be wrong, and ours at each other's pace.

A policy is matched by our gates with the slowest pace that completes a healthy release as soon as it does, and a soak
that uses the time which is left; both then take equally long, and what they expose can be compared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice

import numpy as np

from protocol.document import Document
from protocol.plan import Pace, Plan
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.network import Outage
from service.domain.rollout import RolloutState
from simulation.errors import WhatIfError
from simulation.what_if.answer import check_numbers, replicate, share
from simulation.what_if.fleet import FleetModel, model_of, plain_fault
from simulation.what_if.limits import left_out_of_places
from simulation.what_if.planned import under
from simulation.what_if.policies import PACES, REACHES, ours, presets, rivals

HEALTHY = "healthy"
OUTAGE = Outage(start=timedelta(minutes=15), lasts=timedelta(hours=36))
BAD_SHARE = 0.1  # of the devices that brick
MATCHING = 1_000_000  # purpose of random numbers, beyond the numbers of the cases
MATCHING_RUNS = 3
HEALTHY_TIMES = 4  # as many replications where halts are false, and rare
MATCHING_STEPS = 14  # halvings of the soak
EQUAL = 1.005  # times as long is as long
NOTHING = timedelta(0)


class Cell(Document):
    """One policy in one case.

    Attributes:
        policy: its plan's name.
        matches: the policy whose completion time it was given; empty for a plan as it is.
        case: what the release or the fleet is like.
        is_bad: whether the release ought to be halted.
        halted, asked: share of the replications that were halted, or asked a person.
        exposed_median, exposed_p90: devices that were given the release.
        seconds: median from start to end of those that finished; None if none did.
    """

    policy: str
    matches: str
    case: str
    is_bad: bool
    halted: float
    asked: float
    exposed_median: float
    exposed_p90: float
    seconds: float | None


class Comparison(Document):
    """The table.

    Attributes:
        replications: of each cell; four times as many of healthy releases.
        is_whole: nobody stopped it.
        not_simulated: where a plan's budget is left out, a line each.
    """

    devices: int
    replications: int
    base_failure: float
    seed: int
    cells: tuple[Cell, ...]
    is_whole: bool
    not_simulated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """What the release or the fleet is like."""

    name: str
    model: FleetModel
    is_bad: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    """A plan in the table; see `Cell.matches`."""

    plan: Plan
    matches: str = ""


def compare(
    scenario: Scenario,
    *,
    base_failure: float = 0.02,
    replications: int = 100,
    seed: int | None = None,
    plans: Sequence[Plan] = (),
    tell: Callable[[str], None] | None = None,
) -> Comparison:
    """Return the table; the same for the same arguments. A KeyboardInterrupt ends it with the cells that are done.

    Args:
        scenario: whose fleets count; its own faults do not.
        base_failure: share of devices on which any update fails.
        replications: of each cell, at least 1; four times as many of healthy releases, whose halts are rare.
        seed: None: the scenario's.
        plans: further ones.
        tell: hears which cell is next.

    Raises:
        WhatIfError: no devices, or a number outside its range.
    """
    check_numbers(base_failure=base_failure, failure_rate=None, replications=replications)
    seed = scenario.seed if seed is None else seed
    cases = cases_of(scenario, base_failure=base_failure)
    cells: list[Cell] = []
    left_out: list[str] = []
    is_whole = True
    try:
        for entry in entries(scenario, cases[0].model, seed=seed, plans=plans):
            for number, case in enumerate(cases):
                if tell is not None:
                    tell(f"{_label(entry)}: {case.name}")
                model = under(entry.plan, case.model, origin=scenario.start)
                seeds = [
                    (seed, number, n) for n in range(replications if case.is_bad else HEALTHY_TIMES * replications)
                ]
                left_out += [f"{_label(entry)}: {case.name}: {line}" for line in left_out_of_places(model)]
                cells.append(_cell(entry, replace(case, model=model), scenario, seeds=seeds))
    except KeyboardInterrupt:
        is_whole = False
    return Comparison(
        devices=cases[0].model.devices,
        replications=replications,
        base_failure=base_failure,
        seed=seed,
        cells=tuple(cells),
        is_whole=is_whole,
        not_simulated=tuple(left_out),
    )


def cases_of(scenario: Scenario, *, base_failure: float) -> list[Case]:
    """Return the healthy release first, then what can be wrong; a case that the fleet has no region for is left out."""

    def case(name: str, *faults: ReleaseFault, is_bad: bool = True, of: Scenario = scenario) -> Case:
        return Case(name, model_of(of, base_failure=base_failure, faults=faults), is_bad)

    def everywhere(kind: ReleaseFaultKind, **more: object) -> ReleaseFault:
        return ReleaseFault.model_validate({"release": "*", "kind": kind, **more})

    cases = [case(HEALTHY, is_bad=False)]
    cases += [case(f"{rate:.0%} bad", *plain_fault(rate)) for rate in (0.05, 0.1, 0.3)]
    hardware = _rarest(fleet.hardware for fleet in scenario.fleets)
    if hardware is not None:
        cases.append(case(f"bad on {hardware}", everywhere(ReleaseFaultKind.BOOT, hardware=hardware)))
    cases.append(case(f"{BAD_SHARE:.0%} brick silently", everywhere(ReleaseFaultKind.BRICK, share=BAD_SHARE)))
    cases.append(case("drifts after a day", everywhere(ReleaseFaultKind.DRIFT, after="1d")))
    region = _rarest(fleet.regions for fleet in scenario.fleets)
    if region is not None:
        cases.append(case(f"healthy, {region} is out", is_bad=False, of=_with_outage(scenario, region)))
    return cases


def entries(scenario: Scenario, healthy: FleetModel, *, seed: int, plans: Sequence[Plan] = ()) -> Iterator[Entry]:
    """Yield the plans of the table: ours as they are, then each of the others with ours at its completion time."""
    yield from (Entry(plan) for plan in (*plans, *presets()))
    for plan in rivals():
        yield Entry(plan)
        yield Entry(match(plan, scenario, healthy, seed=seed), matches=plan.name)


def match(rival: Plan, scenario: Scenario, healthy: FleetModel, *, seed: int) -> Plan:
    """Return our plan that completes a healthy release when another does, or as soon as ours can."""

    def seconds(plan: Plan) -> float:
        runs = (
            replicate(plan, scenario, healthy, seeds=(seed, MATCHING, number)) for number in range(4 * MATCHING_RUNS)
        )
        finished = (ended.seconds for ended in runs if ended.state is RolloutState.FINISHED)
        found = list(islice(finished, MATCHING_RUNS))
        if not found:
            raise WhatIfError(f"plan {plan.name}: expected a healthy release to finish, found that none did")
        return float(np.median(found))

    goal = seconds(rival)
    pace, reaches = next(
        (
            each
            for each in _from_slow_to_fast()
            if seconds(ours(each[0], soak=NOTHING, reaches=each[1])) <= EQUAL * goal
        ),
        (PACES[-1], REACHES[-1]),
    )
    low, high = 0.0, goal / (len(reaches) - 1)
    for _ in range(MATCHING_STEPS):
        middle = (low + high) / 2
        if seconds(ours(pace, soak=timedelta(seconds=round(middle)), reaches=reaches)) <= goal:
            low = middle
        else:
            high = middle
    return ours(pace, soak=timedelta(seconds=round(low)), reaches=reaches)


def _from_slow_to_fast() -> list[tuple[Pace, Sequence[int]]]:
    return [(pace, reaches) for reaches in REACHES for pace in PACES]


def _cell(entry: Entry, case: Case, scenario: Scenario, *, seeds: Sequence[tuple[int, ...]]) -> Cell:
    runs = [replicate(entry.plan, scenario, case.model, seeds=each) for each in seeds]
    exposed = [ended.exposed for ended in runs]
    finished = [ended.seconds for ended in runs if ended.state is RolloutState.FINISHED]
    return Cell(
        policy=entry.plan.name,
        matches=entry.matches,
        case=case.name,
        is_bad=case.is_bad,
        halted=share(runs, RolloutState.HALTED),
        asked=share(runs, RolloutState.PAUSED),
        exposed_median=float(np.median(exposed)),
        exposed_p90=float(np.percentile(exposed, 90)),
        seconds=float(np.median(finished)) if finished else None,
    )


def _label(entry: Entry) -> str:
    return f"{entry.plan.name} at the pace of {entry.matches}" if entry.matches else entry.plan.name


def _rarest(mixes: Iterable[Mapping[str, float]]) -> str | None:
    """Return the name with the smallest share of all fleets."""
    shares = [(part, name) for mix in mixes for name, part in mix.items() if part > 0]
    return min(shares)[1] if shares else None


def _with_outage(scenario: Scenario, region: str) -> Scenario:
    found = scenario.regions[region]
    network = found.network.model_copy(update={"outages": (*found.network.outages, OUTAGE)})
    regions = {**scenario.regions, region: found.model_copy(update={"network": network})}
    return scenario.model_copy(update={"regions": regions})


def markdown(comparison: Comparison) -> str:
    """Return the table, with completion times in hours."""
    head = ("policy", "case", "halted", "asks", "exposed (median)", "exposed (p90)", "completes, h")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for cell in comparison.cells:
        policy = f"{cell.policy} = {cell.matches}" if cell.matches else cell.policy
        hours = "-" if cell.seconds is None else f"{cell.seconds / 3600:.2f}"
        shares = f"{cell.halted:.1%} | {cell.asked:.1%}"
        exposed = f"{cell.exposed_median:,.0f} | {cell.exposed_p90:,.0f}"
        lines.append(f"| {policy} | {cell.case} | {shares} | {exposed} | {hours} |")
    lines += [f"\nnot simulated: {line}" for line in comparison.not_simulated]
    return "\n".join(lines)
