"""How many simulated devices one machine holds, with a real service beside them: full ones, and light ones.

    python -m tests.benchmarks.fleet_bench --full 80 --light 10000 --seconds 60

Full: TFLM, two cores, an event per second on each; the figure is the events that came, of those that were due. Light:
connected devices that tell one event per core and minute. Both run `device-sim run` against `tinyfleet serve`, each in
a process of its own, on whatever else the machine does. Made the way of docs/simulator/fleets.md, but for claims: these
are written into the stopped service's database at once, because claiming is another benchmark's business.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.cores.front_end import FrontEnd
from device_sim.sensors.fitted import FittedSensors, Surfaces
from pki.roles import OfflineKey
from pki.vouchers import sign_voucher
from protocol.geometry import Core
from protocol.identity import DeviceId, device_id_of
from protocol.model import InputContract
from protocol.voucher import Assertion
from service.cli.catalog_papers import own_handover
from service.cli.offline_keys import offline_keys
from tests.benchmarks.bench_service import PASSPHRASE, data_directory, insert_devices, now, service

CONNECT_SECONDS = 1200.0  # longest wait for the fleet, and again for its first messages; the figures say what came
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Carried:
    """A model that the devices of a stage carry from the factory.

    Attributes:
        name: of the demo's model.
        core: that runs it.
        samples: photos by name, or windows of a signal by theirs, that its golden vectors are made of.
        contract: of its input; None: the demo has a card for it.
        labels: one per output value, where the demo has no card.
    """

    name: str
    core: str
    samples: tuple[str, ...]
    contract: InputContract | None = None
    labels: tuple[str, ...] = ()


PERSON = Carried("person-detection", "m4-0", ("astronaut", "coffee"))
IMAGE = Carried("image-classification", "m4-1", ("horse", "cat"))


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children took so far.

    Attributes:
        cpu_seconds: of all of them.
        memory_mib: resident now.
    """

    cpu_seconds: float
    memory_mib: float


def usage(pid: int) -> Usage:
    """Measure a process and its children."""
    return usage_of(tree(pid))


def usage_of(processes: list[int]) -> Usage:
    """Measure processes; those that are gone count nothing."""
    cpu = memory = 0.0
    for each in processes:
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
            memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        except (FileNotFoundError, ProcessLookupError):
            continue
    return Usage(cpu, memory)


