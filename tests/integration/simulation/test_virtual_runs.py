"""Runs as people start them: from a file, the same again for the same seed, with a record even of one cut short."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from device_sim.reporting.record import RunReport
from protocol.document import parse_document
from simulation.__main__ import main

LIVELY = """
seed: 3
fleets:
  - name: cameras
    devices: 60
    fidelity: virtual
    regions: {north: 0.5}
    hardware: {weak: 0.3}
    clocks: {offset: 1m, drift_ppm: 100}
    power: {per_day: 20}
regions:
  north: {utc_offset: 1, network: {latency: 80ms, jitter: 20ms, loss: 0.02, outages: [{start: 12m, lasts: 3m}]}}
hardware:
  weak: {os_version: 1.2.0, defects: [{kind: brown-out, every: 2000}]}
releases:
  - {name: r1, images: {m4-0/model: {name: person@2.0, bytes: 100000}, a7/application: {name: app@1.1, bytes: 50000}}}
release_faults: [{release: r1, kind: golden-vectors, share: 0.02}]
happenings: [{at: 14m, kind: reboot, share: 0.5}]
rollouts:
  - {release: r1, at: 5m, stages: [{percent: 20, soak: 5m}, {percent: 100}], error_percent: 20, success_percent: 60}
"""
ENDLESS = """
fleets: [{name: cameras, devices: 3, fidelity: virtual, power: {per_day: 5000}}]
length: 3000d
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text)
    return path


def events_of(scenario: Path, folder: Path, hash_seed: str) -> bytes:
    """Run a scenario in a process of its own and return its events."""
    events = folder / f"events-{hash_seed}.jsonl"
    command = [sys.executable, "-m", "simulation", "run", str(scenario), "--events", str(events)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
    return events.read_bytes()


def test_same_scenario_and_seed_give_the_same_run_event_for_event(tmp_path: Path) -> None:
    """Whatever the process's own randomness; another seed gives another run."""
    scenario = write(tmp_path, LIVELY)
    first = events_of(scenario, tmp_path, "1")
    assert first == events_of(scenario, tmp_path, "2")
    assert len(first.splitlines()) > 300
    scenario.write_text(LIVELY.replace("seed: 3", "seed: 4"))
    assert first != events_of(scenario, tmp_path, "3")


def test_run_writes_its_record(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The same record as of a run of real devices, and a word of progress on stderr."""
    record = tmp_path / "record.json"
    assert main(["run", str(write(tmp_path, LIVELY)), "--json", str(record), "--progress"]) == 0
    report = parse_document(record.read_bytes(), RunReport, max_bytes=10_000_000)
    assert report.ended
    assert report.devices == 60
    assert report.crashed == 0
    assert report.fleets[0].updates["confirmed"] >= 40
    assert report.fleets[0].wire.bytes_received > 60 * 100_000
    assert report.rollouts[-1].state in {"finished", "halted"}
    told = capfd.readouterr().err
    assert "steps" in told
    assert "confirmed" in told


def test_interrupted_run_ends_cleanly_with_what_is_known(tmp_path: Path) -> None:
    """A record that says that it did not end, and the exit code of an interrupt."""
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "simulation", "run", str(write(tmp_path, ENDLESS)), "--json", str(record)]
    with subprocess.Popen([*command, "--progress"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    report = parse_document(record.read_bytes(), RunReport, max_bytes=10_000_000)
    assert not report.ended
    assert report.seconds >= 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fleets: [{name: a, devices: 1, fidelity: virtual}]", "it would never end"),
        ("fleets: [{name: a, devices: 1, fidelity: light}]\nlength: 1h", "fidelity: virtual"),
        ("fleets: [{name: a, devices: 1, colour: red}]", "colour"),
        ("releases: [{name: r}]", "releases.0.images"),
    ],
)
def test_scenario_that_cannot_be_run_is_refused_before_anything_starts(
    text: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line says where and why."""
    assert main(["run", str(write(tmp_path, text))]) == 1
    told = capfd.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_fleet_without_a_rollout_runs_for_its_length(tmp_path: Path) -> None:
    """A scenario may be JSON, and nothing but time may pass."""
    example = tmp_path / "example.json"
    example.write_text(json.dumps({"fleets": [{"name": "a", "devices": 3, "fidelity": "virtual"}], "length": "1h"}))
    assert main(["run", str(example)]) == 0
