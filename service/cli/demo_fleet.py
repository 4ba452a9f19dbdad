"""The live table of devices: what the service's API says of each, and what its cores see."""

import time
from collections.abc import Mapping, Sequence

from service.cli.client import ApiClient, JsonObject
from service.cli.live import MAX_DEVICE_ROWS

LOOK_SECONDS = 1.0
LATEST_RESULTS = 200
_SLOTS = ("a7/application", "m4-0/model", "m4-1/model")
_CORES = ("m4-0", "m4-1")


class FleetTable:
    """Rows of the table, asked for at most once a second."""

    def __init__(self) -> None:
        self._due = 0.0
        self._seen: dict[tuple[str, str], str] = {}

    def rows(self, client: ApiClient) -> list[Sequence[object]] | None:
        """Return the rows, or None if it is too early to ask again."""
        if time.monotonic() < self._due:
            return None
        self._due = time.monotonic() + LOOK_SECONDS
        results = client.get("/telemetry", stream="inference", limit=LATEST_RESULTS)["items"]
        for result in sorted(results, key=lambda item: str(item["received_at"])):
            payload = result["payload"]
            seen = payload["error"] or f"{payload['label']} {payload['score']:.2f}"
            self._seen[result["device_id"], payload["core"]] = seen
        devices = client.get("/devices", limit=MAX_DEVICE_ROWS)["items"]
        return [self._row(device) for device in devices]

    def _row(self, device: JsonObject) -> tuple[object, ...]:
        versions = [_version(device.get("installed", {}), slot) for slot in _SLOTS]
        seen = [self._seen.get((device["id"], core)) for core in _CORES]
        return (device["id"], device["state"], *versions, *seen)


def _version(installed: Mapping[str, JsonObject], slot: str) -> str | None:
    image = installed.get(slot)
    return None if image is None else str(image["name"] or image["sha256"][:8])
