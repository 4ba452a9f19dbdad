"""`device-sim report`: the record of a run, drawn as a page."""

from pathlib import Path

from device_sim.errors import DeviceSimError
from device_sim.reporting.page import render_page
from device_sim.reporting.record import MAX_RECORD_BYTES, RunReport
from protocol.document import DocumentError, canonical_json, parse_document


class RecordError(DeviceSimError):
    """The file is no record of a run."""


def read_record(path: Path) -> RunReport:
    """Read what `--json` wrote.

    Raises:
        RecordError: missing, too large or not a record; says what was expected.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path}: expected the record of a run, found {error.strerror}") from error
    try:
        return parse_document(content, RunReport, max_bytes=MAX_RECORD_BYTES)
    except DocumentError as error:
        raise RecordError(f"{path}: {error}") from error


def write_record(report: RunReport, path: Path) -> None:
    """Write a record whole or not at all."""
    _replace(path, canonical_json(report) + b"\n")


def write_page(record: Path, out: Path) -> None:
    """Draw a record.

    Raises:
        RecordError: the file is no record of a run.
    """
    _replace(out, render_page(read_record(record)).encode())


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)
