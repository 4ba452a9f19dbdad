"""Who the devices of a scenario are: the seed decides, device by device."""

from collections import Counter
from datetime import timedelta

import pytest

from device_sim.fleets.choices import chance, choose, is_hit
from device_sim.fleets.conditions import conditions_of
from device_sim.fleets.defects import defects_of
from device_sim.fleets.plan import identity_seed, plan_device, plan_fleet
from protocol.geometry import M4_CLOCK_HZ
from protocol.scenario import Scenario
from protocol.sensing import SensorKind

DEVICE = "ab" * 64


def scenario(*, devices: int = 400, seed: int = 5) -> Scenario:
    return Scenario.model_validate(
        {
            "seed": seed,
            "regions": {"north": {}, "south": {}},
            "hardware": {"rev-b": {"defects": [{"kind": "slow-clock", "factor": 0.5}]}},
            "fleets": [
                {
                    "name": "gates",
                    "devices": devices,
                    "regions": {"north": 0.25, "south": 0.5},
                    "hardware": {"rev-b": 1},
                    "clocks": {"offset": "10m", "drift_ppm": 50},
                    "sites": 4,
                    "attributes": {"site": "quay-{n}"},
                    "conditions": [{"lighting": 0.5, "starts_seconds": 100, "ends_seconds": 200}],
                }
            ],
            "happenings": [
                {"at": "5m", "kind": "lighting", "level": 0.1, "lasts": "1m"},
                {"at": "1s", "kind": "reboot"},
            ],
        }
    )


def test_seed_repeats_and_another_device_changes_nothing() -> None:
    """The same scenario and seed give the same devices; a larger fleet begins with the same ones."""
    first, again = (list(plan_fleet(each, each.fleets[0])) for each in (scenario(), scenario()))
    larger = scenario(devices=500)
    assert first == again == list(plan_fleet(larger, larger.fleets[0]))[:400]
    other = scenario(seed=6)
    assert first != list(plan_fleet(other, other.fleets[0]))
    assert identity_seed(scenario(), first[0]) != identity_seed(other, first[0])


def test_shares_are_met_and_the_rest_is_nowhere_in_particular() -> None:
    """A quarter north, half south, the rest without a region; clocks are within their limits."""
    declared = scenario(devices=2000)
    plans = list(plan_fleet(declared, declared.fleets[0]))
    regions = Counter(plan.region for plan in plans)
    assert regions["north"] == pytest.approx(500, abs=100)
    assert regions["south"] == pytest.approx(1000, abs=100)
    assert regions[None] == pytest.approx(500, abs=100)
    assert {plan.hardware for plan in plans} == {"rev-b"}
    assert {plan.attributes["site"] for plan in plans} == {f"quay-{number}" for number in range(4)}
    assert all(abs(plan.clock_offset) <= timedelta(minutes=10) for plan in plans)
    assert min(plan.clock_drift_ppm for plan in plans) < -40 < 40 < max(plan.clock_drift_ppm for plan in plans) <= 50


def test_choices_of_one_purpose_are_not_those_of_another() -> None:
    """Each purpose draws from a generator of its own; shares of a whole leave nobody out."""
    assert chance(1, "network", DEVICE).random() == chance(1, "network", DEVICE).random()
    assert chance(1, "network", DEVICE).random() != chance(1, "power", DEVICE).random()
    assert not is_hit(1, "x", DEVICE, share=0.0)
    assert is_hit(1, "x", DEVICE, share=1.0)
    assert choose(1, "x", DEVICE, shares={}) is None
    assert choose(1, "x", DEVICE, shares={"a": 1 - 1e-12, "b": 1e-12}) in {"a", "b"}


def test_board_has_the_defects_of_its_revision() -> None:
    """A slow clock of the revision, and none without a revision."""
    declared = scenario()
    plan = plan_device(declared, declared.fleets[0], 0)
    assert defects_of(declared, plan, DEVICE).clock_hz == M4_CLOCK_HZ // 2


def test_conditions_are_in_the_time_of_a_device_that_is_opened_later() -> None:
    """What is over is left out, what holds begins at once, and what happens to the light is a condition, too."""
    declared = scenario()
    plan = plan_device(declared, declared.fleets[0], 0)

    def spans(since: float) -> list[tuple[float, float | None]]:
        found = conditions_of(declared, plan, DEVICE, since_start=timedelta(seconds=since))
        return [(each.starts_seconds, each.ends_seconds) for each in found]

    assert spans(0) == [(100, 200), (300, 360)]
    assert spans(150) == [(0, 50), (150, 210)]
    assert spans(250) == [(50, 110)]
    (dark,) = conditions_of(declared, plan, DEVICE, since_start=timedelta(seconds=250))
    assert (dark.sensor, dark.lighting) == (SensorKind.CAMERA, 0.1)
