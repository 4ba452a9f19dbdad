"""What device-sim tells: JSON lines of a file that grows over all runs of the demo."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from service.cli.client import JsonObject


class EventFile:
    """Reads the events; only whole lines, each once.

    Args:
        path: may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._events: list[JsonObject] = []
        self._begun = 0

    def all(self) -> list[JsonObject]:
        """Return every event so far, over all runs."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            self._events += map(json.loads, whole.splitlines())
        return self._events

    def begin(self) -> None:
        """Begin a run: `of_this_run` gives what comes from now on."""
        self._begun = len(self.all())

    def of_this_run(self) -> list[JsonObject]:
        """Return the events since this run began."""
        return self.all()[self._begun :]


def devices_with(events: Iterable[JsonObject], *kinds: str) -> set[str]:
    """Return the devices that told of an event of these kinds."""
    return {event["device"] for event in events if event["event"] in kinds}


def link_counts(events: Iterable[JsonObject]) -> tuple[int, int]:
    """Return the messages sent and acknowledged over all runs of the devices.

    A device counts from its start, so a count that falls begins a new run of it.
    """
    total, latest = Counter[str](), dict[str, JsonObject]()
    for event in events:
        if event["event"] != "counts":
            continue
        before = latest.get(event["device"])
        if before is not None and event["sent"] < before["sent"]:
            total.update(_counts(before))
        latest[event["device"]] = event
    for event in latest.values():
        total.update(_counts(event))
    return total["sent"], total["acknowledged"]


def _counts(event: JsonObject) -> dict[str, int]:
    return {"sent": event["sent"], "acknowledged": event["acknowledged"]}
