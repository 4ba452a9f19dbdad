"""How a model does on one core of one device: its last window, the core's own past, and what is striking about it.

The past is a mean over windows in which the last two days or so weigh most, kept for the model that runs and for the
one before it. A window is compared with the past of its own model once that is long enough, until then with the past
of the model before: a new model that answers otherwise shows at once, and is judged by itself later. A window counts
only with enough answers in it.

A core is at risk of an event once in a slot, by default a fixed hour of the service's clock in which its windows came,
however many it tells. No moment counts twice: a window begins after the end of all that have counted before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from protocol.health import HealthReport, shares_of
from protocol.plan import HealthEvent, Metric

ENOUGH_ANSWERS = 30  # of a window, for its means and shares to say something; frames, for the share without an answer
ENOUGH_WINDOWS = 6  # of a past
MOST_WINDOWS = 48  # that a past remembers: a later one weighs 1/48
CLOCK_SKEW = timedelta(minutes=10)  # by which a device's clock may be ahead
MAX_CLASSES = 128  # of a past: those of two models
SHORTEST_WINDOW = 60  # parts of a slot
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Past:
    """What windows of a core were like in the mean, each counted once however many answers it had.

    Attributes:
        windows: so many, at most `MOST_WINDOWS`.
        confidence: mean of the best labels' scores.
        latency_ms: mean of an inference.
        arena_bytes: mean high-water mark.
        classes: mean share of each label.
    """

    windows: int = 0
    confidence: float = 0.0
    latency_ms: float = 0.0
    arena_bytes: float = 0.0
    classes: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_enough(self) -> bool:
        """Whether a window may be compared with it."""
        return self.windows >= ENOUGH_WINDOWS

    def after(self, report: HealthReport) -> "Past":
        """Return the past once a window has become part of it; one with too few answers does not."""
        if report.answers < ENOUGH_ANSWERS:
            return self
        windows = min(self.windows + 1, MOST_WINDOWS)
        shares = shares_of(report.classes)
        classes = {
            label: _nearer(self.classes.get(label, 0.0), shares.get(label, 0.0), windows)
            for label in [*shares, *(known for known in self.classes if known not in shares)][:MAX_CLASSES]
        }
        return Past(
            windows,
            _nearer(self.confidence, report.confidence_mean, windows),
            _nearer(self.latency_ms, report.latency_mean_ms, windows),
            _nearer(self.arena_bytes, report.arena_bytes, windows),
            classes,
        )

    def of(self, metric: Metric) -> float:
        """Return one of its figures."""
        match metric:
            case Metric.LATENCY:
                return self.latency_ms
            case Metric.CONFIDENCE:
                return self.confidence
            case Metric.ARENA:
                return self.arena_bytes


@dataclass(frozen=True, slots=True)
class CountedWindows:
    """What of a core's windows has counted.

    Attributes:
        until: the latest end of one, UTC, aware.
        slot: number of the slot in which the last one came.
        since: beginning of the first one that came in it, UTC, aware.
        judged: events that windows of this slot could have told of.
    """

    until: datetime
    slot: int
    since: datetime
    judged: frozenset[HealthEvent]


@dataclass(frozen=True, slots=True)
class CoreHealth:
    """What is kept of one core of a device.

    Attributes:
        last: the newest window.
        received_at: of it, UTC, aware.
        past: of the model that runs, the last window included.
        before: of the model before it, as it was when that one ended; None if there was none, or it was short.
        counted: what of its windows has counted; None if nothing has.
    """

    device_id: str
    last: HealthReport
    received_at: datetime
    past: Past
    before: Past | None = None
    counted: CountedWindows | None = None

    @classmethod
    def begun(cls, device_id: str, report: HealthReport, at: datetime) -> "CoreHealth":
        """Return what is known after a first window."""
        return cls(device_id, report, at, Past().after(report))

    def is_new(self, report: HealthReport) -> bool:
        """Whether a report was not taken before; one of a device that counts anew begins after the last one."""
        return report.sequence > self.last.sequence or report.since > self.last.until

    def after(self, report: HealthReport, at: datetime) -> "CoreHealth":
        """Return what is known after one more window."""
        if report.model_sha256 == self.last.model_sha256:
            return replace(self, last=report, received_at=at, past=self.past.after(report))
        before = self.past if self.past.is_enough else self.before
        return replace(self, last=report, received_at=at, past=Past().after(report), before=before)

    @property
    def reference(self) -> Past | None:
        """The past that the next window is compared with, or None."""
        return next((past for past in (self.past, self.before) if past is not None and past.is_enough), None)


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on a window is an event.

    Attributes:
        slow_ms: the mean inference takes longer; None: never slow.
        class_shift: the shares of the classes are further from the past's (total variation distance, 0 to 1).
        confidence_shift: the mean confidence is further from the past's, either way.
        fault_share: a larger share of the frames had no answer.
    """

    slow_ms: float | None = None
    class_shift: float = 0.3
    confidence_shift: float = 0.15
    fault_share: float = 0.05


