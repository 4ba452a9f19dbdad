"""A fleet in threads: it starts, counts, and stops so that it can start again."""

import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from device_sim.adapters.clock import WallClock
from device_sim.errors import DeviceFolderError
from device_sim.fleets.crew import crews_of, inferring
from device_sim.fleets.kits import KitRoom
from device_sim.hardware.machine import Machine
from device_sim.network.ports import LinkEvents
from device_sim.network.tls import Credential
from device_sim.runtime.events import EventLog
from device_sim.runtime.fleet import FleetRun, World
from device_sim.sensors.fitted import Surfaces
from protocol.health import HEALTH_STREAM
from protocol.identity import DeviceId
from protocol.messages import INFERENCE_STREAM
from protocol.scenario import Scenario
from protocol.voucher import Voucher
from tests.integration.device_update.attesting_wire import (
    AttestingWire,
    Authorities,
    MemoryNetwork,
    MemorySession,
    attestable_device,
)
from tests.unit.device_hardware.device_builder import ColourInference
from tinyml.photos import Photo

SECONDS = 60  # far above what anything takes; what does not come fails the test
GREY = Photo(name="grey", pixels=np.full((64, 64, 3), 100, np.uint8), shows_person=False, expected="grey")


class FleetNetwork:
    """Leads each device to its own wire."""

    def __init__(self, wires: dict[str, AttestingWire]) -> None:
        self.networks = {device_id: MemoryNetwork(wire) for device_id, wire in wires.items()}

    def attestation(self, machine: Machine, voucher: Voucher) -> AttestingWire:
        return self.networks[machine.device_id].attestation(machine, voucher)

    def session(
        self, device_id: DeviceId, voucher: Voucher, credential: Credential, events: LinkEvents
    ) -> MemorySession:
        return self.networks[device_id].session(device_id, voucher, credential, events)

    @property
    def health_reports(self) -> int:
        """How many sums of answers the devices sent."""
        return len(self._payloads(HEALTH_STREAM))

    @property
    def cores_heard(self) -> int:
        """How many cores have told an inference."""
        told = [(topic, json.loads(payload)["core"]) for topic, payload in self._payloads(INFERENCE_STREAM)]
        return len(set(told))

    def _payloads(self, stream: str) -> list[tuple[str, bytes]]:
        sessions = [network.session_made for network in self.networks.values()]
        sent = [message for session in sessions if session is not None for message in session.link.messages]
        return [(topic, payload) for topic, payload in sent if topic.endswith(f"/{stream}")]


class Watched(io.StringIO):
    """An event stream that wakes who waits for a number of events of a name."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__()
        self.seen = threading.Event()
        self._name, self._left = name, count

    @override
    def write(self, text: str) -> int:
        self._left -= json.loads(text)["event"] == self._name
        if not self._left:
            self.seen.set()
        return super().write(text)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def devices(tmp_path: Path) -> dict[Path, AttestingWire]:
    """Three claimed devices, each in its own folder with its own wire."""
    made = {}
    for name in "abc":
        updated, wire = attestable_device(tmp_path / name, Authorities(), seed=name.encode())
        updated.machine.close()
        made[updated.folder] = wire
    return made


def network_of(devices: dict[Path, AttestingWire]) -> FleetNetwork:
    return FleetNetwork({wire.device_id: wire for wire in devices.values()})


def fleet_of(devices: dict[Path, AttestingWire], stream: Watched, network: FleetNetwork | None = None) -> FleetRun:
    clock, scenario = WallClock(), Scenario(inference_period_seconds=0.02)
    network = network or network_of(devices)
    events = EventLog(stream, now=clock.now)
    fleet = FleetRun(World(lambda _path: network, clock, scenario, events, clock.now()))
    (crew,) = crews_of(scenario, list(devices), where=Path())
    kit = KitRoom(ColourInference(), seed=1).kit(replace(crew, surfaces=Surfaces([GREY])))
    for member in crew.members:
        fleet.add(member, kit)
    return fleet


def run(fleet: FleetRun, stream: Watched, until: Callable[[], bool] = lambda: True) -> None:
    """Run a fleet until what the stream watches for has been seen, and something else holds."""
    fleet.start()
    seen = stream.seen.wait(SECONDS)
    deadline = time.monotonic() + SECONDS
    while not (held := until()) and time.monotonic() < deadline:
        time.sleep(0.01)
    fleet.stop()
    assert seen, stream.events
    assert held


def test_fleet_stops_counted_and_starts_again(devices: dict[Path, AttestingWire]) -> None:
    """Every device works; the last event sums them up; the folders are good for another run.

    The windows of the first run, one of each core, are told in the second, which begins two hours later.
    """
    for reports in (0, len(devices) * 2):
        stream, network = Watched("attested", len(devices)), network_of(devices)
        fleet = fleet_of(devices, stream, network)
        run(fleet, stream, lambda: (network.cores_heard, network.health_reports) == (2 * len(devices), reports))  # noqa: B023
        last = stream.events[-1]
        assert (last["event"], last["devices"], last["inferring"]) == ("stopped", 3, 3)
        inferred = sum(core["events"] for core in last["cores"].values())
        assert last["sent"] == last["acknowledged"] == inferred + reports
        assert network.health_reports == reports
        assert fleet.crashed == 0
        for wire in devices.values():
            wire.now += timedelta(hours=2)


def test_crashed_device_keeps_the_fleet_going(devices: dict[Path, AttestingWire]) -> None:
    """One device that raises is told and counted; the others work."""
    (broken, *_) = devices
    wire = devices[broken]
    wire.hook = lambda _path, _headers: 1 / 0  # type: ignore[assignment,return-value]
    stream = Watched("crashed", 1)
    fleet = fleet_of(devices, stream)
    run(fleet, stream)
    (crashed,) = [event for event in stream.events if event["event"] == "crashed"]
    assert (crashed["device"], crashed["reason"]) == (wire.device_id, "ZeroDivisionError: division by zero")
    assert fleet.crashed == 1


def test_broken_folder_starts_nothing(devices: dict[Path, AttestingWire]) -> None:
    """Every folder is opened before any device boots."""
    (broken, *_) = devices
    (broken / "flash.bin").unlink()
    stream = Watched("booted", 1)
    with pytest.raises(DeviceFolderError, match=r"flash\.bin"):
        fleet_of(devices, stream)
    assert stream.events == []


def test_sample_of_devices_infers() -> None:
    """The sample has the size that the scenario says, and its seed decides who."""
    names = [f"device-{number}" for number in range(100)]
    assert inferring(names, seed=1, sample=None) == frozenset(names)
    samples = [inferring(names, seed=seed, sample=10) for seed in (1, 1, 2)]
    assert [len(sample) for sample in samples] == [10, 10, 10]
    assert samples[0] == samples[1] != samples[2]
