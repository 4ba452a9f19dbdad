"""`device-sim run SCENARIO DEVICES`: what cannot be run is said, by place, before any device starts."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from device_sim.cli import main
from tests.integration.device_update.test_device_sim_command import sign_as_factory
from tests.unit.device_hardware.device_builder import Packages

QUIET = {"name": "gates", "devices": 2}
LIGHT = {**QUIET, "fidelity": "light"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A scenario's file and the devices that were made for it."""

    folder: Path

    @property
    def devices(self) -> Path:
        return self.folder / "devices"

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    def scenario(self, **content: Any) -> Path:
        path = self.folder / "scenario.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    def make(self, *, count: int = 2, **content: Any) -> list[Path]:
        code, said = command("manufacture", "--scenario", self.scenario(**content), "--out", self.devices)
        assert code == 0, said
        made = [Path(line) for line in said.splitlines()]
        assert len(made) == count
        return made

    def refusal(self, scenario: Path, *more: object) -> str:
        """Return why a run was refused; nothing of it has started."""
        service = self.folder / "service.json"
        service.write_text('{"device_url": "https://127.0.0.1:1", "mqtt_host": "127.0.0.1", "mqtt_port": 1}')
        words = (*more, "--service-file", service, "--events", self.events)
        code, said = command("run", scenario, self.devices, *words)
        assert code == 1, said
        assert not self.events.exists() or "booted" not in self.events.read_text()
        return said


def command(*words: object) -> tuple[int, str]:
    """Run a command in this process; returns its exit code and what it said."""
    before, sys.argv = sys.argv, ["device-sim", *map(str, words)]
    code = 0
    with redirect_stdout(io.StringIO()) as stdout, redirect_stderr(io.StringIO()) as stderr:
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.argv = before
    return code, stdout.getvalue() + stderr.getvalue()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_unknown_key_says_where(stage: Stage) -> None:
    """The file, the place and the key."""
    stage.make(fleets=[QUIET])
    said = stage.refusal(stage.scenario(fleets=[{**QUIET, "colour": "red"}]))
    assert "scenario.yaml: Scenario: fleets.0.colour: Extra inputs are not permitted" in said


def test_impossible_geometry_says_why(stage: Stage) -> None:
    """A chip that does not hold its slots is refused at manufacture and at the run."""
    stage.make(fleets=[QUIET])
    impossible = {"hardware": {"rev-b": {"geometry": {"size_bytes": 65536}}}, "fleets": [QUIET]}
    said = stage.refusal(stage.scenario(**impossible))
    assert "hardware.rev-b.geometry: " in said
    assert "expected slots, spare and 4 sectors of trailers in 65536 bytes" in said
    code, at_manufacture = command("manufacture", "--scenario", stage.scenario(**impossible), "--out", stage.devices)
    assert code == 1
    assert "hardware.rev-b.geometry" in at_manufacture


def test_unknown_profile_says_which_there_are(stage: Stage) -> None:
    """A software stack that the latency model does not know."""
    stage.make(fleets=[QUIET])
    said = stage.refusal(stage.scenario(hardware={"rev-b": {"profile": "magic"}}, fleets=[QUIET]))
    assert "hardware.rev-b.profile: expected one of reference, " in said
    assert "found 'magic'" in said


def test_missing_photos_say_whose_they_are(stage: Stage) -> None:
    """A fleet whose cameras are to look at photos that are not there."""
    stage.make(fleets=[QUIET])
    sensors = [{"sensor": "camera", "replay": "photos/nowhere"}]
    said = stage.refusal(stage.scenario(fleets=[{**QUIET, "sensors": sensors}]))
    assert "fleet gates, sensors: " in said
    assert "nowhere" in said


def test_missing_folders_say_which_device_has_none(stage: Stage) -> None:
    """A fleet that has grown since its devices were made."""
    stage.make(fleets=[QUIET])
    said = stage.refusal(stage.scenario(fleets=[{**QUIET, "devices": 3}]))
    assert "fleet gates: expected folders of 3 devices, found 2, none of number 2" in said


def test_devices_of_another_scenario_are_not_taken_for_this_ones(stage: Stage) -> None:
    """Another share of a revision makes other devices; the folders are the old ones."""
    stage.make(fleets=[QUIET])
    said = stage.refusal(stage.scenario(hardware={"rev-b": {}}, fleets=[{**QUIET, "hardware": {"rev-b": 1}}]))
    assert "fleet gates: expected device 0 as this scenario plans it, found folder" in said


def test_device_that_no_factory_has_signed_is_no_crash(stage: Stage) -> None:
    """Which one, and what to do about it; the one that is signed does not start either."""
    signed, unsigned = stage.make(fleets=[QUIET])
    sign_as_factory(signed, Packages())
    said = stage.refusal(stage.scenario(fleets=[QUIET]))
    assert f"error: {unsigned.name}: expected a device that its factory has signed" in said
    assert "crashed" not in stage.events.read_text()


