"""What a virtual device tells of its models: windows summed up in closed form, with answers that are assumed.

Real: how many inferences, how long they took, by which model, resets by the watchdog; windows that end with their model
or their time, wait while the device cannot be reached, and are told once. Assumed: the answers. A camera's scene has an
object in a share of the frames that is its own, and models are as sure as they are; both vary a little from window to
window. In the dark a model finds few objects and is unsure, the same on every device.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from device_sim.runtime.health import MAX_WAITING
from protocol.geometry import Core
from protocol.health import HealthReport, InferenceFault

OBJECT, NOTHING = "object", "nothing"
OBJECTS = (0.2, 0.6)  # share of the frames, evenly between devices
SURENESS = (0.85, 0.95)  # mean confidence, evenly between devices
OBJECTS_VARY, SURENESS_VARIES = 0.03, 0.01  # from window to window, standard deviations
EVEN = 0.5  # confidence of a model of two classes that does not know
IN_THE_DARK = 0.4  # of what a model is surer than even
SEEN_IN_THE_DARK = 0.25  # of the objects
SPREAD = 0.08  # of the confidences of one window, standard deviation


@dataclass(frozen=True, slots=True)
class Stretch:
    """Inferences of a core that were alike.

    Attributes:
        frames: how many; a part of one counts as such.
        milliseconds: each took on the core.
        is_answered: whether it ended before the watchdog bit.
        is_dark: in front of the device.
        sureness: factor of what the model is surer than even.
    """

    frames: float
    milliseconds: float
    is_answered: bool
    is_dark: bool
    sureness: float


@dataclass(slots=True)
class _Window:
    """Sums over one window of one model; shares and confidences are those of the scene, without what varies."""

    model_sha256: str
    since: datetime
    answers: float = 0.0
    hangs: float = 0.0
    objects: float = 0.0
    sure: float = 0.0
    busy_ms: float = 0.0
    longest_ms: float = 0.0


class VirtualHealth:
    """Windows that are open, and reports that wait, of one device.

    Args:
        rng: seeded; draws the device's scene and what varies.
        now: returns the virtual time.
    """

    __slots__ = ("_now", "_objects", "_rng", "_sequence", "_sureness", "_waiting", "_windows")

    def __init__(self, rng: random.Random, *, now: Callable[[], datetime]) -> None:
        self._rng = rng
        self._now = now
        self._objects, self._sureness = rng.uniform(*OBJECTS), rng.uniform(*SURENESS)
        self._sequence = 0
        self._windows: dict[Core, _Window] = {}
        self._waiting: list[HealthReport] = []

    def add(self, core: Core, model_sha256: str, stretches: Iterable[Stretch], *, seconds: float) -> None:
        """Sum up what a core did until now.

        Args:
            core: that inferred.
            model_sha256: of the image that it ran.
            stretches: its inferences.
            seconds: for how long.
        """
        window = self._windows.get(core)
        if window is not None and window.model_sha256 != model_sha256:
            self._end(core)
            window = None
        if window is None:
            window = self._windows[core] = _Window(model_sha256, self._now() - timedelta(seconds=seconds))
        for each in stretches:
            self._sum_up(window, each)

    def end(self) -> None:
        """End all windows."""
        for core in list(self._windows):
            self._end(core)

    def take(self) -> Sequence[HealthReport]:
        """Return the reports that wait, and forget them."""
        taken, self._waiting = self._waiting, []
        return taken

    def _sum_up(self, window: _Window, each: Stretch) -> None:
        if not each.is_answered:
            window.hangs += each.frames
            return
        light = IN_THE_DARK if each.is_dark else 1.0
        window.answers += each.frames
        window.objects += each.frames * self._objects * (SEEN_IN_THE_DARK if each.is_dark else 1.0)
        window.sure += each.frames * (EVEN + (self._sureness - EVEN) * light * each.sureness)
        window.busy_ms += each.frames * each.milliseconds
        window.longest_ms = max(window.longest_ms, each.milliseconds)

    def _end(self, core: Core) -> None:
        window = self._windows.pop(core)
        answers, hangs = int(window.answers), int(window.hangs)
        if not answers + hangs:
            return
        self._sequence += 1
        self._waiting = [*self._waiting, self._report(core, window, answers, hangs)][-MAX_WAITING:]

    def _report(self, core: Core, window: _Window, answers: int, hangs: int) -> HealthReport:
        objects = sure = mean_ms = 0.0
        if answers:
            mean_ms = window.busy_ms / window.answers
            sure = _share(window.sure / window.answers + self._rng.gauss(0.0, SURENESS_VARIES))
            objects = _share(window.objects / window.answers + self._rng.gauss(0.0, OBJECTS_VARY))
        found = round(answers * objects)
        return HealthReport(
            core=core,
            model_sha256=window.model_sha256,
            sequence=self._sequence,
            since=window.since,
            until=self._now(),
            frames=answers + hangs,
            errors={InferenceFault.HANG: hangs} if hangs else {},
            resets=hangs,
            confidence_mean=sure,
            confidence_square_mean=min(sure**2 + SPREAD**2, 1.0) if answers else 0.0,
            classes={OBJECT: found, NOTHING: answers - found} if answers else {},
            latency_mean_ms=mean_ms,
            latency_max_ms=window.longest_ms,
        )


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0)
