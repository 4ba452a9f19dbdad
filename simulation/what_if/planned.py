"""A fleet as it is under a plan: how updates end with its retries, who waits for whom, when its windows are open."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from math import ceil
from zoneinfo import ZoneInfo

from protocol.plan import Plan
from service.application.plans import timing_of
from service.domain.timing import Budget
from service.domain.windows import Maintenance
from simulation.what_if.fleet import FleetModel, Windows, merged
from simulation.what_if.places import Places
from simulation.what_if.retrying import tried_again
from simulation.what_if.windows import open_times


def under(plan: Plan, model: FleetModel, *, origin: datetime) -> FleetModel:
    """Return the fleet as a plan treats it.

    Args:
        plan: with its retries, its disruption budget and its windows.
        model: as its scenario declares it.
        origin: of the scenario, UTC, aware.
    """
    timing = timing_of(plan)
    placed = by_places(model, timing.budget, silent_seconds=plan.device_timeout.total_seconds())
    return _where_all_come_together(_by_clocks(tried_again(placed, plan.retries), timing.maintenance, origin))


def by_places(model: FleetModel, budget: Budget | None, *, silent_seconds: float) -> FleetModel:
    """Return the fleet with the places at which a disruption budget holds.

    Args:
        model: whose kinds know the attributes of their devices.
        budget: of the plan.
        silent_seconds: that a device keeps its place which falls silent.
    """
    kinds = tuple(replace(kind, fleet="", attributes=(), sites=1) for kind in model.kinds)
    if budget is None:
        return replace(model, kinds=merged(kinds))
    values = [dict(kind.attributes).get(budget.group_by) for kind in model.kinds]
    names = [
        value if value is None or "{n}" not in value else (value, kind.fleet, kind.sites)
        for value, kind in zip(values, model.kinds, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name in names if name is not None))}
    devices = dict.fromkeys(numbers, 0.0)
    for name, kind in zip(names, model.kinds, strict=True):
        if name is not None:
            devices[name] += kind.share * model.devices
    places = tuple(_places(name, round(devices[name]), budget, silent_seconds) for name in numbers)
    placed = (
        replace(kind, place=-1 if name is None else numbers[name]) for kind, name in zip(kinds, names, strict=True)
    )
    return replace(model, kinds=merged(placed), places=places)


def _places(name: str | tuple[str, str, int], devices: int, budget: Budget, silent_seconds: float) -> Places:
    sites = 1 if isinstance(name, str) else max(1, min(name[2], devices))
    fullest = max(1, ceil(devices / sites))
    return Places(sites, min(budget.most(devices // sites), fullest), silent_seconds)


def _by_clocks(model: FleetModel, maintenance: Maintenance, origin: datetime) -> FleetModel:
    if not maintenance.windows:
        return model
    offsets = dict.fromkeys(kind.utc_offset for kind in model.kinds)
    numbers: Mapping[float | None, int] = {offset: number for number, offset in enumerate(offsets)}
    kinds = tuple(replace(kind, clock=numbers[kind.utc_offset]) for kind in model.kinds)
    clocks = tuple(open_times(maintenance, _zone(offset, maintenance), origin) for offset in offsets)
    return replace(model, kinds=kinds, clocks=clocks)


def _where_all_come_together(model: FleetModel) -> FleetModel:
    """Return the fleet with those places alone whose devices have network and windows at the same times.

    Places call in the order of asking, and devices are drawn in the order of being let in: elsewhere one that asks
    hours later would be called before those that are let in meanwhile.
    """
    times: dict[int, set[tuple[Windows, Windows, int]]] = {}
    for kind in model.kinds:
        times.setdefault(kind.place, set()).add((kind.offline, kind.outages, kind.clock))
    bound = [number for number in range(len(model.places)) if len(times[number]) == 1]
    numbers = {old: new for new, old in enumerate(bound)}
    unbound = sum(kind.share for kind in model.kinds if kind.place >= 0 and kind.place not in numbers)
    kinds = tuple(replace(kind, place=numbers.get(kind.place, -1)) for kind in model.kinds)
    places = tuple(model.places[number] for number in bound)
    return replace(model, kinds=merged(kinds), places=places, unbound=unbound)


def _zone(offset: float | None, maintenance: Maintenance) -> tzinfo:
    return ZoneInfo(maintenance.zone) if offset is None else timezone(timedelta(hours=offset))
