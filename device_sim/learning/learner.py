"""The detector on a core, in the place of TFLM: what `cores.kernels` runs, under the same faults and watchdog.

During the warm-up each window is learned, and the answer is `learning`; from then on it is `normal` or `anomaly`: a
window that is less than half similar is an anomaly. Every `KEPT_EVERY` windows, and when the warm-up ends, the state
goes to the A7, which keeps it. A core on trial keeps nothing: the state belongs to what is confirmed.

Golden vectors are answered by `PriorJudge`, from the template's prior knowledge alone: what this device learned is
its own, and would give each device its own verdict.
"""

import time

import numpy as np

from device_sim.learning.states import LearnedStates, taken_or_none
from protocol.geometry import Core
from protocol.learned_state import encode_state
from protocol.learning import LearningTemplate
from tinyml.anomaly.detector import AnomalyDetector, verdict
from tinyml.workers import InferenceResult, ModelImage

KEPT_EVERY = 16  # windows; a power cut costs at most so many of the warm-up


class Learner:
    """Learns and judges on one core; implements `device_sim.cores.kernels.Inference`.

    Args:
        template: what and how to learn.
        component_id: GUID of the template's component.
        core: that it runs on.
        states: where the state is kept.
        keeps: whether it is; not on trial.
    """

    def __init__(
        self, template: LearningTemplate, *, component_id: str, core: Core, states: LearnedStates, keeps: bool
    ) -> None:
        self.template = template
        self.component_id = component_id
        self._core = core
        self._states = states
        self._keeps = keeps
        self._detector, self._origin = self._begin()

    @property
    def detector(self) -> AnomalyDetector:
        """What learns and judges."""
        return self._detector

    @property
    def origin(self) -> str:
        """Why the core began anew, or an empty string: it went on with what was kept."""
        return self._origin

    @property
    def keeps(self) -> bool:
        """Whether what is learned is kept; not on trial."""
        return self._keeps

    def restart(self) -> None:
        """Go on with what is kept now: after a restore, or anew after a reset."""
        self._detector, self._origin = self._begin()

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002, ARG002 - the port's
        """Learn from a window, or judge it; see `tinyml.workers.InferencePool.invoke`."""
        started = time.perf_counter()
        if self._detector.is_learning:
            self._learn(input)
            values = np.array([0, 0, 1], np.float32)
        else:
            values = verdict(self._detector.detect(input))
        return InferenceResult(values, time.perf_counter() - started)

    def _learn(self, window: np.ndarray) -> None:
        self._detector.learn(window)
        is_due = self._detector.windows % KEPT_EVERY == 0 or not self._detector.is_learning
        if self._keeps and is_due:
            self._states.keep(self._core, encode_state(self._detector.state()))

    def _begin(self) -> tuple[AnomalyDetector, str]:
        kept = self._states.recall(self._core)
        state, reason = taken_or_none(kept, self.template, component_id=self.component_id)
        return AnomalyDetector(self.template, component_id=self.component_id, learned=state), reason


class PriorJudge:
    """Judges by the template's prior knowledge alone; implements `device_sim.cores.kernels.Inference`."""

    def __init__(self, template: LearningTemplate, *, component_id: str) -> None:
        self._detector = AnomalyDetector(template, component_id=component_id)

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002, ARG002 - the port's
        """Judge a window; see `tinyml.workers.InferencePool.invoke`."""
        started = time.perf_counter()
        values = verdict(self._detector.detect(input))
        return InferenceResult(values, time.perf_counter() - started)