def events_of(report: HealthReport, reference: Past | None, limits: Limits) -> dict[HealthEvent, str]:
    """Return what is striking about a window, with what was expected and found."""
    found: dict[HealthEvent, str] = {}
    if report.resets:
        found[HealthEvent.CRASH] = f"expected no reset of {report.core}, found {report.resets}"
    if report.frames >= ENOUGH_ANSWERS and (faults := _faults(report, limits)):
        found[HealthEvent.FAULTS] = f"{report.core}: {faults}"
    if report.answers < ENOUGH_ANSWERS:
        return found
    if limits.slow_ms is not None and report.latency_mean_ms > limits.slow_ms:
        found[HealthEvent.SLOW] = (
            f"{report.core}: expected at most {limits.slow_ms:g} ms an inference, found {report.latency_mean_ms:.4g} ms"
        )
    if reference is not None and (drift := _drift(report, reference, limits)):
        found[HealthEvent.DRIFT] = f"{report.core}: {drift}"
    return found


@dataclass(frozen=True, slots=True)
class Slots:
    """Fixed periods of the service's clock, in each of which a core is at risk once.

    Attributes:
        length: of each, as long as devices sum up their windows over.
    """

    length: timedelta = timedelta(hours=1)

    def number(self, at: datetime) -> int:
        """Return the number of the slot that a time falls in.

        Args:
            at: of the service's clock, UTC, aware.
        """
        return (at - _EPOCH) // self.length

    def beginning(self, number: int) -> datetime:
        """Return when a slot begins, UTC, aware."""
        return _EPOCH + number * self.length

    def is_comparable(self, report: HealthReport, counted: CountedWindows | None, now: datetime) -> bool:
        """Whether a window may be compared with others: of no time that counted before or is to come, of usual length.

        A window that is longer than a slot had more time for an event than others.

        Args:
            report: the window.
            counted: what of its core has counted before.
            now: UTC, aware.
        """
        is_free = counted is None or report.since >= counted.until
        is_usual = self.length / SHORTEST_WINDOW <= report.until - report.since <= self.length + CLOCK_SKEW
        return is_free and is_usual and report.until <= now + CLOCK_SKEW


def counted_with(
    counted: CountedWindows | None, report: HealthReport, judged: frozenset[HealthEvent], slot: int
) -> CountedWindows:
    """Return what has counted of a core once a window that is comparable has.

    Args:
        counted: before it.
        report: the window.
        judged: events that it could tell of.
        slot: number of the one in which it came.
    """
    if counted is None or counted.slot != slot:
        return CountedWindows(report.until, slot, report.since, judged)
    return replace(counted, until=report.until, judged=counted.judged | judged)


def judged_by(report: HealthReport, reference: Past | None) -> frozenset[HealthEvent]:
    """Return the events that a window can tell of: it has the answers and the past for them."""
    found = {HealthEvent.CRASH}
    if report.frames >= ENOUGH_ANSWERS:
        found |= {HealthEvent.FAULTS}
    if report.answers >= ENOUGH_ANSWERS:
        found |= {HealthEvent.SLOW} if reference is None else {HealthEvent.SLOW, HealthEvent.DRIFT}
    return frozenset(found)


def metric_of(report: HealthReport, metric: Metric) -> float | None:
    """Return a figure of a window, or None: it has too few answers."""
    if report.answers < ENOUGH_ANSWERS:
        return None
    match metric:
        case Metric.LATENCY:
            return report.latency_mean_ms
        case Metric.CONFIDENCE:
            return report.confidence_mean
        case Metric.ARENA:
            return float(report.arena_bytes)


def class_distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Return the total variation distance of two distributions: 0 for equal ones, 1 where no class is shared."""
    return sum(abs(one.get(label, 0.0) - other.get(label, 0.0)) for label in {*one, *other}) / 2


def _faults(report: HealthReport, limits: Limits) -> str:
    unanswered = report.frames - report.answers
    if unanswered <= limits.fault_share * report.frames:
        return ""
    kinds = ", ".join(f"{count} {fault}" for fault, count in sorted(report.errors.items()))
    return (
        f"expected at most {limits.fault_share:.3g} of {report.frames} frames without an answer, found {unanswered} "
        f"({kinds})"
    )


def _drift(report: HealthReport, reference: Past, limits: Limits) -> str:
    distance = class_distance(shares_of(report.classes), reference.classes)
    if distance > limits.class_shift:
        return f"expected classes within {limits.class_shift:g} of its own past, found a distance of {distance:.2f}"
    if abs(report.confidence_mean - reference.confidence) > limits.confidence_shift:
        return (
            f"expected a confidence within {limits.confidence_shift:g} of its own past's {reference.confidence:.2f}, "
            f"found {report.confidence_mean:.2f}"
        )
    return ""


def _nearer(mean: float, found: float, windows: int) -> float:
    return mean + (found - mean) / windows
