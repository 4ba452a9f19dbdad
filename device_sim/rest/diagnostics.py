"""What the device remembers of what happened: its log, and of it the errors that have not been fetched and cleared.

Both are folds over the device's events; they end with the process, while a restart of the device leaves them.

An error report, as the client measures it:

    0  3  "TF1"
    3  2  length of the data, big-endian; 0: nothing to report
    5  …  the events, JSON lines, the newest that fit
"""

import json
import struct
from collections import deque
from collections.abc import Iterable, Mapping

MAX_EVENTS = 1000
MAX_ERRORS = 100
MAX_REPORT_BYTES = 0xFFFF
ERRORS = frozenset({"boot-stopped", "core-stopped", "trial-cut", "voucher-refused", "sideload-refused", "crashed"})
_HEADER = struct.Struct(">3sH")


class DiagnosticLog:
    """Hears every event of the device."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque(maxlen=MAX_EVENTS)
        self._errors: deque[bytes] = deque(maxlen=MAX_ERRORS)

    def hear(self, event: Mapping[str, object]) -> None:
        """Take an event."""
        line = json.dumps(event, default=str).encode() + b"\n"
        self._events.append(line)
        if event["event"] in ERRORS:
            self._errors.append(line)

    def lines(self) -> bytes:
        """Return the latest events, JSON lines."""
        return b"".join(self._events)

    def error_report(self) -> bytes:
        """Return what went wrong since the last `clear_errors`; see the module."""
        data = _newest(self._errors)
        return _HEADER.pack(b"TF1", len(data)) + data

    def clear_errors(self) -> None:
        """Forget what went wrong."""
        self._errors.clear()


def _newest(lines: Iterable[bytes]) -> bytes:
    report = b""
    for line in reversed([*lines]):
        if len(line) + len(report) > MAX_REPORT_BYTES:
            break
        report = line + report
    return report
