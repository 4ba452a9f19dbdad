"""Full and light devices of one scenario take a release from a real service; the simulator is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from protocol.scenario import Scenario
from service.cli.factory_images import FACTORY_IMAGES, simulated_payload
from tests.e2e.party import CommandFailedError, Party

pytestmark = pytest.mark.timeout(900)

PATIENCE_SECONDS = 300.0  # far above what anything takes; what does not come fails the test
FULL, LIGHT = 2, 48
SCENARIO = {
    "description": "a rollout over two networks",
    "seed": 4,
    "regions": {
        "near": {"network": {"latency": "5ms", "jitter": "5ms", "loss": 0.01}},
        "far": {"network": {"latency": "80ms", "bytes_per_second": 200_000}},
    },
    "hardware": {"rev-b": {"profile": "x-cube-ai", "defects": [{"kind": "slow-clock", "factor": 0.5}]}},
    "fleets": [
        {"name": "benches", "devices": FULL, "regions": {"far": 1}, "hardware": {"rev-b": 1}},
        {"name": "doors", "devices": LIGHT, "fidelity": "light", "regions": {"near": 0.7, "far": 0.3}},
    ],
    "happenings": [{"at": "2s", "kind": "reboot", "fleet": "doors", "share": 0.1}],
}


@dataclass
class Run:
    """`device-sim run` of the scenario, once or again."""

    party: Party
    folder: Path
    started: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def devices(self) -> Path:
        return self.folder / "devices"

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What this start of it has told so far."""
        path = self.folder / f"events-{self.started}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def start(self) -> None:
        self.started += 1
        files = ["--service-file", self.party.service / "service.json", "--json", self.record]
        words = [self.folder / "scenario.yaml", self.devices, *files]
        events = self.folder / f"events-{self.started}.jsonl"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "device_sim", "run", *map(str, words), "--events", str(events)]
        )

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        os.kill(self.process.pid, number)
        return self.process.wait()

    def wait_for(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert self.process is not None
            assert self.process.poll() is None, f"expected a running simulator, found it ended: {self.events[-5:]}"
            assert time.monotonic() < deadline, f"expected {what}, found: {self.events[-5:]}"
            time.sleep(0.1)

    def who(self, **wanted: object) -> set[str]:
        """Return the devices of which an event with these fields has come."""
        return {event["device"] for event in self.events if wanted.items() <= event.items()}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A catalog whose service runs, and the scenario's devices, claimed."""
    found = Run(Party(tmp_path / "catalog", "Catalog", "Camera"), tmp_path)
    found.party.init()
    with found.party.serving(), _claimed(found):
        yield found


@contextmanager
def _claimed(run: Run) -> Iterator[None]:
    (run.folder / "scenario.yaml").write_text(yaml.safe_dump(SCENARIO))
    run.party.run("factory", "images")
    run.party.run("product", "create", run.party.product)
    _device_sim("manufacture", "--scenario", run.folder / "scenario.yaml", "--out", run.devices)
    run.party.run("factory", "sign", run.devices)
    _device_sim("flash", run.devices)
    run.party.run("device", "claim", run.devices, "--product", run.party.product, "--group", "Production")
    try:
        yield
    finally:
        if run.process is not None and run.process.poll() is None:
            run.end(signal.SIGKILL)


def test_mixed_fleet_survives_a_kill_and_confirms_the_release(run: Run) -> None:
    """Everybody connects over the declared networks, updates, is killed, goes on, and runs the new application."""
    run.start()
    run.wait_for(lambda: len(run.who(event="connected")) == FULL + LIGHT, "every device connected")
    assert {event["fleet"] for event in run.events if "device" in event} == {"benches", "doors"}
    run.wait_for(lambda: bool(run.who(event="power", on=True)), "a device of the reboot storm")
    rollout = _roll_out(run)
    run.wait_for(lambda: len(run.who(event="update", state="installing")) > LIGHT // 3, "devices in mid update")
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    before = run.who(event="update", state="confirmed")
    run.start()
    done = lambda: len(before | run.who(event="update", state="confirmed")) == FULL + LIGHT  # noqa: E731
    run.wait_for(done, "every device's confirmation")
    run.wait_for(lambda: _state(run, rollout) == "finished", "the rollout's end")
    shown = run.party.run("rollout", "show", rollout, "--json")
    assert (shown["state"], shown["totals"]["succeeded"]) == ("finished", FULL + LIGHT)
    assert run.end(signal.SIGTERM) == 0
    _check_record(run)


def _check_record(run: Run) -> None:
    """The record of the second start says what its events say."""
    scenario = Scenario.model_validate_json(json.dumps(SCENARIO))
    record = json.loads(run.record.read_bytes())
    assert {fleet["name"]: fleet["devices"] for fleet in record["fleets"]} == {
        fleet.name: fleet.devices for fleet in scenario.fleets
    }
    assert record["crashed"] == 0
    assert all(fleet["wire"]["bytes_received"] > 0 for fleet in record["fleets"])
    assert not run.who(event="crashed")


def _roll_out(run: Run) -> str:
    application = FACTORY_IMAGES[3]
    payload, package = run.folder / "application.bin", run.folder / "application.img"
    payload.write_bytes(simulated_payload(application.name, "1.1.0", payload_bytes=48 * 1024))
    names = ("--name", application.name, "--component-id", application.component_id)
    run.party.run("image", "create", payload, "--version", "1.1.0", *names, "--out", package)
    run.party.run("release", "create", "application-1.1", package, "--yes", "--json")
    stages = ("--stages", "2,100%", "--soak-seconds", "0", "--action-timeout-seconds", "600", "--json")
    started = run.party.run("rollout", "start", "application-1.1", "--group", "Production", *stages)
    return str(started["id"])


def _state(run: Run, rollout: str) -> str:
    return str(run.party.run("rollout", "show", rollout, "--json")["state"])


def _device_sim(*words: object) -> None:
    command = [sys.executable, "-m", "device_sim", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise CommandFailedError(ended.stderr.strip())
