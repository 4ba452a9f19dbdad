"""Scenarios on the wire: what is understood, and what is refused by name and place."""

import json
from datetime import time, timedelta
from typing import Any

import pytest

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault
from protocol.scenario.network import NetworkQuality

REGIONS = {"north": {"utc_offset": 1, "network": {"offline_hours": ["22:00-06:00"]}}}
FLEET = {"name": "gates", "devices": 3, "fidelity": "virtual"}
ROLLOUT = {"release": "r", "stages": [{"percent": 100}]}
RELEASE = {"name": "r", "images": {"m4-0/model": {"name": "person@1.0.0", "bytes": 10}}}


FILTERED = {
    "target": {"not": {"release": "factory"}},
    "stages": [{"percent": 100, "where": {"any": [{"attribute": "ring", "is": "a"}, {"release": "gone"}]}}],
}


def scenario(**content: Any) -> Scenario:
    return parse_document(json.dumps(content).encode(), Scenario)


def test_quiet_scenario_infers_once_a_second() -> None:
    """What is left out is a quiet fleet."""
    assert scenario().inference_period == timedelta(seconds=1)


def test_whole_scenario_is_understood() -> None:
    """Names refer to what is declared; hours and lengths of time have types."""
    found = scenario(
        regions=REGIONS,
        hardware={"rev-b": {"geometry": {"size_bytes": 2 * 1024 * 1024}}},
        fleets=[{**FLEET, "regions": {"north": 0.5}, "hardware": {"rev-b": 1}, "power": {"lasts": ["1s", "2m"]}}],
        kernel_faults=[{"model": "person@*", "kind": "crash", "hardware": "rev-b"}],
        release_faults=[{"release": "r", "kind": "boot", "region": "north"}],
        happenings=[{"at": "1m", "kind": "reboot", "fleet": "gates"}],
        releases=[RELEASE],
        rollouts=[ROLLOUT],
    )
    assert found.regions["north"].network.offline_hours == ((time(22), time(6)),)
    assert found.fleets[0].power.lasts == (timedelta(seconds=1), timedelta(minutes=2))
    assert parse_document(canonical_json(found), Scenario) == found
    geometry = found.hardware["rev-b"].geometry
    assert geometry is not None
    assert geometry.layout.geometry.size_bytes == 2 * 1024 * 1024


def test_hours_that_were_read_are_not_read_again() -> None:
    """A scenario is made from another one's values, too."""
    hours = (time(22), time(6))
    assert NetworkQuality.model_validate({"offline_hours": (hours,)}).offline_hours == (hours,)


def test_fault_of_a_release_that_an_operator_makes_is_understood() -> None:
    """A scenario without releases knows none of their names."""
    found = scenario(release_faults=[{"release": "Night vision 2", "kind": "boot"}])
    assert found.release_faults[0].release == "Night vision 2"


