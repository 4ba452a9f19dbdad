"""Health reports: sums that agree with one another, bounded, and nothing else."""

import json
from typing import Any

import pytest

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.health import MAX_CLASSES, MAX_HEALTH_BYTES, HealthReport, shares_of

REPORT: dict[str, Any] = {
    "core": "m4-0",
    "model_sha256": "a" * 64,
    "sequence": 3,
    "since": "2026-11-22T12:00:00Z",
    "until": "2026-11-22T13:00:00Z",
    "frames": 10,
    "errors": {"crash": 1},
    "resets": 1,
    "confidence_mean": 0.8,
    "confidence_square_mean": 0.66,
    "classes": {"person": 6, "none": 3},
    "latency_mean_ms": 30.5,
    "latency_max_ms": 41.0,
    "arena_bytes": 81920,
}


def report(**changes: object) -> HealthReport:
    return HealthReport.model_validate(REPORT | changes)


def test_report_is_read_as_it_was_written() -> None:
    """Canonical JSON and back; answers are what the classes hold."""
    found = parse_document(canonical_json(report()), HealthReport, max_bytes=MAX_HEALTH_BYTES)
    assert found == report()
    assert found.answers == 9


def test_largest_report_fits() -> None:
    """As many classes as it may name, of the longest labels."""
    classes = {f"{number:02}" + "é" * 62: 10**9 for number in range(MAX_CLASSES)}
    found = report(classes=classes, errors={}, frames=MAX_CLASSES * 10**9)
    assert len(canonical_json(found)) < MAX_HEALTH_BYTES


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("core", "a7", "expected a core that runs models"),
        ("frames", 11, "expected as many as answers and errors, 10"),
        ("frames", 0, "greater than or equal to 1"),
        ("frames", 1 << 63, "less than"),
        ("until", "2026-11-22T11:59:59Z", "until: expected no time before"),
        ("since", "2026-11-22T12:00:00", "timezone"),
        ("confidence_mean", 1.01, "less than or equal to 1"),
        ("confidence_mean", float("nan"), "less than or equal to 1"),
        ("latency_max_ms", -0.1, "greater than or equal to 0"),
        ("latency_mean_ms", float("inf"), "less than or equal to"),
        ("errors", {"tired": 1}, "'hang', 'crash' or 'input'"),
        ("classes", {str(number): 1 for number in range(MAX_CLASSES + 1)}, "at most 64"),
        ("classes", {"": 9}, "at least 1"),
        ("classes", {"\x1b[2J": 9}, "printable"),
        ("photo", "AAAA", "Extra inputs"),
    ],
)
def test_report_that_cannot_be_is_refused(field: str, value: object, reason: str) -> None:
    """By name, at the wire."""
    with pytest.raises(DocumentError, match=reason):
        parse_document(json.dumps(REPORT | {field: value}).encode(), HealthReport)


def test_shares_are_of_the_answers() -> None:
    """And there are none without an answer."""
    assert shares_of(report().classes) == {"person": 6 / 9, "none": 3 / 9}
    assert shares_of({}) == {}
