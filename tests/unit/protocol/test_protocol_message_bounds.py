"""What a device may say in numbers, times and text: only what every database behind the service holds."""

import json
from datetime import UTC
from typing import Any

import pytest

from protocol.document import Document, DocumentError, parse_document
from protocol.messages import MAX_DETAIL_CHARACTERS, ActionReport, VersionManifest

REPORT: dict[str, Any] = {"action_id": "8a7d1bbd-3c3f-4b0a-9d0e-6d3c5f6a7b8c", "sequence": 1, "state": "confirmed"}
MANIFEST: dict[str, Any] = {
    "device_id": "a" * 128,
    "counter": 1,
    "reported_at": "2026-11-22T12:00:00Z",
    "images": {},
}


@pytest.mark.parametrize(
    ("document_type", "document", "field", "value"),
    [
        (ActionReport, REPORT, "sequence", -1),
        (ActionReport, REPORT, "sequence", 1 << 63),
        (ActionReport, REPORT, "detail", "zero \x00 character"),
        (ActionReport, REPORT, "detail", "x" * (MAX_DETAIL_CHARACTERS + 1)),
        (VersionManifest, MANIFEST, "counter", 0),
        (VersionManifest, MANIFEST, "counter", 1 << 63),
        (VersionManifest, MANIFEST, "attack_indicator", "\x00"),
        (VersionManifest, MANIFEST, "reported_at", "9999-12-31T23:59:59-00:01"),
        (VersionManifest, MANIFEST, "reported_at", "0001-01-01T00:00:00+23:59"),
        (VersionManifest, MANIFEST, "reported_at", "1969-12-31T23:59:59Z"),
        (VersionManifest, MANIFEST, "reported_at", "2026-11-22T12:00:00"),
    ],
)
def test_value_that_no_database_holds_is_refused(
    document_type: type[Document], document: dict[str, Any], field: str, value: object
) -> None:
    """At the wire, by name, and not by whatever a driver raises."""
    parse_document(json.dumps(document).encode(), document_type)
    with pytest.raises(DocumentError, match=f"{document_type.__name__}: {field}: "):
        parse_document(json.dumps(document | {field: value}).encode(), document_type)


def test_greatest_values_are_taken() -> None:
    """The last counter and the last time."""
    greatest = {"counter": (1 << 63) - 1, "reported_at": "9999-12-31T23:59:59+00:00"}
    manifest = parse_document(json.dumps(MANIFEST | greatest).encode(), VersionManifest)
    assert manifest.reported_at.astimezone(UTC).year == 9999
    said = {"sequence": (1 << 63) - 1, "detail": "a\nb"}
    assert parse_document(json.dumps(REPORT | said).encode(), ActionReport).detail == "a\nb"
