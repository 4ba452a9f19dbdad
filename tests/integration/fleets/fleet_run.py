"""`device-sim run` of a scenario's full and light devices beside a real service, as people start it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from protocol.geometry import ImageKind, Slot
from service.cli.factory_images import FACTORY_IMAGES, simulated_payload
from tests.e2e.party import CommandFailedError, Party

PATIENCE_SECONDS = 300.0  # far above what anything takes; what does not come fails the test


@dataclass
class Run:
    """`device-sim run` of a scenario, once or again."""

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


@contextmanager
def claimed(
    folder: Path, scenario: Mapping[str, Any], *, systems: Sequence[str] = (), **settings: object
) -> Iterator[Run]:
    """A catalog whose service runs, and a scenario's devices, claimed; `systems`: OS versions beside the factory's."""
    run = Run(Party(folder / "catalog", "Catalog", "Camera"), folder)
    run.party.init()
    with run.party.serving(**settings):
        (folder / "scenario.yaml").write_text(yaml.safe_dump(dict(scenario)))
        run.party.run("factory", "images")
        for version in systems:
            list_system(run, version)
        run.party.run("product", "create", run.party.product)
        device_sim("manufacture", "--scenario", folder / "scenario.yaml", "--out", run.devices)
        run.party.run("factory", "sign", run.devices)
        device_sim("flash", run.devices)
        run.party.run("device", "claim", run.devices, "--product", run.party.product, "--group", "Production")
        try:
            yield run
        finally:
            if run.process is not None and run.process.poll() is None:
                run.end(signal.SIGKILL)


def list_system(run: Run, version: str) -> None:
    """Sign an operating system and list it as a reference value."""
    system = next(image for image in FACTORY_IMAGES if image.slot is Slot.OS)
    payload, package = run.folder / "os.bin", run.folder / f"os-{version}.img"
    payload.write_bytes(simulated_payload(system.name, version, system.payload_bytes))
    names = ("--name", system.name, "--component-id", system.component_id, "--kind", ImageKind.OS)
    run.party.run("image", "create", payload, "--version", version, *names, "--out", package)
    run.party.run("release", "create", f"os-{version}", package, "--reference", "--yes", "--json")


def device_sim(*words: object) -> None:
    command = [sys.executable, "-m", "device_sim", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise CommandFailedError(ended.stderr.strip())
