"""`device-sim run`: everything is read and checked, then the devices start, until a signal or the scenario's end.

Virtual fleets run in a process of their own, `python -m simulation`, beside the full and the light ones. It is given
the scenario, and a pipe for its events, which join those of the others.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console

from device_sim.adapters.clock import WallClock
from device_sim.cli_signals import stop_signals
from device_sim.errors import DeviceSimError
from device_sim.fleets.crew import Crew, crews_of
from device_sim.fleets.kits import KitRoom
from device_sim.fleets.scenario_file import ScenarioError, read_scenario
from device_sim.network.loop import LinkLoop
from device_sim.network.service import Endpoints, TlsNetwork, read_service_file
from device_sim.reporting.live import showing
from device_sim.reporting.tally import RunTally
from device_sim.runtime.events import EventLog
from device_sim.runtime.fleet import FleetRun, World
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity
from tinyml.workers import InferencePool

MAX_INFERENCE_WORKERS = 4
STEP_WORKERS = 32  # threads for all devices; most of the time they wait for the service's answers
LOOK_SECONDS = 0.2  # between two looks at the simulation's process


class FleetCrashedError(DeviceSimError):
    """A step of a device raised what it must not: a fault of the simulator."""


class VirtualFleetError(DeviceSimError):
    """The process of the virtual fleets ended with a failure; it has said why."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a run is asked for.

    Attributes:
        folders: of the devices.
        service_file: says where the service listens; None: only virtual devices can run.
        scenario_file: YAML, or None for a quiet fleet.
        events_file: lines are added to it; None means stdout.
        record_file: gets the record of the run, JSON; None: nobody does.
    """

    folders: Sequence[Path]
    service_file: Path | None
    scenario_file: Path | None
    events_file: Path | None
    record_file: Path | None = None


def run_fleet(request: RunRequest) -> None:
    """Run devices until SIGTERM or SIGINT, or until the scenario ends.

    Raises:
        DeviceSimError: a file or a device's folder is not of the expected form; no device has started then.
        FleetCrashedError: a device's step raised; the event log says which.
        VirtualFleetError: the virtual fleets failed.
        RuntimeMissingError: tflite-micro is not installed.
    """
    scenario = Scenario() if request.scenario_file is None else read_scenario(request.scenario_file)
    where = Path() if request.scenario_file is None else request.scenario_file.parent
    crews = crews_of(scenario, request.folders, where=where)
    if not crews and request.scenario_file is not None:
        _run_virtual_alone(request, request.scenario_file)
        return
    endpoints = _endpoints(request)
    _check_virtual(scenario, request.scenario_file)
    clock = WallClock()
    tally = RunTally(scenario, started_at=clock.now())
    with _events(request.events_file) as stream, stop_signals() as stopping:
        events = EventLog(stream, now=clock.now, listeners=[tally.hear])
        try:
            with (
                _live_view(tally, request.events_file),
                _virtual(scenario, request.scenario_file, events=events, stopping=stopping),
            ):
                _run_real(scenario, crews, endpoints, events=events, stopping=stopping)
        finally:
            if request.record_file is not None:
                from device_sim.cli_report import write_record  # noqa: PLC0415 - plots take a second to import

                write_record(tally.report(), request.record_file)


def _endpoints(request: RunRequest) -> Endpoints:
    if request.service_file is None:
        raise ScenarioError("fleets that are not virtual: expected --service-file of a running service, found none")
    return read_service_file(request.service_file)


def _run_real(
    scenario: Scenario, crews: Sequence[Crew], endpoints: Endpoints, *, events: EventLog, stopping: threading.Event
) -> None:
    clock = WallClock()
    with InferencePool(workers=min(MAX_INFERENCE_WORKERS, _processor_cores())) as pool:
        loop = LinkLoop(clock, on_crash=lambda error: run.tell_crash(error))  # noqa: PLW0108 - the run needs the loop
        world = World(
            network=lambda path: TlsNetwork(endpoints, clock, loop, path),
            clock=clock,
            scenario=scenario,
            events=events,
            started_at=clock.now(),
            settle=loop.settle,
            workers=STEP_WORKERS,
        )
        run = FleetRun(world)
        room = KitRoom(pool, seed=scenario.seed)
        try:
            for crew in crews:
                kit = room.kit(crew)
                for member in crew.members:
                    run.add(member, kit)
            with run:
                stopping.wait(None if scenario.length is None else scenario.length.total_seconds())
        finally:
            loop.close()
    if run.crashed:
        raise FleetCrashedError(f"expected every step to end, found {run.crashed} that raised")


def _processor_cores() -> int:
    """Return how many processor cores this process may use; it may be kept to fewer than there are."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _live_view(tally: RunTally, events_file: Path | None) -> AbstractContextManager[None]:
    """Show the run on a terminal whose stdout is not taken by events."""
    if events_file is None:
        return nullcontext()
    return showing(partial(tally.report, ended=False), Console(stderr=True))


