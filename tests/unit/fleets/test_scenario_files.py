"""Scenario files as people leave them: what is a scenario, and what is refused with the file's name."""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.fleets.scenario_file import MAX_SCENARIO_BYTES, ScenarioError, read_scenario
from protocol.scenario import Scenario

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "scenarios"


def test_empty_file_is_a_quiet_fleet(tmp_path: Path) -> None:
    """Everything has a default."""
    (tmp_path / "empty.yaml").write_bytes(b"# later\n")
    assert read_scenario(tmp_path / "empty.yaml") == Scenario()


def test_start_is_read_as_written(tmp_path: Path) -> None:
    """YAML's own dates do not come between."""
    (tmp_path / "start.yaml").write_bytes(b"start: 2026-02-03T04:05:06Z\n")
    assert read_scenario(tmp_path / "start.yaml").start.isoformat() == "2026-02-03T04:05:06+00:00"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[]", "expected keys, found list"),
        (b"0", "expected keys, found int"),
        (b"a: &a [1]\nb: [*a, *a]", "expected no alias"),
        (b"seed: 1\nseed: 2", "expected each key once"),
        (b"#" * (MAX_SCENARIO_BYTES + 1), "expected at most 1048576 bytes"),
        (b"fleet: []", "fleet: Extra inputs"),
    ],
)
def test_file_that_is_no_scenario_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    """The error names the file."""
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ScenarioError, match=f"(?s)odd.yaml: .*{why}"):
        read_scenario(path)


FLEET: Mapping[str, Any] = {"name": "doors", "devices": 3}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"fleets": [{**FLEET, "colour": "red"}]}, r"fleets\.0\.colour"),
        ({"fleets": [{**FLEET, "devices": 0}]}, r"fleets\.0\.devices"),
        ({"fleets": [{**FLEET, "devices": "3"}]}, r"fleets\.0\.devices"),
        ({"fleets": [{**FLEET, "fidelity": "real"}]}, r"fleets\.0\.fidelity"),
        ({"fleets": [{**FLEET, "name": "Doors!"}]}, r"fleets\.0\.name"),
        ({"fleets": [FLEET, FLEET]}, "expected each name once, found 'doors'"),
        ({"fleets": [{**FLEET, "hardware": {"rev-z": 1}}]}, "fleet doors, hardware: .*found .?rev-z"),
        ({"fleets": [{**FLEET, "regions": {"r": 0.7, "s": 0.7}}], "regions": {"r": {}, "s": {}}}, "found 1.4"),
        ({"fleets": [{**FLEET, "inference_period": "0s"}]}, r"fleets\.0\.inference_period"),
        ({"fleets": [{**FLEET, "power": {"lasts": ["9s", "1s"]}}]}, "expected the shorter time first"),
        ({"fleets": [{**FLEET, "sensors": [{"sensor": "nose", "replay": "a.wav"}]}]}, r"fleets\.0\.sensors"),
        ({"regions": {"r": {"network": {"latency": "80"}}}}, r"regions\.r\.network\.latency"),
        ({"regions": {"r": {"network": {"offline_hours": ["25:00-26:00"]}}}}, r"offline_hours"),
        ({"hardware": {"h": {"geometry": {"sector_bytes": 1000}}}}, r"hardware\.h\.geometry"),
        ({"hardware": {"h": {"geometry": {"size_bytes": 4096}}}}, r"hardware\.h\.geometry"),
        ({"hardware": {"h": {"defects": [{"kind": "rust"}]}}}, r"hardware\.h\.defects\.0\.kind"),
        ({"length": "-5m"}, "length"),
        ({"seed": 1.5}, "seed"),
        ({"happenings": [{"at": "1m", "kind": "lighting", "level": 3}]}, r"happenings\.0.*expected 0 to 1"),
        ({"happenings": [{"at": "1m", "kind": "theft", "fleet": "gates"}]}, r"happenings\.0\.fleet"),
        ({"release_faults": [{"release": "r", "kind": "drift", "factor": 4}]}, "expected at most 1"),
        ({"kernel_faults": [{"model": "person", "kind": "hang"}]}, r"kernel_faults\.0\.model"),
    ],
)
def test_scenario_with_something_wrong_in_it_says_where(content: Mapping[str, Any], why: str, tmp_path: Path) -> None:
    """Which key of which entry, and what was found there."""
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(content))  # which is YAML, too
    with pytest.raises(ScenarioError, match=f"(?s)wrong.yaml: .*{why}"):
        read_scenario(path)


EXAMPLES = [yaml.safe_load(path.read_bytes()) for path in sorted(FOLDER.glob("*.yaml"))]
STRANGE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1e9d", "@", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value: object) -> list[tuple[Any, Any]]:
    """Every container of a document with one of its keys."""
    if isinstance(value, dict):
        return [(value, key) for key in value] + [place for each in value.values() for place in places(each)]
    if isinstance(value, list):
        return [(value, key) for key in range(len(value))] + [place for each in value for place in places(each)]
    return []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_stands_in_an_example_is_read_or_refused(data: st.DataObject) -> None:
    """With an error that names the file: nothing else is raised, wherever the odd value stands."""
    document = copy.deepcopy(data.draw(st.sampled_from(EXAMPLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(document)))
        container[key] = data.draw(STRANGE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "strange.yaml"
        path.write_text(yaml.safe_dump(document, allow_unicode=True))
        try:
            read_scenario(path)
        except ScenarioError as error:
            assert "strange.yaml: " in str(error)  # noqa: PT017 - either ending is right


def test_missing_file_is_said(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(ScenarioError, match=r"none\.yaml: expected a scenario, found No such file"):
        read_scenario(tmp_path / "none.yaml")
