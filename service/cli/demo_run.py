"""What the steps of the demo work with: the folder, the processes, the view, the service's API."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from service.cli.client import ApiClient, load_credential
from service.cli.demo_events import EventFile
from service.cli.demo_fleet import FleetTable, InferenceResults
from service.cli.demo_folder import DemoFolder, Record
from service.cli.demo_processes import Child, Command, Processes, StopRequest
from service.cli.errors import StepError
from service.cli.live import DemoView, Screen, SilentScreen

TINYFLEET = "service.cli.main"
DEVICE_SIM = "device_sim"
PRODUCT = "Demo camera"
GROUP = "Production"
ATTACKED_DEVICES = 2
MAX_INFERRING = 40  # more than that, twice a second each, is more than two host cores can do
INFERENCE_SAMPLE = 24
LOOK_SECONDS = 0.25  # between two looks at the service
ASSETS = Path(__file__).with_name("demo_assets")


@dataclass(slots=True)
class DemoRun:
    """One run of the demo.

    Attributes:
        record: what is done; written after each step.
        started: of the monotonic clock, seconds.
    """

    folder: DemoFolder
    record: Record
    processes: Processes
    stop: StopRequest
    view: DemoView
    screen: Screen
    started: float = field(default_factory=time.monotonic)
    events: EventFile = field(init=False)
    service: Child | None = None
    devices: Child | None = None
    results: InferenceResults = field(default_factory=InferenceResults)
    _client: ApiClient | None = None
    _fleet: FleetTable = field(init=False)

    def __post_init__(self) -> None:
        self.events = EventFile(self.folder.events)
        self._fleet = FleetTable(self.results, self.events)

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return time.monotonic() - self.started

    @property
    def inference_sample(self) -> int:
        """How many devices run inference; 0 means all."""
        return INFERENCE_SAMPLE if self.record.devices > MAX_INFERRING else 0

    @property
    def healthy_devices(self) -> int:
        """Devices that nobody attacks."""
        return self.record.devices - ATTACKED_DEVICES

    @property
    def service_url(self) -> str:
        """Where the operator API is."""
        return f"https://127.0.0.1:{self.record.ports.operator}"

    @property
    def client(self) -> ApiClient:
        """The service's API; opened when it is first needed."""
        if self._client is None:
            login = replace(load_credential(self.folder.operator), url=self.service_url)
            self._client = ApiClient.open(login)
        return self._client

    def perform(self, *sequences: Iterable[Command]) -> None:
        """Run sequences of commands side by side, each in its order.

        Raises:
            StepError: a command failed.
        """
        self.processes.run(*sequences, on_wait=self.show)

    def wait_until(self, condition: Callable[[], bool], *, what: str, timeout_seconds: float) -> None:
        """Look again and again until a condition holds.

        Raises:
            StepError: it does not hold in time, or a process has ended by itself.
            InterruptedDemoError: somebody asked to stop.
        """
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StepError(f"expected {what} within {timeout_seconds:.0f} s, found it still missing")
            self.processes.check()
            self.show()
            self.stop.pause(LOOK_SECONDS)
        self.show()

    def show(self) -> None:
        """Show how things stand."""
        if self.devices is not None and not isinstance(self.screen, SilentScreen):
            rows = self._fleet.rows(self.client)
            self.view.devices = self.view.devices if rows is None else rows
        self.screen.refresh()

    def is_done(self, step: str) -> bool:
        """Whether this or an earlier run finished a step."""
        return step in self.record.done

    def finish(self, step: str) -> None:
        """Note a finished step."""
        self.record = replace(self.record, done=(*self.record.done, step))
        self.folder.note(self.record)

    def device_folders(self) -> list[Path]:
        """Return the folders of the simulated devices, in the order of their names."""
        return sorted(path for path in self.folder.devices.iterdir() if path.is_dir())

    def close(self) -> None:
        """Stop every process, the devices before the service."""
        if self._client is not None:
            self._client.close()
        self.processes.stop_all()


def tinyfleet(*words: str | Path) -> Command:
    """Return a command of `tinyfleet`."""
    return Command(TINYFLEET, tuple(map(str, words)))


def device_sim(*words: str | Path) -> Command:
    """Return a command of `device-sim`."""
    return Command(DEVICE_SIM, tuple(map(str, words)))