def tree(pid: int) -> list[int]:
    """Return a process and those below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = children.read_text().split() if children.exists() else []
    return [pid, *(each for child in below for each in tree(int(child)))]


class Stage:
    """A catalog with a signed release of two models, and the devices of one scenario.

    Args:
        data_dir: of the ceremony.
        scenario: of the fleet.
        models: one for each core.
    """

    def __init__(
        self, data_dir: Path, scenario: dict[str, Any], *, models: tuple[Carried, ...] = (PERSON, IMAGE)
    ) -> None:
        self.data_dir = data_dir
        self._models = models
        self.devices = data_dir / "devices"
        self.scenario = data_dir / "scenario.yaml"
        self.events = data_dir / "events.jsonl"
        self.scenario.write_text(yaml.safe_dump(scenario))

    @property
    def operator(self) -> Path:
        return self.data_dir / "operator"

    def prepare(self) -> dict[str, float]:
        """Make, sign and flash the devices; returns the seconds of each step."""
        with service(self.data_dir) as content:
            self._publish(content["operator_url"])
            seconds = {
                "manufacture": self._device_sim("manufacture", "--scenario", self.scenario, "--out", self.devices)
            }
            seconds["sign"] = self._tinyfleet(content["operator_url"], "factory", "sign", self.devices)
        self._add_models()
        seconds["flash"] = self._device_sim("flash", self.devices)
        seconds["claim"] = timed(self._claim)
        return seconds

    def _publish(self, url: str) -> None:
        self._tinyfleet(url, "factory", "images")
        packages = [self._pack(url, model) for model in self._models]
        self._tinyfleet(url, "release", "create", "models", *packages, "--yes", "--json")

    def _pack(self, url: str, carried: Carried) -> Path:
        name = carried.name
        model, card = self.data_dir / f"{name}.tflite", self.data_dir / f"{name}.yaml"
        golden, package = self.data_dir / f"{name}-golden.json", self.data_dir / f"{name}.img"
        self._tinyfleet(url, "model", "fetch", name, "--out", self.data_dir)
        samples: Sequence[object] = carried.samples
        if carried.contract is not None:
            card.write_text(yaml.safe_dump(_card(carried, carried.contract)))
            samples = [_window(self.data_dir / f"{sample}.npy", carried.contract) for sample in carried.samples]
        self._tinyfleet(url, "golden", "make", *samples, "--model", model, "--card", card, "--out", golden)
        options = ("--card", card, "--core", carried.core, "--security-version", 1, "--golden", golden)
        self._tinyfleet(url, "model", "pack", model, *options, "--out", package)
        return package

    def _add_models(self) -> None:
        """Have the models flashed in the factory, as images that are in the repository are."""
        for folder in self.devices.glob("*/factory"):
            for model in self._models:
                (folder / f"{model.core}_model.img").hardlink_to(self.data_dir / f"{model.name}.img")

    def _claim(self) -> None:
        handover = own_handover(self.operator, now=now())
        signer = offline_keys(self.operator).load(OfflineKey.VOUCHER)
        keys: dict[DeviceId, ec.EllipticCurvePublicKey] = {}
        for path in self.devices.glob("*/csr.pem"):
            key = x509.load_pem_x509_csr(path.read_bytes()).public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            device_id = device_id_of(key)
            keys[device_id] = key
            moment = now()
            voucher = handover.voucher(
                device_id,
                sequence=int(moment.timestamp()),
                issued_at=moment,
                expires_at=None,
                assertion=Assertion.LOGGED,
            )
            (path.parent / "voucher.json").write_bytes(sign_voucher(voucher, signer))
        insert_devices(self.data_dir, keys)

    def _tinyfleet(self, url: str, *words: object) -> float:
        folders = {"TINYFLEET_OPERATOR_DIR": str(self.operator), "TINYFLEET_URL": url}
        return _run("service.cli.main", words, {**os.environ, **folders, "TINYFLEET_PASSPHRASE": PASSPHRASE})

    def _device_sim(self, *words: object) -> float:
        return _run("device_sim", words, dict(os.environ))


def _card(carried: Carried, contract: InputContract) -> dict[str, Any]:
    """Return the card of a model that the demo has none for."""
    return {
        "name": carried.name,
        "version": "1.0.0",
        "component_id": str(uuid.uuid5(uuid.NAMESPACE_URL, carried.name)),
        "input": contract.model_dump(mode="json"),
        "labels": list(carried.labels),
    }


def _window(path: Path, contract: InputContract) -> Path:
    """Write the tensor of a window of sound, drawn by the file's name."""
    room = FittedSensors(DeviceId(hashlib.sha512(path.stem.encode()).hexdigest()), Surfaces(()))
    sound = room.take(Core.M4_1, contract, at_seconds=0.0)
    np.save(path, FrontEnd(contract, is_stateful=False).tensors(sound)[0])
    return path


def timed(job: Callable[[], None]) -> float:
    """Return how long a job takes."""
    start = time.monotonic()
    job()
    return time.monotonic() - start


