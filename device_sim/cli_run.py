"""`device-sim run`: everything is read and checked, then the devices start, then a signal stops them."""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import yaml

from device_sim.adapters.clock import WallClock
from device_sim.errors import DeviceSimError
from device_sim.network.service import TlsNetwork, read_service_file
from device_sim.runtime.events import EventLog
from device_sim.runtime.fleet import World, open_fleet
from protocol.document import DocumentError, parse_document
from protocol.scenario import Scenario
from tinyml.photos import load_photos
from tinyml.workers import InferencePool

MAX_INFERENCE_WORKERS = 4


class ScenarioError(DeviceSimError):
    """The scenario file is missing or not of the expected form."""


class FleetCrashedError(DeviceSimError):
    """A step of a device raised what it must not: a fault of the simulator."""


def run_fleet(
    folders: Sequence[Path], *, service_file: Path, scenario_file: Path | None, events_file: Path | None
) -> None:
    """Run devices until SIGTERM or SIGINT.

    Args:
        folders: of the devices.
        service_file: says where the service listens.
        scenario_file: YAML, or None for a quiet fleet.
        events_file: lines are added to it; None means stdout.

    Raises:
        DeviceSimError: a file or a device's folder is not of the expected form; no device has started then.
        FleetCrashedError: a device's step raised; the event log says which.
        RuntimeMissingError: tflite-micro is not installed.
    """
    clock = WallClock()
    network = TlsNetwork(read_service_file(service_file), clock)
    scenario = Scenario() if scenario_file is None else read_scenario(scenario_file)
    workers = min(MAX_INFERENCE_WORKERS, os.cpu_count() or 1)
    with _events(events_file) as stream, InferencePool(workers=workers) as pool:
        events = EventLog(stream, now=clock.now)
        world = World(network, clock, pool, photos=load_photos(), scenario=scenario, events=events)
        fleet = open_fleet(folders, world)
        with _stop_signals() as stopping:
            fleet.start()
            try:
                stopping.wait()
            finally:
                fleet.stop()
    if fleet.crashed:
        raise FleetCrashedError(f"expected every step to end, found {fleet.crashed} that raised")


def read_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Raises:
        ScenarioError: names the file and what is wrong where.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ScenarioError(f"{path}: expected a scenario, found {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: expected YAML, found {error}") from error
    try:
        return parse_document(json.dumps(content or {}, default=str).encode(), Scenario)
    except DocumentError as error:
        raise ScenarioError(f"{path}: {error}") from error


@contextmanager
def _events(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with path.open("a", encoding="utf-8") as stream:
        yield stream


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turn SIGTERM and SIGINT into an event for as long as the devices run."""
    stopping = threading.Event()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda _number, _frame: stopping.set()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
