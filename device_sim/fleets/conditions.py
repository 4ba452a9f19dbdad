"""What disturbs a device's sensors: what its fleet declares, and what happenings do to the light and to machines."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from device_sim.cores.device_time import DeviceTime
from device_sim.fleets.choices import is_hit
from device_sim.fleets.plan import DevicePlan, fleet_of
from device_sim.sensors.disturbance import disturbance
from protocol.scenario import Scenario
from protocol.scenario.happenings import Happening, HappeningKind
from protocol.sensing import MechanicalFault, SensorConditions, SensorKind

DARK = 0.5  # of daylight
NO_FLEET = ""  # of devices that no scenario declares


def conditions_of(
    scenario: Scenario, plan: DevicePlan, device_id: str, *, since_start: timedelta
) -> tuple[SensorConditions, ...]:
    """Return what disturbs the sensors of a device, in the time of a device that is opened now.

    Args:
        scenario: declares it.
        plan: of the device.
        device_id: decides, with the seed, whether a happening hits the device.
        since_start: of the scenario.
    """
    declared = () if plan.fleet == NO_FLEET else fleet_of(scenario, plan.fleet).conditions
    happening = _from_happenings(scenario, plan, device_id)
    shifted = (_from_now(each, since_start.total_seconds()) for each in (*declared, *happening))
    return tuple(each for each in shifted if each is not None)


def is_dark(conditions: Sequence[SensorConditions], time: DeviceTime) -> bool:
    """Whether it is dark in front of a device's camera now."""
    return disturbance(conditions, SensorKind.CAMERA, time.now).lighting < DARK


def hits(scenario: Scenario, happening: Happening, number: int, plan: DevicePlan, device_id: str) -> bool:
    """Whether a happening hits a device; `number` is the happening's."""
    where = ((happening.fleet, plan.fleet), (happening.region, plan.region), (happening.hardware, plan.hardware))
    if any(wanted is not None and wanted != found for wanted, found in where):
        return False
    return is_hit(scenario.seed, f"happening/{number}", device_id, share=happening.share)


def _from_happenings(scenario: Scenario, plan: DevicePlan, device_id: str) -> Iterator[SensorConditions]:
    for number, happening in enumerate(scenario.happenings):
        if happening.kind not in (HappeningKind.LIGHTING, HappeningKind.VIBRATION):
            continue
        if not hits(scenario, happening, number, plan, device_id):
            continue
        start = happening.at.total_seconds()
        end = start + happening.lasts.total_seconds() if happening.lasts else None
        level = happening.level
        if happening.kind is HappeningKind.LIGHTING:
            yield SensorConditions(sensor=SensorKind.CAMERA, lighting=level, starts_seconds=start, ends_seconds=end)
        else:
            yield SensorConditions(
                sensor=SensorKind.ACCELEROMETER,
                fault=MechanicalFault.BEARING,
                severity=level,
                starts_seconds=start,
                ends_seconds=end,
            )


def _from_now(conditions: SensorConditions, since_start: float) -> SensorConditions | None:
    """Return conditions as a device counts that is opened so late, or None if they are over."""
    start, end, every = conditions.starts_seconds - since_start, conditions.ends_seconds, conditions.every_seconds
    if start >= 0 or every is None:
        if end is not None and end <= since_start:
            return None
        later = {"starts_seconds": max(0.0, start), "ends_seconds": None if end is None else end - since_start}
    else:  # the next time that it begins
        start %= every
        later = {"starts_seconds": start, "ends_seconds": start + (end or 0.0) - conditions.starts_seconds}
    return conditions.model_copy(update=later)
