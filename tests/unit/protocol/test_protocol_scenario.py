"""Scenarios on the wire: what is understood, and what is refused by name and place."""

import json
from datetime import time, timedelta
from typing import Any

import pytest

from protocol.document import DocumentError, parse_document
from protocol.scenario import Scenario

REGIONS = {"north": {"utc_offset": 1, "network": {"offline_hours": ["22:00-06:00"]}}}
FLEET = {"name": "gates", "devices": 3}
ROLLOUT = {"release": "r", "stages": [{"percent": 100}]}
RELEASE = {"name": "r", "images": {"m4-0/model": {"name": "person@1.0.0", "bytes": 10}}}


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
    geometry = found.hardware["rev-b"].geometry
    assert geometry is not None
    assert geometry.layout.geometry.size_bytes == 2 * 1024 * 1024


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
            {"releases": [RELEASE], "rollouts": [{**ROLLOUT, "stages": [{"percent": 50}, {"percent": 20}]}]},
            "rollouts.0.stages: expected rising percentages",
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
        ({"hardware": {"rev-b": {"geometry": {"size_bytes": 4096}}}}, "hardware.rev-b.geometry: .*layout: expected"),
        ({"length": "soon"}, "length: .*expected a length of time"),
    ],
)
def test_what_does_not_agree_is_refused_by_place(content: dict[str, Any], why: str) -> None:
    """Nothing starts with a scenario that says what cannot be."""
    with pytest.raises(DocumentError, match=why):
        scenario(**content)