def test_release_is_half_as_sure_or_twice_as_slow_by_default() -> None:
    """One key for both kinds, each with a default of its own."""
    faults = [ReleaseFault.model_validate({"release": "r", "kind": kind}) for kind in ("drift", "slow")]
    assert [fault.strength for fault in faults] == [0.5, 2.0]
    assert ReleaseFault.model_validate({"release": "r", "kind": "slow", "factor": 3}).strength == 3.0


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"fleet": []}, "fleet: Extra inputs"),
        ({"fleets": [FLEET, FLEET]}, "fleets: expected each name once, found 'gates'"),
        ({"fleets": [{**FLEET, "regions": {"south": 1}}], "regions": REGIONS}, "fleet gates, regions: expected one of"),
        ({"fleets": [{**FLEET, "hardware": {"x": 1}}]}, "fleet gates, hardware: expected one of nothing, found 'x'"),
        (
            {"fleets": [{**FLEET, "hardware": {"a": 0.6, "b": 0.6}}], "hardware": {"a": {}, "b": {}}},
            "fleet gates, hardware: expected shares of at most 1 together, found 1.2",
        ),
        ({"rollouts": [ROLLOUT]}, "rollouts.0.release: expected one of nothing, found 'r'"),
        (
            {"releases": [RELEASE], "rollouts": [{"release": "r", "plan": FILTERED}]},
            "rollouts.0.plan, filter of a release: expected one of factory, r, found 'gone'",
        ),
        (
            {"releases": [RELEASE], "rollouts": [{**ROLLOUT, "stages": [{"percent": 50}, {"percent": 20}]}]},
            "rollouts.0.stages: expected percentages that rise to 100",
        ),
        (
            {"releases": [RELEASE], "rollouts": [{**ROLLOUT, "stages": [{"percent": 50}]}]},
            r"rollouts.0.stages: expected percentages that rise to 100, found \[50.0\]",
        ),
        (
            {"releases": [RELEASE], "rollouts": [{**ROLLOUT, "group": "Lab"}], "fleets": [FLEET]},
            "rollouts.0: expected product and group of a virtual fleet, found Camera Lab",
        ),
        (
            {"releases": [RELEASE], "rollouts": [ROLLOUT], "fleets": [{**FLEET, "fidelity": "light"}]},
            "rollouts.0: expected product and group of a virtual fleet, found Camera Production",
        ),
        ({"releases": [{**RELEASE, "name": "factory"}]}, "releases: expected other names than factory"),
        (
            {"releases": [RELEASE], "release_faults": [{"release": "q", "kind": "boot"}]},
            r"release_faults.0.release: expected one of \*, r, found 'q'",
        ),
        (
            {"release_faults": [{"release": "r", "kind": "drift", "factor": 2}]},
            "release_faults.0: .*expected at most 1, which is all of the confidence, found 2",
        ),
        ({"release_faults": [{"release": "", "kind": "boot"}]}, "release_faults.0.release"),
        ({"start": "9999-12-31T00:00:00Z"}, "start: Input should be less than or equal to .*9000"),
        ({"fleets": [{**FLEET, "devices": True}]}, "fleets.0.devices: Input should be a valid integer"),
        ({"fleets": [{**FLEET, "devices": "3"}]}, "fleets.0.devices: Input should be a valid integer"),
        ({"fleets": [{**FLEET, "inference_period": "0s"}]}, "fleets.0.inference_period: Input should be greater"),
        ({"inference_period_seconds": 1e300}, "inference_period_seconds: Input should be less"),
        ({"seed": 2**60}, "seed: Input should be less"),
        ({"hardware": {"rev-b": {"os_version": ""}}}, "hardware.rev-b.os_version"),
        ({"regions": {"n": {"network": {"metered": True}}}}, "metered: Extra inputs"),
        ({"happenings": [{"at": "1m", "kind": "load", "level": 0}]}, "happenings.0: .*expected a load above 0"),
        (
            {"happenings": [{"at": "1m", "kind": "lighting", "level": 2}]},
            "happenings.0: .*expected 0 to 1 for lighting",
        ),
        ({"happenings": [{"at": "1m", "kind": "reboot", "region": "x"}]}, "happenings.0.region: expected one of"),
        ({"release_faults": [{"release": "*", "kind": "boot", "hardware": "x"}]}, "release_faults.0.hardware"),
        ({"kernel_faults": [{"model": "p@1", "kind": "hang", "hardware": "x"}]}, "kernel_faults.0.hardware"),
        ({"kernel_faults": [{"model": "person", "kind": "hang"}]}, "kernel_faults.0.model"),
        (
            {"fleets": [{**FLEET, "power": {"lasts": ["2m", "1s"]}}]},
            "fleets.0.power: .*expected the shorter time first",
        ),
        ({"regions": {"n": {"network": {"offline_hours": ["late"]}}}}, "offline_hours.0.*expected hours such as"),
        ({"regions": {"n": {"network": {"offline_hours": [7]}}}}, "offline_hours.0"),
        ({"regions": {"n": {"network": {"offline_hours": ["22:00Z-06:00"]}}}}, "offline_hours.0.*expected hours"),
        ({"regions": {"n": {"network": {"offline_hours": ["22:00-24:00"]}}}}, "offline_hours.0.*expected hours"),
        ({"hardware": {"rev-b": {"geometry": {"size_bytes": 4096}}}}, "hardware.rev-b.geometry: .*layout: expected"),
        ({"length": "soon"}, "length: .*expected a length of time"),
    ],
)
def test_what_does_not_agree_is_refused_by_place(content: dict[str, Any], why: str) -> None:
    """Nothing starts with a scenario that says what cannot be."""
    with pytest.raises(DocumentError, match=why):
        scenario(**content)
