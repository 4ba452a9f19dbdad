"""One run of a scenario's virtual devices, from its files to its report."""

import gc
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TextIO

from device_sim.reporting.record import RunReport
from device_sim.reporting.tally import RunTally
from protocol.scenario import Scenario
from service.application.update_repositories import StoredRollout
from simulation.checks import check_virtual
from simulation.clock import VirtualClock
from simulation.errors import VirtualScenarioError
from simulation.happenings import Happenings
from simulation.health import HealthRounds
from simulation.operator import VirtualOperator
from simulation.record import Record
from simulation.scheduler import NEVER
from simulation.service import ServiceSettings
from simulation.world import World

COLLECTION_THRESHOLDS = (100_000, 50, 100)  # of the three generations
PROGRESS_SECONDS = 600.0  # virtual time between two words of progress


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        seconds: of the scenario.
        steps: of the scheduler.
        events: that were emitted.
        rollouts: by id.
    """

    seconds: float
    steps: int
    events: int
    rollouts: Mapping[str, StoredRollout]


class Run:
    """A run; made, run once, and asked for its report.

    Args:
        scenario: has virtual devices.
        events: gets each event as a line of JSON, or None.
        is_tallied: whether a report is wanted; folding every event takes time.
        settings: of the service.

    Raises:
        VirtualScenarioError: the scenario has no virtual device, asks for what none does, or would never end.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        events: TextIO | None = None,
        is_tallied: bool = False,
        settings: ServiceSettings | None = None,
    ) -> None:
        check_run(scenario)
        self._scenario = scenario
        _collect_rarely()
        clock = VirtualClock(scenario.start)
        self._tally = RunTally(scenario, started_at=scenario.start) if is_tallied else None
        listener = None if self._tally is None else self._tally.hear
        self.world = World(scenario, clock, Record(clock, listener=listener, stream=events), settings=settings)
        self.world.prepare()
        Happenings(self.world)
        HealthRounds(self.world)
        self.operator = VirtualOperator(self.world)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        world = self.world
        return Progress(world.clock.seconds, world.scheduler.steps, world.record.events, self.operator.rollouts())

    def go(self, *, tell: Callable[[Progress], None] | None = None) -> None:
        """Run to the scenario's end; whatever interrupts it leaves what is known so far.

        Args:
            tell: called now and then with the progress.
        """
        if tell is not None:
            self.world.scheduler.call(lambda now: self._tell(tell, now), PROGRESS_SECONDS)
        length = self._scenario.length
        try:
            self.world.run(NEVER if length is None else length.total_seconds())
        finally:
            self.world.finish()

    def report(self, *, ended: bool = True) -> RunReport:
        """Return the record of the run.

        Args:
            ended: whether it ran to its end.
        """
        if self._tally is None:
            raise AssertionError("a report is of a run that was tallied")
        return self._tally.report(ended=ended)

    def _tell(self, tell: Callable[[Progress], None], now: float) -> float:
        tell(self.progress)
        return math.inf if self.world.service is None else now + PROGRESS_SECONDS


def check_run(scenario: Scenario) -> None:
    """Refuse a scenario whose virtual devices cannot be run; nothing is made.

    Raises:
        VirtualScenarioError: it has no virtual device, asks for what none does, or would never end.
    """
    check_virtual(scenario)
    if not scenario.rollouts and scenario.length is None:
        raise VirtualScenarioError("scenario: expected rollouts or a length, found neither: it would never end")


def _collect_rarely() -> None:
    """Have the garbage collector of the process look seldom: a run makes millions of objects that stay, and no cycles.

    It stays so after the run: to look as often as usual again is to look at all of them at once.
    """
    gc.set_threshold(*COLLECTION_THRESHOLDS)
