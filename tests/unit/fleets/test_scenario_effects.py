"""What faults and happenings mean in every fidelity."""

import math
from datetime import timedelta

import pytest

from device_sim.fleets.effects import REBOOT_SECONDS, devices_hit, reboot_seconds, strikes_in_update, theft_seconds
from device_sim.fleets.plan import plan_fleet
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault
from protocol.scenario.happenings import Happening, HappeningKind


def happening(kind: HappeningKind, **changes: object) -> Happening:
    return Happening.model_validate({"at": "1m", "kind": kind, **changes})


def test_length_of_a_happening_is_its_own_where_it_has_one() -> None:
    """Else a reboot takes a few seconds, and a thief keeps what he took."""
    reboot, theft = happening(HappeningKind.REBOOT), happening(HappeningKind.THEFT)
    assert REBOOT_SECONDS[0] <= reboot_seconds(Scenario(), reboot, "ab") <= REBOOT_SECONDS[1]
    assert reboot_seconds(Scenario(), happening(HappeningKind.REBOOT, lasts="1h"), "ab") == 3600
    assert theft_seconds(theft) == math.inf
    assert theft_seconds(theft.model_copy(update={"lasts": timedelta(hours=1)})) == 3600


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kind": "brick"}, True),
        ({"kind": "brick", "after": "1m"}, False),
        ({"kind": "brick", "only_in_the_dark": True}, False),
        ({"kind": "crash-loop"}, False),
    ],
)
def test_brick_strikes_in_the_update_unless_it_waits(content: dict[str, object], expected: bool) -> None:  # noqa: FBT001
    """A release that waits for something is confirmed first."""
    assert strikes_in_update(ReleaseFault.model_validate({"release": "*", **content})) is expected


@pytest.mark.parametrize(("kind", "count"), [("clone", 1), ("theft", 1), ("reboot", 0)])
def test_clones_and_thefts_hit_at_least_one(kind: str, count: int) -> None:
    """A share of a small fleet may be less than one device; the same one, in whatever order they are given."""
    scenario = Scenario.model_validate(
        {"fleets": [{"name": "f", "devices": 5}], "happenings": [{"at": "1m", "kind": kind, "share": 1e-9}]}
    )
    plans = {plan.name: plan for plan in plan_fleet(scenario, scenario.fleets[0])}
    hit = devices_hit(scenario, 0, plans)
    assert len(hit) == count
    assert hit == devices_hit(scenario, 0, dict(reversed(plans.items())))
