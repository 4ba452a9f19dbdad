"""The detector that learns on the core, with the interface of NanoEdge AI: init, learn, detect, sensitivity.

It keeps up to eight prototypes, kinds of normal such as speeds of a motor: how many windows each stands for, and the
running mean and variance of each feature (Welford), float32. `learn` moves the nearest prototype, or founds one where
none is near. `detect` compares with the nearest:

    z  = (feature − mean) / √variance of each feature, at least −MAX_BELOW: less energy than ever says less than more
    d⁴ = mean of z⁴; the fourth power, so that one band that stands out is not lost among the others
    similarity = 100 % · 2^(−sensitivity · d⁴ / HALF_DISTANCE⁴)

A variance of few windows is not trusted: `PRIOR_WINDOWS` windows of `PRIOR_SPREAD` are counted in, and `SPREAD_FLOOR`
stays. Learning ends with the warm-up. From there on the state does not move, so a fault that grows slowly is not
learned as normal; one that is there in the warm-up is.
"""

from collections.abc import Sequence

import numpy as np

from protocol.learned_state import LearnedPrototype, LearnedState, require_layout
from protocol.learning import MAX_COUNT, LearningTemplate, Prototype, check_budget
from tinyml.anomaly.features import FeatureExtractor

HALF_DISTANCE = 2.55  # of a window that is 50 % similar: normal ones stay below 2.3, faults begin at about 2.9
FOUNDING_DISTANCE = 4.0  # from every prototype, of a window that founds one
MAX_BELOW = np.float32(2.5)
PRIOR_WINDOWS = np.float32(4)
PRIOR_SPREAD = np.float32(0.5)  # of natural logarithms
SPREAD_FLOOR = np.float32(0.05)
CERTAIN = 100.0  # percent


class AnomalyDetector:
    """Learns and judges windows; its arrays are what a core holds in RAM."""

    def __init__(self, template: LearningTemplate, *, component_id: str, learned: LearnedState | None = None) -> None:
        """Begin with what was learned before, else with the template's prior knowledge, if any.

        Args:
            template: what and how to learn.
            component_id: GUID of the template's component.
            learned: by this device or the one before it; a new template's sensitivity counts.

        Raises:
            TemplateError: the template does not fit the memory of a core.
            ForeignStateError: `learned` is of another component or feature layout.
        """
        check_budget(template)
        self.template = template
        self._component_id = component_id
        self._extractor = FeatureExtractor(template.layout)
        self._template_sha256, self._layout_sha256 = template.sha256, template.layout.sha256
        shape = (template.max_prototypes, template.layout.features)
        self._counts = np.zeros(template.max_prototypes, np.uint32)
        self._means = np.zeros(shape, np.float32)
        self._variances = np.zeros(shape, np.float32)
        self._used = self._windows = 0
        self._sensitivity = template.sensitivity
        if learned is None:
            self._take(template.prior)
        else:
            self._resume(learned)

    @property
    def sensitivity(self) -> float:
        """How much a deviation counts; 1 is as designed, more finds smaller ones."""
        return self._sensitivity

    @sensitivity.setter
    def sensitivity(self, value: float) -> None:
        self._sensitivity = float(np.float32(min(max(value, 0.01), 100.0)))

    @property
    def windows(self) -> int:
        """How many windows were learned on this device."""
        return self._windows

    @property
    def is_learning(self) -> bool:
        """Whether the warm-up is not over yet."""
        return self._windows < self.template.warm_up_windows

    def learn(self, window: np.ndarray) -> None:
        """Take a window for normal.

        Args:
            window: samples, float32, shape (window_samples,).

        Raises:
            InputMismatchError: another shape or type, or a sample that is no number.
        """
        features = self._extractor.features(window)
        nearest, distance = self._nearest(features)
        is_full = self._used == self.template.max_prototypes
        if self._used and (is_full or distance <= FOUNDING_DISTANCE**4):
            self._move(nearest, features)
        else:
            self._counts[self._used], self._means[self._used] = 1, features
            self._used += 1
        self._windows = min(self._windows + 1, MAX_COUNT)

    def detect(self, window: np.ndarray) -> float:
        """Return how similar a window is to what is normal, percent; 0 where nothing is known.

        Args:
            window: samples, float32, shape (window_samples,).

        Raises:
            InputMismatchError: another shape or type, or a sample that is no number.
        """
        _, distance = self._nearest(self._extractor.features(window))
        return float(CERTAIN * 2.0 ** (-self._sensitivity * distance / HALF_DISTANCE**4))

    def state(self) -> LearnedState:
        """Return what was learned."""
        rows = zip(self._counts.tolist(), self._means.tolist(), self._variances.tolist(), strict=True)
        known = [LearnedPrototype(count, tuple(mean), tuple(variance)) for count, mean, variance in rows]
        return LearnedState(
            component_id=self._component_id,
            layout_sha256=self._layout_sha256,
            template_sha256=self._template_sha256,
            features=self.template.layout.features,
            windows=self._windows,
            sensitivity=self._sensitivity,
            prototypes=tuple(known[: self._used]),
        )

    def _resume(self, learned: LearnedState) -> None:
        require_layout(learned, component_id=self._component_id, layout=self.template.layout)
        # A template with room for fewer keeps those that stand for most windows.
        ranked = sorted(learned.prototypes, key=lambda each: each.windows, reverse=True)
        self._take(ranked[: self.template.max_prototypes])
        self._windows = learned.windows
        if learned.template_sha256 == self._template_sha256:
            self.sensitivity = learned.sensitivity

    def _take(self, prototypes: Sequence[Prototype | LearnedPrototype]) -> None:
        for place, each in enumerate(prototypes):
            self._counts[place], self._means[place], self._variances[place] = each.windows, each.mean, each.variance
        self._used = len(prototypes)

    def _nearest(self, features: np.ndarray) -> tuple[int, float]:
        """Return the nearest prototype and its d⁴, without the sensitivity; an infinite one where there is none."""
        if not self._used:
            return 0, np.inf
        known = slice(self._used)
        counts = self._counts[known, np.newaxis].astype(np.float32)
        trusted = (counts * self._variances[known] + PRIOR_WINDOWS * PRIOR_SPREAD**2) / (counts + PRIOR_WINDOWS)
        z = np.maximum((features - self._means[known]) / np.sqrt(trusted + SPREAD_FLOOR**2), -MAX_BELOW)
        distances = (z**4).mean(axis=1)
        nearest = int(distances.argmin())
        return nearest, float(distances[nearest])

    def _move(self, place: int, features: np.ndarray) -> None:
        self._counts[place] = count = min(int(self._counts[place]) + 1, MAX_COUNT)
        share = np.float32(1 / count)
        before = features - self._means[place]
        self._means[place] += before * share
        after = features - self._means[place]
        self._variances[place] += (before * after - self._variances[place]) * share
        np.maximum(self._variances[place], 0, out=self._variances[place])  # rounding may leave a trace below zero


def verdict(similarity_percent: float) -> np.ndarray:
    """Return a similarity as values of the labels normal, anomaly and learning; float32, shape (3,)."""
    similar = similarity_percent / CERTAIN
    return np.array([similar, 1 - similar, 0], np.float32)
