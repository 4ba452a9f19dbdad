"""What the devices tell whoever started them: one JSON object per line, flushed at once.

Every line has `event` and `time`; those of one device have `device`. No key material, no certificate is in any.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TextIO


class EventLog:
    """Writes events to a text stream; any thread may emit.

    Args:
        stream: where the lines go.
        now: the host's time, UTC and aware.
        listeners: hear every event, too; from any thread.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        now: Callable[[], datetime],
        listeners: Sequence[Callable[[Mapping[str, object]], None]] = (),
    ) -> None:
        self._listeners = tuple(listeners)
        self._stream = stream
        self._now = now
        self._lock = threading.Lock()

    def emit(self, event: str, **fields: object) -> None:
        """Write one event; fields are JSON values."""
        self._write({"event": event, "time": self._now().isoformat(), **fields})

    def pass_on(self, line: str) -> None:
        """Write an event that another process has told, one JSON object.

        It gets the host's time; its own, of a virtual clock, is kept as `virtual_time`.
        """
        event = json.loads(line)
        self._write(event | {"virtual_time": event["time"], "time": self._now().isoformat()})

    def _write(self, event: Mapping[str, object]) -> None:
        line = json.dumps(event, default=str)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
        for hear in self._listeners:
            hear(event)
