"""What the devices tell whoever started them: one JSON object per line, flushed at once.

Every line has `event` and `time`; those of one device have `device`. No key material, no certificate is in any.
"""

import json
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TextIO


class EventLog:
    """Writes events to a text stream; any thread may emit.

    Args:
        stream: where the lines go.
        now: the host's time, UTC and aware.
    """

    def __init__(self, stream: TextIO, *, now: Callable[[], datetime]) -> None:
        self._stream = stream
        self._now = now
        self._lock = threading.Lock()

    def emit(self, event: str, **fields: object) -> None:
        """Write one event; fields are JSON values."""
        line = json.dumps({"event": event, "time": self._now().isoformat(), **fields}, default=str)
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()