def _run(module: str, words: tuple[object, ...], environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", module, *map(str, words)]
    start = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{words[:2]}: expected exit 0, found {done.returncode}: {done.stderr[-800:]}")
    return time.monotonic() - start


def count_events(path: Path, kind: str) -> int:
    """Count the events of a kind so far."""
    start = f'{{"event": "{kind}"'
    with path.open() as lines:
        return sum(line.startswith(start) for line in lines)


def totals(path: Path) -> dict[str, Any]:
    """Return the last event, which sums the run up."""
    last: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
    return last


def measure(stage: Stage, devices: int, seconds: float) -> dict[str, Any]:
    """Run the fleet until it is connected and has sent a message each on average, and then for the given time.

    A device that has just connected tells first what it runs; the fleet's events come once that is done.
    """
    with service(stage.data_dir) as content:
        words = [stage.scenario, stage.devices, "--service-file", stage.data_dir / "service" / "service.json"]
        command = [sys.executable, "-m", "device_sim", "run", *map(str, words), "--events", str(stage.events)]
        started = time.monotonic()
        fleet = subprocess.Popen(command)
        try:
            connected = wait_until_connected(stage, devices, fleet)
            connect_seconds = time.monotonic() - started
            wait_for_messages(content, devices, fleet)
            settle_seconds = time.monotonic() - started - connect_seconds
            before = usage(fleet.pid), usage(content["pid"]), messages(content)
            time.sleep(seconds)
            after = usage(fleet.pid), usage(content["pid"]), messages(content)
        finally:
            fleet.send_signal(signal.SIGTERM)
            fleet.wait(180)
    return {
        "connected": connected,
        "connect_seconds": connect_seconds,
        "settle_seconds": settle_seconds,
        "messages_per_second": (after[2] - before[2]) / seconds,
        "fleet_cpu": (after[0].cpu_seconds - before[0].cpu_seconds) / seconds,
        "service_cpu": (after[1].cpu_seconds - before[1].cpu_seconds) / seconds,
        "fleet_kib": after[0].memory_mib * 1024 / devices,
        "service_kib": after[1].memory_mib * 1024 / devices,
        **totals(stage.events),
    }


def messages(content: dict[str, Any]) -> int:
    """Return how many messages the service has stored."""
    import sqlite3  # noqa: PLC0415

    path = Path(content["ca"]).parents[1] / "telemetry.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        (count,) = database.execute("SELECT max(rowid) FROM telemetry_messages").fetchone()
    return int(count or 0)


def wait_for_messages(content: dict[str, Any], wanted: int, fleet: subprocess.Popen[bytes]) -> None:
    """Wait until the service has stored so many messages, or no longer than the fleet may take."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while time.monotonic() < deadline and messages(content) < wanted:
        if fleet.poll() is not None:
            raise RuntimeError(f"device-sim: expected it to run, found exit {fleet.returncode}")
        time.sleep(1)


def wait_until_connected(stage: Stage, devices: int, fleet: subprocess.Popen[bytes]) -> int:
    """Wait until all devices have connected, or no longer than they may take; return how many have."""
    deadline = time.monotonic() + CONNECT_SECONDS
    connected = 0
    while time.monotonic() < deadline and connected < devices:
        if fleet.poll() is not None:
            raise RuntimeError(f"device-sim: expected it to run, found exit {fleet.returncode}")
        time.sleep(1)
        connected = count_events(stage.events, "connected") if stage.events.exists() else 0
    return connected


def row(name: str, ours: float, unit: str, note: str) -> dict[str, Any]:
    """Return a row of the table; there is no peer."""
    return {"name": name, "ours": ours, "peer": None, "ratio": None, "unit": unit, "note": note}


def bench(kind: str, devices: int, period: str, seconds: float) -> list[dict[str, Any]]:
    """Measure one kind of fleet."""
    fleet = {"name": kind, "devices": devices, "fidelity": kind, "inference_period": period}
    with data_directory() as data_dir:
        stage = Stage(data_dir, {"seed": 7, "fleets": [fleet]})
        made = stage.prepare()
        found = measure(stage, devices, seconds)
    note = (
        f"connected {found['connected']} in {found['connect_seconds']:.0f} s, settled "
        f"{found['settle_seconds']:.0f} s later; {found['messages_per_second']:.0f} "
        f"messages/s; CPU: fleet {found['fleet_cpu']:.2f}, service {found['service_cpu']:.2f} cores; "
        + ", ".join(f"{step} {spent:.0f} s" for step, spent in made.items())
    )
    return [
        row(f"{kind} devices connected", found["connected"], "devices", note),
        row(f"{kind} fleet memory", found["fleet_kib"], "KiB/device", ""),
        row(f"service memory beside {kind}", found["service_kib"], "KiB/device", ""),
        row(
            f"{kind} events per device",
            found["messages_per_second"] / devices,
            "1/s",
            f"acknowledged {found['acknowledged']}, dropped {found['dropped']}",
        ),
    ]


def main() -> None:
    """Run what the command line asks for; prints rows of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", type=int, default=40)
    parser.add_argument("--light", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0)
    wanted = parser.parse_args()
    os.environ["TINYFLEET_PASSPHRASE"] = PASSPHRASE
    os.environ["TINYFLEET_POLL_SECONDS"] = "600"  # who holds a connection is woken over it
    rows = []
    if wanted.full:
        rows += bench("full", wanted.full, "1s", wanted.seconds)
    if wanted.light:
        rows += bench("light", wanted.light, "60s", wanted.seconds)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
