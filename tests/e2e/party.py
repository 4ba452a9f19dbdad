"""One company with its own catalog: operator, running service, and the commands that they type."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 60.0  # far above what anything takes; what does not come fails the test
TINYFLEET = "service.cli.main"
DEVICE_SIM = "device_sim"


class CommandFailedError(AssertionError):
    """A command ended with another exit code than 0; the message is what it said."""


@dataclass
class Party:
    """A catalog's operator and service.

    Attributes:
        root: folder of operator/ and service/.
        name: of the catalog.
        product: that its devices become.
    """

    root: Path
    name: str
    product: str

    @property
    def operator(self) -> Path:
        """The operator's folder."""
        return self.root / "operator"

    @property
    def service(self) -> Path:
        """The service's folder."""
        return self.root / "service"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the catalog's root, as its operator would read it out."""
        out = self.root / "handover.json"
        self.run("catalog", "export", "--out", out)
        return self.said.rpartition(": ")[2].strip()

    said: str = ""

    def init(self) -> None:
        """Hold the ceremony."""
        self.root.mkdir(parents=True, exist_ok=True)
        _command(TINYFLEET, "init", "--data-dir", self.root, "--catalog", self.name, "--generate-passphrase")

    def run(self, *words: object) -> dict[str, Any]:
        """Run a command of the operator's; returns its JSON answer if it gives one."""
        service_file = self.service / "service.json"
        extra = {"TINYFLEET_OPERATOR_DIR": str(self.operator)}
        if service_file.exists():
            extra["TINYFLEET_URL"] = json.loads(service_file.read_bytes())["operator_url"]
        output, self.said = _command(TINYFLEET, *words, extra=extra)
        return dict(json.loads(output)) if output.startswith("{") else {}

    def refused(self, *words: object) -> str:
        """Run a command that must fail; returns what it said."""
        try:
            self.run(*words)
        except CommandFailedError as error:
            return str(error)
        raise AssertionError(f"expected {words} to fail, found it done")

    @contextmanager
    def serving(self, **settings: object) -> Iterator[None]:
        """Run the service for as long as the block runs."""
        wanted = {"operator_port": 0, "device_port": 0, "mqtt_port": 0, "poll_seconds": 1.0, **settings}
        file = self.root / "settings.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in wanted.items()))
        words = ["serve", "--data-dir", str(self.service), "--settings", str(file)]
        with _process(TINYFLEET, words, self.root / "service.log") as process:
            _wait_until((self.service / "service.json").exists, process)
            yield


@dataclass
class SimulatedDevice:
    """One device's folder, and its life on the command line.

    Attributes:
        folder: the device's.
    """

    folder: Path

    @property
    def device_id(self) -> str:
        """Its id."""
        return str(json.loads((self.folder / "device.json").read_bytes())["device_id"])

    @classmethod
    def manufacture(cls, devices: Path) -> "SimulatedDevice":
        """Make one, not yet signed by its factory."""
        output, _ = _command(DEVICE_SIM, "manufacture", "--out", devices)
        return cls(Path(output.strip()))

    def flash(self, *words: object) -> None:
        """Write images over the debug interface."""
        _command(DEVICE_SIM, "flash", self.folder, *words)

    def live(
        self, party: Party, until: Callable[[list[dict[str, Any]]], bool], *, scenario: Path | None = None
    ) -> list[dict[str, Any]]:
        """Run against a party's service, perhaps in a scenario, until its events say so; returns them."""
        log = self.folder.parent / f"events-{time.monotonic_ns()}.jsonl"
        words = ["run", str(self.folder), "--service-file", str(party.service / "service.json"), "--events", str(log)]
        words += [] if scenario is None else ["--scenario", str(scenario)]
        with _process(DEVICE_SIM, words, log.with_suffix(".log")) as process:
            _wait_until(lambda: log.exists() and until(_events(log)), process, explain=lambda: str(_events(log)[-8:]))
        return _events(log)


def has(name: str, **fields: object) -> Callable[[list[dict[str, Any]]], bool]:
    """Return whether an event of this name and these fields has come."""
    wanted = {"event": name, **fields}
    return lambda events: any(wanted.items() <= event.items() for event in events)


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _command(module: str, *words: object, extra: Mapping[str, str] | None = None) -> tuple[str, str]:
    command = [sys.executable, "-m", module, *map(str, words)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(extra or {})})
    if run.returncode != 0:
        raise CommandFailedError(run.stderr.strip())
    return run.stdout, run.stderr


@contextmanager
def _process(module: str, words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def _wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], *, explain: Callable[[], str] = lambda: ""
) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"expected a running process, found it ended: {explain()}"
        assert time.monotonic() < end, f"expected it within {PATIENCE_SECONDS} s, found: {explain()}"
        time.sleep(0.05)
