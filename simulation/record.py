"""Events of a run on their way out: to whoever listens, and as lines to a file. In virtual time, in one order."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TextIO

from device_sim.runtime.events import EventLog
from simulation.clock import VirtualClock

Listener = Callable[[Mapping[str, object]], None]


class Record:
    """Takes every event of a run.

    Args:
        clock: the virtual time.
        listener: hears each event as a mapping, or None.
        stream: gets each event as a line of JSON, or None.

    Attributes:
        events: how many there were.
    """

    def __init__(self, clock: VirtualClock, *, listener: Listener | None = None, stream: TextIO | None = None) -> None:
        self._clock = clock
        self._listener = listener
        self._log = None if stream is None else EventLog(stream, now=clock.now)
        self._fleets: dict[object, str] = {}
        self._moment: tuple[datetime, str] = (clock.start, clock.start.isoformat())
        self.events = 0

    def enter(self, device_id: str, fleet: str) -> None:
        """Say which fleet a device is of."""
        self._fleets[device_id] = fleet

    def emit(self, event: str, **fields: object) -> None:
        """Take one event; its fields are JSON values."""
        self.events += 1
        fleet = self._fleets.get(fields.get("device"))
        if fleet is not None:
            fields["fleet"] = fleet
        if self._log is not None:
            self._log.emit(event, **fields)
        if self._listener is not None:
            self._listener({"event": event, "time": self._time(), **fields})

    def _time(self) -> str:
        now = self._clock.now()
        if self._moment[0] is not now:
            self._moment = (now, now.isoformat())
        return self._moment[1]


class DigestStream:
    """A text stream that keeps nothing but a digest, to compare two runs by."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def write(self, text: str) -> int:
        """Take a line."""
        self._digest.update(text.encode())
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

    @property
    def hexdigest(self) -> str:
        """SHA-256 of everything that was written, 64 hex digits."""
        return self._digest.hexdigest()
