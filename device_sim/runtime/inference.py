"""Inference on one real-time core: the camera's frames go in, telemetry records and figures come out."""

import statistics
from collections import deque
from dataclasses import dataclass
from datetime import datetime

from device_sim.cores.m4 import InferenceOutcome, M4Core
from device_sim.hardware.machine import Machine
from device_sim.hardware.spare import SpareState
from device_sim.sensors.camera import Camera
from protocol.geometry import Core
from protocol.messages import InferenceRecord
from tinyml.errors import PoolBusyError

REMEMBERED_LATENCIES = 512  # of the latest inferences, for the median
MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class CoreFigures:
    """What one core did since its device started.

    Attributes:
        events: inferences, also failed ones.
        model: `name@version` of the latest.
        p50_ms_m4: median of the modelled latency of that model, or None before its first answer.
    """

    events: int
    model: str
    p50_ms_m4: float | None


class CoreWatch:
    """Runs inference on one core of a machine.

    Args:
        name: which core.
        machine: has booted.
        camera: what the device sees.
    """

    def __init__(self, name: Core, machine: Machine, camera: Camera) -> None:
        self._name = name
        self._machine = machine
        self._camera = camera
        self._events = 0
        self._model = ("", "")
        self._latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)

    @property
    def figures(self) -> CoreFigures:
        """What the core did so far."""
        median = statistics.median(self._latencies) if self._latencies else None
        return CoreFigures(self._events, self._model[0], median)

    def run(self) -> InferenceRecord | None:
        """Run one inference; None when the core runs no model, is on trial, or the host is too busy for it."""
        core = self._core
        if not core.is_running or self._on_trial:
            return None
        try:
            outcome = core.infer(self._camera.take().pixels)
        except PoolBusyError:
            return None
        self._remember(outcome)
        record = self._record(outcome, self._machine.clock.now())
        self._events += 1
        return record

    @property
    def _core(self) -> M4Core:
        return self._machine.cores[self._name]

    @property
    def _on_trial(self) -> bool:
        spare = self._machine.spare
        return spare.state is SpareState.TRIAL and spare.slot is not None and spare.slot.core is self._name

    def _remember(self, outcome: InferenceOutcome) -> None:
        model = (outcome.model, outcome.model_sha256)
        if model != self._model:
            self._model = model
            self._latencies.clear()
        if outcome.cause is None:
            self._latencies.append(outcome.m4_ms)

    def _record(self, outcome: InferenceOutcome, at: datetime) -> InferenceRecord:
        return InferenceRecord(
            at=at,
            core=self._name,
            sequence=self._events,
            model=outcome.model,
            model_sha256=outcome.model_sha256,
            label=outcome.label,
            score=outcome.score,
            m4_ms=outcome.m4_ms,
            host_ms=outcome.host_ms,
            arena_bytes=outcome.arena_bytes,
            error=outcome.error[:MAX_ERROR_CHARACTERS],
        )
