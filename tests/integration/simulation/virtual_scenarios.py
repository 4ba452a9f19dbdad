"""Scenarios of virtual fleets for tests, and runs of them that remember what they told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocol.scenario import Scenario
from service.application.device_changes import store_device
from service.domain.device import Device
from service.domain.rollout import Rollout
from simulation.clock import VirtualClock
from simulation.driving import drive
from simulation.happenings import Happenings
from simulation.health import HealthRounds
from simulation.operator import VirtualOperator
from simulation.record import Record
from simulation.scheduler import NEVER
from simulation.setup import OPERATOR
from simulation.world import World

MODEL = {"m4-0/model": {"name": "person@2.0", "bytes": 200_000}}


def scenario(devices: int = 40, **changes: Any) -> Scenario:
    """Return a fleet and one rollout in two stages; `changes` replace parts of the document."""
    document: dict[str, Any] = {
        "seed": 5,
        "fleets": [{"name": "cameras", "devices": devices, "fidelity": "virtual"}],
        "releases": [{"name": "r1", "images": MODEL}],
        "rollouts": [
            {
                "release": "r1",
                "at": "5m",
                "stages": [{"percent": 10, "soak": "10m"}, {"percent": 100, "soak": "10m"}],
                "action_timeout": "1h",
            }
        ],
    }
    return Scenario.model_validate({**document, **changes})


@dataclass
class Told:
    """A run and every event of it."""

    scenario: Scenario
    events: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = VirtualClock(self.scenario.start)
        self.world = World(self.scenario, clock, Record(clock, listener=self.events.append))
        self.world.prepare()
        Happenings(self.world)
        HealthRounds(self.world)
        self.operator = VirtualOperator(self.world)

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        """Have something done at a time of the scenario."""

        def once(_now: float) -> float:
            do()
            return NEVER

        self.world.scheduler.call(once, seconds)

    def run(self) -> "Told":
        length = self.scenario.length
        self.world.run(NEVER if length is None else length.total_seconds())
        self.world.finish()
        return self

    @property
    def rollout(self) -> Rollout:
        (stored,) = self.operator.rollouts().values()
        return stored.rollout

    def device(self, device_id: str) -> Device | None:
        """Return a device as the service has it."""

        async def find() -> Device | None:
            async with self.world.database(read_only=True) as work:
                return await work.devices.find(device_id)

        return drive(find())

    def block(self, device_id: str) -> None:
        """Block a device, as an operator's use case does."""

        async def block() -> None:
            async with self.world.database() as work:
                before = await work.devices.get(device_id)
                after = before.block("lost", self.world.clock.now())
                await store_device(work, OPERATOR, before, after, change="blocked", at=self.world.clock.now())
                await work.commit()

        drive(block())

    def named(self, name: str, **fields: object) -> list[Mapping[str, Any]]:
        """Return events of a name whose fields are as given."""
        return [
            event
            for event in self.events
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items())
        ]

    def running(self, name: str = "person@2.0") -> int:
        """Return how many devices run an image, by their own slots."""
        return sum(
            any(image.name == name for image in device.machine.installed().values())
            for device in self.world.devices.values()
        )


def run(described: Scenario) -> Told:
    """Run a scenario to its end."""
    return Told(described).run()
