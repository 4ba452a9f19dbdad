"""What is wrong with single boards of a hardware revision, at the ports of their machines."""

import random
from dataclasses import dataclass, replace

import numpy as np

from device_sim.cores.kernels import Inference
from device_sim.fleets.choices import chance, is_hit
from device_sim.fleets.plan import DevicePlan, revision_of
from device_sim.hardware.power import PowerSupply
from protocol.geometry import M4_CLOCK_HZ
from protocol.scenario import Scenario
from protocol.scenario.hardware import Defect, DefectKind
from tinyml.errors import InferenceCrashError
from tinyml.images import ModelImage
from tinyml.workers import InferenceResult


@dataclass(frozen=True, slots=True)
class BoardDefects:
    """What one board has.

    Attributes:
        clock_hz: of the real-time cores.
        faults_every: mean number of inferences between two faults of a core; None: it has none.
        brown_out_every: mean number of flash operations between two in which the power fails; None: it lasts.
        erases: that a sector of the flash takes; None: more than a device lives to see.
        rng: of the board's defects.
    """

    clock_hz: int
    faults_every: int | None
    brown_out_every: int | None
    erases: int | None
    rng: random.Random

    def pool(self, pool: Inference) -> Inference:
        """Return what runs the kernels of this board's cores."""
        return pool if self.faults_every is None else FlakyInference(pool, self.rng, every=self.faults_every)

    def power(self) -> PowerSupply:
        """Return the power supply of a machine that is opened now."""
        if self.brown_out_every is None:
            return PowerSupply()
        operations = int(self.rng.expovariate(1 / self.brown_out_every))
        return PowerSupply(fails_at=operations, share=self.rng.random())


class FlakyInference:
    """An `Inference` port whose core faults now and then.

    Args:
        pool: answers else.
        rng: draws when.
        every: mean number of inferences between two faults.
    """

    def __init__(self, pool: Inference, rng: random.Random, *, every: int) -> None:
        self._pool = pool
        self._rng = rng
        self._every = every

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Run a model once; raises as the pool's, and InferenceCrashError where the core faults."""
        if self._rng.random() * self._every < 1:
            raise InferenceCrashError("core: expected an answer, found a fault of the board")
        return self._pool.invoke(model, input, deadline_seconds=deadline_seconds)


def defects_of(scenario: Scenario, plan: DevicePlan, device_id: str) -> BoardDefects:
    """Return what is wrong with a device's board."""
    found = BoardDefects(M4_CLOCK_HZ, None, None, None, chance(scenario.seed, "defects", device_id))
    for defect in declared_defects_of(scenario, plan, device_id):
        found = _with(found, defect)
    return found


def declared_defects_of(scenario: Scenario, plan: DevicePlan, device_id: str) -> tuple[Defect, ...]:
    """Return the defects of its revision that a device's board has, the same ones in every fidelity."""
    return tuple(
        defect
        for number, defect in enumerate(revision_of(scenario, plan.hardware).defects)
        if is_hit(scenario.seed, f"defect/{plan.hardware}/{number}", device_id, share=defect.share)
    )


def _with(found: BoardDefects, defect: Defect) -> BoardDefects:
    match defect.kind:
        case DefectKind.SLOW_CLOCK:
            return replace(found, clock_hz=int(M4_CLOCK_HZ * defect.factor))
        case DefectKind.FLAKY_CORE:
            return replace(found, faults_every=defect.every)
        case DefectKind.BROWN_OUT:
            return replace(found, brown_out_every=defect.every)
        case DefectKind.WEAK_FLASH:
            return replace(found, erases=defect.every)
