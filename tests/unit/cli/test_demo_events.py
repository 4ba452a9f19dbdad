"""What the demo reads out of device-sim's events."""

import json
from pathlib import Path
from typing import Any

from service.cli.demo_events import EventFile, devices_with, link_counts
from service.cli.demo_fleet import latest_states


def _counts(device: str, sent: int, acknowledged: int) -> dict[str, Any]:
    return {"event": "counts", "device": device, "sent": sent, "acknowledged": acknowledged}


def test_events_are_read_once_and_only_whole(tmp_path: Path) -> None:
    """A line that is still being written waits for its end."""
    path = tmp_path / "events"
    events = EventFile(path)
    assert events.all() == []
    path.write_text('{"event": "booted", "device": "a"}\n{"event": "boo')
    assert len(events.all()) == 1
    events.begin()
    with path.open("a") as file:
        file.write('ted", "device": "b"}\n' + json.dumps({"event": "attested", "device": "b"}) + "\n")
    assert devices_with(events.of_this_run(), "booted", "attested") == {"b"}
    assert devices_with(events.all(), "booted") == {"a", "b"}


def test_counts_add_up_over_devices_and_runs() -> None:
    """The last count of each device and run is taken; a count that falls begins a run."""
    events: list[dict[str, Any]] = [
        _counts("a", 5, 4),
        _counts("a", 9, 9),
        _counts("b", 1, 1),
        _counts("a", 2, 1),
        {"event": "booted"},
    ]
    assert link_counts(events) == (12, 11)


def test_no_events_are_no_counts() -> None:
    """Nothing sent is nothing sent."""
    assert link_counts([]) == (0, 0)


def test_latest_state_is_what_a_device_told_last() -> None:
    """Boot, attestation and update follow each other; other events change nothing."""
    events: list[dict[str, Any]] = [
        {"event": "booted", "device": "a"},
        {"event": "attested", "device": "a"},
        {"event": "update", "device": "a", "state": "trial"},
        {"event": "connected", "device": "a"},
        {"event": "boot-stopped", "device": "b"},
        {"event": "stopped"},
    ]
    assert latest_states(events) == {"a": "trial", "b": "boot-stopped"}
