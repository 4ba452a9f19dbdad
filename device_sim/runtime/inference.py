"""Inference on one real-time core: what a sensor takes goes in, telemetry records and figures come out.

In device time (`cores.device_time`) one inference begins every period, takes as long as the model is modelled to take
on the core, longer where the flash stops the core, and is run by the host when it ends. After a reset the core starts
anew. A host that is late by more than a period moves the line.

A model in shadow looks at a frame when the core has answered it, and takes the core from then on. What it answers is
counted and not told. An inference that was due meanwhile begins later, and the ones after it catch up with the line.
"""

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from device_sim.cores.device_time import RESOLUTION_SECONDS, DeviceTime, Routine
from device_sim.cores.kernels import RESET_MS
from device_sim.cores.m4 import InferenceOutcome
from device_sim.hardware.ports import DeviceMachine, RealTimeCore, Shadow
from device_sim.hardware.spare import SpareState
from device_sim.sensors.ports import Sensors
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
        core_ms: modelled time that all its inferences together took, whatever model did them.
    """

    events: int
    model: str
    p50_ms_m4: float | None
    core_ms: float = 0.0


class CoreWatch:
    """Runs inference on one core of a machine.

    Args:
        name: which core.
        machine: has booted.
        sensors: of the device.
        period_seconds: from one inference to the next.
        hear: takes what each inference came to, and when it ended by the device's clock.
    """

    def __init__(
        self,
        name: Core,
        machine: DeviceMachine,
        sensors: Sensors,
        *,
        period_seconds: float,
        hear: Callable[[Core, InferenceOutcome, datetime], None] = lambda *_: None,
    ) -> None:
        self._name = name
        self._machine = machine
        self._sensors = sensors
        self._period = period_seconds
        self._hear = hear
        self._begin: float | None = None  # of the inference that is due next, in device time
        self._late = 0.0  # by how much that is behind its line, because of a model in shadow
        self._events = 0
        self._core_ms = 0.0
        self._model = ("", "")
        self._latencies: deque[float] = deque(maxlen=REMEMBERED_LATENCIES)

    @property
    def figures(self) -> CoreFigures:
        """What the core did so far."""
        median = statistics.median(self._latencies) if self._latencies else None
        return CoreFigures(self._events, self._model[0], median, self._core_ms)

    def set_period(self, seconds: float) -> None:
        """Infer so often from the next inference on."""
        self._period = seconds

    @property
    def due(self) -> float:
        """When to run next, on the clock that drives the device: when the next inference will have ended."""
        if self._begin is None:
            return self._time.moment_of(self._time.now + self._period)
        return self._time.moment_of(self._time.end_of(self._begin, self._core.latency_seconds))

    def run(self) -> InferenceRecord | None:
        """Run the inference that ends now.

        Returns:
            Its record; None when none ends now, the core runs no model or is on trial, or the host is too busy for it.
        """
        if not self._core.is_running or self._on_trial:
            self._rest()
            return None
        now = self._time.now
        begin = self._due(now)
        end = self._time.end_of(begin, self._core.latency_seconds)
        if end > now + RESOLUTION_SECONDS:
            return None
        try:
            sample = self._sense(end)
            outcome = self._core.infer(sample)
        except PoolBusyError:
            self._go_on(begin, end)
            return None
        self._remember(outcome)
        end = self._time.end_of(begin, outcome.m4_ms / 1000)
        free = self._time.end_of(begin, outcome.busy_seconds)
        self._go_on(begin, free if outcome.cause else self._after_shadow(outcome, sample, free))
        at = self._machine.clock.now() + timedelta(seconds=end - now)
        self._hear(self._name, outcome, at)
        return self._record(outcome, at, end)

    @property
    def _core(self) -> RealTimeCore:
        return self._machine.cores[self._name]

    @property
    def _time(self) -> DeviceTime:
        return self._machine.time

    @property
    def _on_trial(self) -> bool:
        spare = self._machine.spare
        return spare.state is SpareState.TRIAL and spare.slot is not None and spare.slot.core is self._name

    def _rest(self) -> None:
        self._begin, self._late = None, 0.0
        self._time.expect(self._name, None)

    def _due(self, now: float) -> float:
        """Return when the inference begins that is due; a core that has rested, or a host that is late, begins now."""
        begin = self._begin
        if begin is None or now > self._time.end_of(begin, self._core.latency_seconds) + self._period:
            begin, self._late = now, 0.0
        begin = self._time.free_from(self._name, begin)
        self._plan(begin)
        return begin

    def _go_on(self, begin: float, free: float) -> None:
        on_line = begin - self._late + self._period
        self._plan(max(on_line, free))
        self._late = 0.0 if self._shadow is None else max(0.0, free - on_line)

    def _plan(self, begin: float) -> None:
        self._begin = begin
        both = self._core.latency_seconds + (0.0 if self._shadow is None else self._core.candidate_seconds)
        length = both if both < self._period else self._core.latency_seconds
        self._time.expect(self._name, Routine(begin, length, self._period))

    def _sense(self, at_seconds: float) -> np.ndarray:
        card = self._core.card
        if card is None:
            raise AssertionError("a core that runs a model has its card")
        return self._sensors.take(self._name, card.input, at_seconds=at_seconds)

    @property
    def _shadow(self) -> Shadow | None:
        shadow = self._machine.shadow
        return shadow if shadow is not None and shadow.slot.core is self._name else None

    def _after_shadow(self, incumbent: InferenceOutcome, sample: np.ndarray, end: float) -> float:
        """Let a model in shadow look at the frame that was answered; return when the core is free."""
        shadow, core = self._shadow, self._core
        if shadow is None or incumbent.error:
            return end
        wants = shadow.takes_frame(
            period=self._period, incumbent=core.latency_seconds, candidate=core.candidate_seconds
        )
        if not wants:
            return end
        try:
            candidate = core.infer_candidate(sample)
        except PoolBusyError:
            return end  # the host's, so the frame is not compared
        shadow.add(incumbent, candidate)
        self._core_ms += candidate.m4_ms
        reset = RESET_MS / 1000 if candidate.cause else 0.0
        return self._time.end_of(end, candidate.m4_ms / 1000 + reset)  # a hang ends with its slice

    def _remember(self, outcome: InferenceOutcome) -> None:
        model = (outcome.model, outcome.model_sha256)
        if model != self._model:
            self._model = model
            self._latencies.clear()
        self._core_ms += outcome.m4_ms
        if outcome.cause is None:
            self._latencies.append(outcome.m4_ms)

    def _record(self, outcome: InferenceOutcome, at: datetime, device_seconds: float) -> InferenceRecord:
        record = InferenceRecord(
            at=at,
            device_seconds=device_seconds,
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
        self._events += 1
        return record
