"""A fleet as it is under a plan: how updates end with its retries, and when its windows are open."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from protocol.plan import Plan
from service.application.plans import timing_of
from service.domain.windows import Maintenance
from simulation.what_if.fleet import FleetModel
from simulation.what_if.retrying import tried_again
from simulation.what_if.windows import open_times


def under(plan: Plan, model: FleetModel, *, origin: datetime) -> FleetModel:
    """Return the fleet as a plan treats it.

    Args:
        plan: with its retries and windows.
        model: as its scenario declares it.
        origin: of the scenario, UTC, aware.
    """
    return _by_clocks(tried_again(model, plan.retries), timing_of(plan).maintenance, origin)


def _by_clocks(model: FleetModel, maintenance: Maintenance, origin: datetime) -> FleetModel:
    if not maintenance.windows:
        return model
    offsets = dict.fromkeys(kind.utc_offset for kind in model.kinds)
    numbers: Mapping[float | None, int] = {offset: number for number, offset in enumerate(offsets)}
    kinds = tuple(replace(kind, clock=numbers[kind.utc_offset]) for kind in model.kinds)
    clocks = tuple(open_times(maintenance, _zone(offset, maintenance), origin) for offset in offsets)
    return FleetModel(model.devices, kinds, clocks)


def _zone(offset: float | None, maintenance: Maintenance) -> tzinfo:
    return ZoneInfo(maintenance.zone) if offset is None else timezone(timedelta(hours=offset))
