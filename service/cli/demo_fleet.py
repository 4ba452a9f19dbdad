"""The demo's fleet as the service knows it: inference results that came home, and the live table of devices."""

import time
from collections.abc import Iterable, Mapping, Sequence

from service.cli.client import ApiClient, JsonObject
from service.cli.demo_events import EventFile
from service.cli.live import MAX_DEVICE_ROWS

LOOK_SECONDS = 1.0
_SLOTS = ("a7/application", "m4-0/model", "m4-1/model")
_CORES = ("m4-0", "m4-1")


class InferenceResults:
    """Results that the service has stored; each is read once."""

    def __init__(self) -> None:
        self._after = 0
        self._records: list[JsonObject] = []
        self.seen: dict[tuple[str, str], str] = {}
        """What each core of each device saw last."""

    def read(self, client: ApiClient) -> Sequence[JsonObject]:
        """Return every result so far, oldest first."""
        for message in client.messages("/telemetry", self._after, stream="inference"):
            self._after = message["id"]
            record = message["payload"]
            self._records.append(record)
            answer = record["error"] or f"{record['label']} {record['score']:.2f}"
            self.seen[message["device_id"], record["core"]] = answer
        return self._records


class FleetTable:
    """Rows of the table, asked for at most once a second."""

    def __init__(self, results: InferenceResults, events: EventFile) -> None:
        self._results = results
        self._events = events
        self._due = 0.0

    def rows(self, client: ApiClient) -> list[Sequence[object]] | None:
        """Return the rows, or None if it is too early to ask again."""
        if time.monotonic() < self._due:
            return None
        self._results.read(client)
        devices = client.get("/devices", limit=MAX_DEVICE_ROWS)["items"]
        stands = latest_states(self._events.of_this_run())
        self._due = time.monotonic() + LOOK_SECONDS
        return [self._row(device, stands.get(device["id"], "")) for device in devices]

    def _row(self, device: JsonObject, stand: str) -> tuple[object, ...]:
        versions = [_version(device["installed"], slot) for slot in _SLOTS]
        seen = [self._results.seen.get((device["id"], core)) for core in _CORES]
        return (device["id"], stand or device["state"], *versions, *seen)


def latest_states(events: Iterable[JsonObject]) -> dict[str, str]:
    """Return how each device stands by what it told last: in its boot, at the attestation, or in its update."""
    states: dict[str, str] = {}
    for event in events:
        kind = event["event"]
        if kind in {"booted", "boot-stopped", "refused", "attested"}:
            states[event["device"]] = kind
        elif kind in {"update", "reverted"}:
            states[event["device"]] = event["state"]
    return states


def _version(installed: Mapping[str, JsonObject], slot: str) -> str | None:
    image = installed.get(slot)
    return None if image is None else str(image["name"] or image["sha256"][:8])
