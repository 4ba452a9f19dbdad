"""What faults and happenings mean, for devices of every fidelity: how long, how often, when, and to whom."""

import math
from collections.abc import Mapping
from datetime import timedelta

from device_sim.fleets.choices import chance
from device_sim.fleets.conditions import hits
from device_sim.fleets.plan import DevicePlan
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.fleets import PowerCycles
from protocol.scenario.happenings import Happening, HappeningKind

CRASH_LOOP = PowerCycles(per_day=8640, lasts=(timedelta(seconds=1), timedelta(seconds=2)))  # every ten seconds
REBOOT_SECONDS = (1.0, 5.0)  # without power in a reboot storm that does not say how long
AT_LEAST_ONE = frozenset({HappeningKind.CLONE, HappeningKind.THEFT})


def reboot_seconds(scenario: Scenario, happening: Happening, device_id: str) -> float:
    """Return how long a reboot leaves a device without power."""
    drawn = chance(scenario.seed, "reboot", device_id).uniform(*REBOOT_SECONDS)
    return happening.lasts.total_seconds() or drawn


def theft_seconds(happening: Happening) -> float:
    """Return how long a thief keeps a device without power: infinity, where no end is declared."""
    return happening.lasts.total_seconds() or math.inf


def strikes_in_update(fault: ReleaseFault) -> bool:
    """Whether a brick goes silent in mid update; one with a time or in need of the dark is confirmed first."""
    return fault.kind is ReleaseFaultKind.BRICK and not fault.after and not fault.only_in_the_dark


def devices_hit(scenario: Scenario, number: int, plans: Mapping[str, DevicePlan]) -> list[str]:
    """Return which devices a happening hits; clones and thefts hit at least one of those that they could.

    Args:
        scenario: declares it.
        number: of the happening in the scenario.
        plans: of every device that takes part.
    """
    happening = scenario.happenings[number]
    hit = _meant(scenario, happening, number, plans)
    if hit or happening.kind not in AT_LEAST_ONE:
        return hit
    everybody = _meant(scenario, happening.model_copy(update={"share": 1.0}), number, plans)
    return sorted(everybody, key=lambda who: chance(scenario.seed, f"happening/{number}", who).random())[:1]


def _meant(scenario: Scenario, happening: Happening, number: int, plans: Mapping[str, DevicePlan]) -> list[str]:
    return [device_id for device_id, plan in plans.items() if hits(scenario, happening, number, plan, device_id)]
