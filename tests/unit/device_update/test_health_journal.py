"""What a device sums up of its models: windows end by time or model, and outlive restarts until they are delivered."""

from datetime import UTC, datetime, timedelta

import pytest

from device_sim.cores.m4 import InferenceOutcome
from device_sim.errors import StorageFullError
from device_sim.runtime.health import KEPT_UNDER, MAX_WAITING, HealthJournal
from protocol.geometry import Core
from protocol.health import MAX_CLASSES, OTHER_CLASS, InferenceFault
from protocol.messages import Cause

START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class Storage(dict[str, bytes]):
    """Bytes by name."""

    is_full = False

    def put(self, name: str, value: bytes) -> None:
        if self.is_full:
            raise StorageFullError("expected room, found none")
        self[name] = value


@pytest.fixture
def storage() -> Storage:
    return Storage()


def journal(storage: Storage, events: list[str] | None = None) -> HealthJournal:
    told = [] if events is None else events
    return HealthJournal(storage, length=HOUR, emit=lambda event, **_: told.append(event))


def outcome(
    label: str = "person", score: float = 0.8, *, ms: float = 30.0, model: str = "a", cause: Cause | None = None
) -> InferenceOutcome:
    error = "" if cause is None else "expected an answer, found a fault"
    found = "" if cause else label
    return InferenceOutcome("m@1", model * 64, found, score, ms, 1.0, 81920, cause, error)


def test_window_sums_up_an_hour_of_one_core() -> None:
    """Means, squares, classes, faults by cause, resets, latency and the high-water mark."""
    health = journal(Storage())
    health.hear(Core.M4_0, outcome(score=0.6, ms=20.0), START)
    health.hear(Core.M4_0, outcome("none", 1.0, ms=40.0), START + MINUTE)
    health.hear(Core.M4_0, outcome(cause=Cause.HANG), START + 2 * MINUTE)
    health.hear(Core.M4_1, outcome(), START + 3 * MINUTE)
    health.end_windows(START + HOUR)
    (report,) = health.take_untold()
    assert (report.core, report.since, report.until) == (Core.M4_0, START, START + 2 * MINUTE)
    assert (report.frames, report.answers, report.resets) == (3, 2, 1)
    assert (report.classes, report.errors) == ({"person": 1, "none": 1}, {InferenceFault.HANG: 1})
    assert report.confidence_mean == pytest.approx(0.8)
    assert report.confidence_square_mean == pytest.approx(0.68)
    assert (report.latency_mean_ms, report.latency_max_ms, report.arena_bytes) == (30.0, 40.0, 81920)


def test_another_model_begins_another_window() -> None:
    """Answers of two models are never mixed."""
    health = journal(Storage())
    health.hear(Core.M4_0, outcome(), START)
    health.hear(Core.M4_0, outcome(model="b"), START + MINUTE)
    (report,) = health.take_untold()
    assert (report.model_sha256, report.frames) == ("a" * 64, 1)


def test_clock_that_is_set_back_ends_the_window() -> None:
    """It would last until the clock has caught up."""
    health = journal(Storage())
    health.hear(Core.M4_0, outcome(), START)
    health.hear(Core.M4_0, outcome(), START - 24 * HOUR)
    assert len(health.take_untold()) == 1


def test_window_and_reports_outlive_a_restart() -> None:
    """What was kept goes on where it was; sequences go on, too."""
    storage = Storage()
    health = journal(storage)
    health.hear(Core.M4_0, outcome(), START)
    health.hear(Core.M4_0, outcome(score=0.4), START + HOUR)
    health.keep()
    again = journal(storage)
    again.hear(Core.M4_0, outcome(score=0.6), START + HOUR + MINUTE)
    again.end_windows(START + 3 * HOUR)
    first, second = again.take_untold()
    assert (first.sequence, second.sequence) == (1, 2)
    assert second.frames == 2
    assert second.confidence_mean == pytest.approx(0.5)


def test_reports_are_told_once_and_kept_until_delivered() -> None:
    """After a restart that came before the delivery they are told again, after it they are not."""
    storage = Storage()
    health = journal(storage)
    health.hear(Core.M4_0, outcome(), START)
    health.end_windows(START + HOUR)
    assert len(health.take_untold()) == 1
    assert not health.take_untold()
    health.keep()
    assert len(journal(storage).take_untold()) == 1
    health.retell()
    assert len(health.take_untold()) == 1
    health.delivered()
    health.keep()
    assert not journal(storage).take_untold()


def test_reports_that_find_no_way_are_bounded() -> None:
    """The oldest make room."""
    health = journal(Storage())
    for hour in range(MAX_WAITING + 3):
        health.hear(Core.M4_0, outcome(), START + hour * HOUR)
    health.end_windows(START + (MAX_WAITING + 4) * HOUR)
    assert next(report.sequence for report in health.take_untold()) == 4


def test_classes_beyond_the_most_share_one_name() -> None:
    """A model with very many labels makes no large report."""
    health = journal(Storage())
    for number in range(100):
        health.hear(Core.M4_0, outcome(f"label {number}"), START)
    health.end_windows(START + HOUR)
    (report,) = health.take_untold()
    assert len(report.classes) == MAX_CLASSES
    assert report.classes[OTHER_CLASS] == 100 - (MAX_CLASSES - 1)


def test_full_storage_is_said_and_loses_nothing_at_once() -> None:
    """Reports last until the next restart."""
    storage, events = Storage(), list[str]()
    storage.is_full = True
    health = journal(storage, events)
    health.hear(Core.M4_0, outcome(), START)
    health.keep()
    assert events == ["health-unkept"]
    assert KEPT_UNDER not in storage
    health.end_windows(START + HOUR)
    assert len(health.take_untold()) == 1
