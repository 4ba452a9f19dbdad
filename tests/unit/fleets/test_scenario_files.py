"""Scenario files as people leave them: what is a scenario, and what is refused with the file's name."""

from pathlib import Path

import pytest

from device_sim.fleets.scenario_file import MAX_SCENARIO_BYTES, ScenarioError, read_scenario
from protocol.scenario import Scenario


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


def test_missing_file_is_said(tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(ScenarioError, match=r"none\.yaml: expected a scenario, found No such file"):
        read_scenario(tmp_path / "none.yaml")