def _run_virtual_alone(request: RunRequest, scenario_file: Path) -> None:
    """Leave a run of virtual devices alone to the process of the simulation: it writes what is asked for itself."""
    files = {"--events": request.events_file, "--json": request.record_file}
    options = [word for name, path in files.items() if path is not None for word in (name, str(path))]
    with stop_signals() as stopping, _simulation(scenario_file, options, stopping=stopping):
        pass


def _check_virtual(scenario: Scenario, scenario_file: Path | None) -> None:
    """Have the simulation judge the virtual fleets of a mixed scenario; it says itself what it refuses."""
    if scenario_file is None or not _has_virtual(scenario):
        return
    command = [sys.executable, "-m", "simulation", "check", str(scenario_file)]
    _require_done(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own command


def _require_done(code: int) -> None:
    if code:
        raise VirtualFleetError(f"virtual fleets: expected exit code 0, found {code}")


@contextmanager
def _virtual(
    scenario: Scenario, scenario_file: Path | None, *, events: EventLog, stopping: threading.Event
) -> Iterator[None]:
    """Run the virtual fleets of a mixed scenario beside the block; their events join the others'."""
    if scenario_file is None or not _has_virtual(scenario):
        yield
        return
    reading, writing = os.pipe()
    with os.fdopen(reading) as lines:
        reader = threading.Thread(target=_join_events, args=(lines, events), name="virtual-events")
        try:
            options = ["--events", f"/dev/fd/{writing}"]
            with _simulation(scenario_file, options, stopping=stopping, pass_fds=(writing,)):
                os.close(writing)  # so that the reader ends with the process
                reader.start()
                yield
        finally:
            reader.join()


@contextmanager
def _simulation(
    scenario_file: Path, options: Sequence[str], *, stopping: threading.Event, pass_fds: tuple[int, ...] = ()
) -> Iterator[None]:
    """Run the process of the virtual fleets beside the block, to its own end or until the run is to stop.

    Raises:
        VirtualFleetError: it failed.
    """
    command = [sys.executable, "-m", "simulation", "run", str(scenario_file), *options]
    process = subprocess.Popen(command, pass_fds=pass_fds)  # noqa: S603 - our own command
    try:
        yield
        while process.poll() is None and not stopping.wait(LOOK_SECONDS):
            pass
    finally:
        code = process.poll()
        if code is None:
            process.send_signal(signal.SIGINT)
            process.wait()
    _require_done(code or 0)


def _join_events(lines: TextIO, events: EventLog) -> None:
    for line in lines:
        events.pass_on(line)


def _has_virtual(scenario: Scenario) -> bool:
    return any(fleet.fidelity is Fidelity.VIRTUAL for fleet in scenario.fleets)


@contextmanager
def _events(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    with path.open("a", encoding="utf-8") as stream:
        yield stream
