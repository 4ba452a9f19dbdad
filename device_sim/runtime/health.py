"""What a device sums up of its models' answers, and keeps until the service has it.

A window of a core begins with its first inference and ends by time, or with another model. Sums and reports that wait
are written to secure storage now and then: a restart loses what was inferred since, and no report.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from device_sim.cores.m4 import InferenceOutcome
from device_sim.errors import StorageFullError
from device_sim.learning.states import ItemStorage
from protocol.document import Document, canonical_json, parse_document
from protocol.geometry import Core
from protocol.health import MAX_CLASSES, OTHER_CLASS, HealthReport, InferenceFault
from protocol.messages import Cause, Count

KEPT_UNDER = "health"  # in secure storage
MAX_WAITING = 48  # reports; the oldest are dropped


class _Kept(Document):
    sequence: Count = 0
    windows: tuple[HealthReport, ...] = ()
    waiting: Annotated[tuple[HealthReport, ...], Field(max_length=MAX_WAITING)] = ()


@dataclass(slots=True)
class Window:
    """Sums over one window of one model on one core.

    Attributes:
        since, until: first and last inference, by the device's clock.
    """

    core: Core
    model_sha256: str
    since: datetime
    until: datetime
    frames: int = 0
    resets: int = 0
    confidence: float = 0.0
    confidence_squares: float = 0.0
    latency_ms: float = 0.0
    latency_max_ms: float = 0.0
    arena_bytes: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    errors: Counter[InferenceFault] = field(default_factory=Counter)

    def add(self, outcome: InferenceOutcome, at: datetime) -> None:
        """Count one inference."""
        self.until = max(self.until, at)
        self.frames += 1
        self.resets += outcome.cause is not None
        self.arena_bytes = max(self.arena_bytes, outcome.arena_bytes)
        fault = _fault_of(outcome)
        if fault is not None:
            self.errors[fault] += 1
            return
        is_room = outcome.label in self.classes or len(self.classes) < MAX_CLASSES - 1
        self.classes[outcome.label if is_room else OTHER_CLASS] += 1
        score = min(max(outcome.score, 0.0), 1.0)
        self.confidence += score
        self.confidence_squares += score**2
        self.latency_ms += outcome.m4_ms
        self.latency_max_ms = max(self.latency_max_ms, outcome.m4_ms)

    def report(self, sequence: int) -> HealthReport:
        """Return what the service is told of it."""
        answers = self.classes.total() or 1
        return HealthReport(
            core=self.core,
            model_sha256=self.model_sha256,
            sequence=sequence,
            since=self.since,
            until=self.until,
            frames=self.frames,
            errors=dict(self.errors),
            resets=self.resets,
            confidence_mean=min(self.confidence / answers, 1.0),
            confidence_square_mean=min(self.confidence_squares / answers, 1.0),
            classes=dict(self.classes),
            latency_mean_ms=self.latency_ms / answers,
            latency_max_ms=self.latency_max_ms,
            arena_bytes=self.arena_bytes,
        )

    @classmethod
    def of(cls, report: HealthReport) -> "Window":
        """Return the window that a report was made of, to go on with it."""
        answers = report.answers
        return cls(
            core=report.core,
            model_sha256=report.model_sha256,
            since=report.since,
            until=report.until,
            frames=report.frames,
            resets=report.resets,
            confidence=report.confidence_mean * answers,
            confidence_squares=report.confidence_square_mean * answers,
            latency_ms=report.latency_mean_ms * answers,
            latency_max_ms=report.latency_max_ms,
            arena_bytes=report.arena_bytes,
            classes=Counter(report.classes),
            errors=Counter(report.errors),
        )


class HealthJournal:
    """Windows that are open, and reports that wait, of one device.

    Args:
        storage: of the device.
        length: of a window.
        emit: takes events.
    """

    def __init__(self, storage: ItemStorage, *, length: timedelta, emit: Callable[..., None]) -> None:
        self._storage = storage
        self._length = length
        self._emit = emit
        content = storage.get(KEPT_UNDER)
        kept = _Kept() if content is None else parse_document(content, _Kept)
        self._sequence = kept.sequence
        self._windows = {each.core: Window.of(each) for each in kept.windows}
        self._waiting = list(kept.waiting)
        self._told = 0  # how many of those that wait were published since the start
        self._kept = kept

    def hear(self, core: Core, outcome: InferenceOutcome, at: datetime) -> None:
        """Count one inference in its window.

        Args:
            core: that inferred.
            outcome: what it came to.
            at: the device's time.
        """
        window = self._windows.get(core)
        if window is not None and (window.model_sha256 != outcome.model_sha256 or self._is_over(window, at)):
            self._end(window)
            window = None
        if window is None:
            window = self._windows[core] = Window(core, outcome.model_sha256, since=at, until=at)
        window.add(outcome, at)

    def end_windows(self, now: datetime) -> None:
        """End the windows whose time is over, also where nothing was inferred since."""
        for window in list(self._windows.values()):
            if self._is_over(window, now):
                self._end(window)

    def take_untold(self) -> Sequence[HealthReport]:
        """Return the reports that were not published since the start, and count them as published."""
        untold, self._told = self._waiting[self._told :], len(self._waiting)
        return untold

    def retell(self) -> None:
        """Have everything that waits published again: some of it was lost on the way."""
        self._told = 0

    def delivered(self) -> None:
        """Forget what was published: the service has it."""
        del self._waiting[: self._told]
        self._told = 0

    def keep(self) -> None:
        """Write windows and reports to secure storage; where it is full they last until the next restart."""
        windows = tuple(window.report(self._sequence) for window in self._windows.values())
        kept = _Kept(sequence=self._sequence, windows=windows, waiting=tuple(self._waiting))
        if kept == self._kept:
            return
        try:
            self._storage.put(KEPT_UNDER, canonical_json(kept))
        except StorageFullError as error:
            self._emit("health-unkept", reason=str(error))
        else:
            self._kept = kept

    def _is_over(self, window: Window, now: datetime) -> bool:
        # A clock that was set back would leave the window open for long.
        return not window.since <= now < window.since + self._length

    def _end(self, window: Window) -> None:
        del self._windows[window.core]
        self._sequence += 1
        self._waiting.append(window.report(self._sequence))
        if len(self._waiting) > MAX_WAITING:
            del self._waiting[0]
            self._told = max(0, self._told - 1)


def _fault_of(outcome: InferenceOutcome) -> InferenceFault | None:
    if outcome.cause is not None:
        return InferenceFault.HANG if outcome.cause is Cause.HANG else InferenceFault.CRASH
    return InferenceFault.INPUT if outcome.error or not outcome.label else None