def test_rollout_of_devices_with_an_operator_is_refused(stage: Stage) -> None:
    """Only virtual devices have none; here it would quietly never begin."""
    stage.make(fleets=[LIGHT])
    model = {"name": "r", "images": {"m4-0/model": {"name": "person@2.0", "bytes": 90_000}}}
    rollout = {"release": "r", "at": "5m", "stages": [{"percent": 100}]}
    said = stage.refusal(stage.scenario(fleets=[LIGHT], releases=[model], rollouts=[rollout]))
    assert "rollouts.0: expected product and group of a virtual fleet, found Camera Production" in said


def test_fleet_that_is_not_virtual_needs_a_service(stage: Stage) -> None:
    """Nobody to attest to."""
    stage.make(fleets=[LIGHT])
    code, said = command("run", stage.scenario(fleets=[LIGHT]), stage.devices)
    assert code == 1
    assert "expected --service-file of a running service, found none" in said


def test_scenario_that_is_not_yaml_says_so(stage: Stage) -> None:
    """A broken file is no traceback."""
    stage.make(fleets=[QUIET])
    broken = stage.folder / "broken.yaml"
    broken.write_text("fleets: [")
    assert "broken.yaml: expected YAML" in stage.refusal(broken)


def test_scenario_beside_folders_is_still_an_option(stage: Stage) -> None:
    """The form that the demo uses checks the same way."""
    made = stage.make(fleets=[QUIET])
    service = stage.folder / "service.json"
    service.write_text('{"device_url": "https://127.0.0.1:1", "mqtt_host": "127.0.0.1", "mqtt_port": 1}')
    words = ("--scenario", stage.scenario(colour="red"), "--service-file", service)
    code, said = command("run", *made, *words)
    assert (code, "colour: Extra inputs" in said) == (1, True)


def test_making_again_leaves_devices_alone_and_light_ones_share_their_flash(stage: Stage) -> None:
    """Manufacture that was interrupted is finished by the same command; blank chips are one file."""
    made = stage.make(fleets=[LIGHT])
    keys = [(folder / "rot.json").read_bytes() for folder in made]
    assert stage.make(fleets=[LIGHT]) == made
    assert [(folder / "rot.json").read_bytes() for folder in made] == keys
    assert len({(folder / "flash.base").stat().st_ino for folder in made}) == 1
    assert not any((folder / "flash.bin").exists() for folder in made)


def test_virtual_fleet_runs_beside_devices_with_folders(stage: Stage) -> None:
    """Its events join the others'; the devices here have no images, and say so."""
    virtual = {"name": "towers", "devices": 5, "fidelity": "virtual"}
    content: dict[str, Any] = {"length": "3s", "fleets": [LIGHT, virtual]}
    for folder in stage.make(**content):
        sign_as_factory(folder, Packages())
    service = stage.folder / "service.json"
    service.write_text('{"device_url": "https://127.0.0.1:1", "mqtt_host": "127.0.0.1", "mqtt_port": 1}')
    record = stage.folder / "record.json"
    words = ("--service-file", service, "--events", stage.events, "--json", record)
    code, said = command("run", stage.scenario(**content), stage.devices, *words)
    assert code == 0, said
    events = [json.loads(line) for line in stage.events.read_text().splitlines()]
    assert sum(event["event"] == "boot-stopped" and event["fleet"] == "gates" for event in events) == 2
    towers = [event for event in events if event.get("fleet") == "towers"]
    assert towers
    assert all("virtual_time" in event for event in towers)
    assert {fleet["name"] for fleet in json.loads(record.read_bytes())["fleets"]} == {"gates", "towers"}


@pytest.mark.parametrize(
    ("virtual", "length", "why"),
    [
        ({"inference": "tflm"}, {"length": "1s"}, "fleet towers.inference: expected none, found tflm"),
        ({}, {}, "expected rollouts or a length, found neither"),
    ],
)
def test_what_virtual_devices_do_not_do_is_said_before_the_others_start(
    virtual: dict[str, Any], length: dict[str, str], why: str, stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where full or light devices are beside them, too: the process that judges them is asked first."""
    towers = {"name": "towers", "devices": 5, "fidelity": "virtual", **virtual}
    for folder in stage.make(fleets=[LIGHT]):
        sign_as_factory(folder, Packages())
    said = stage.refusal(stage.scenario(fleets=[LIGHT, towers], **length))
    assert "virtual fleets: expected exit code 0, found 1" in said
    assert why in capfd.readouterr().err
    assert not stage.events.exists()


def test_virtual_fleet_alone_needs_neither_folders_nor_a_service(stage: Stage) -> None:
    """Its process writes what was asked for."""
    virtual = {"name": "towers", "devices": 5, "fidelity": "virtual"}
    record = stage.folder / "record.json"
    code, said = command("run", stage.scenario(length="10m", fleets=[virtual]), "--json", record)
    assert code == 0, said
    assert json.loads(record.read_bytes())["devices"] == 5
