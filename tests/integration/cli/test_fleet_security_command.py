"""`tinyfleet fleet security` against the running service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.adapters.database.engine import Database, database_url
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.events import Event, EventType
from service.cli.main import make_app
from tests.integration.cli.live_operator import Operator, live_operator

DEVICES = ("a" * 128, "b" * 128)
FACTS = {
    "attack": "freeze",
    "rule": "MetadataExpiredError",
    "detail": "timestamp.json is expired",
    "action_id": "22222222-2222-4222-8222-222222222222",
    "release": "spring",
}


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    """A running service that two devices told of an attack."""
    async with live_operator(tmp_path, monkeypatch) as opened:
        database = Database(database_url(opened.service.settings.database_location()))
        async with SqlUnitOfWorkFactory(database)() as work:
            for device in DEVICES:
                now = opened.service.clock.now()
                work.record(Event(EventType.SECURITY, device, "attack-refused", now, dict(FACTS)))
                work.record(Event(EventType.DEVICE, device, "renamed", now))
            await work.commit()
        await database.close()
        yield opened


async def test_operator_reads_which_attack_it_was(operator: Operator) -> None:
    """Newest first, of the fleet or of one device."""
    events = await operator.succeed("fleet", "security")
    refused = [event for event in events if event["change"] == "attack-refused"]
    assert [(event["id"], event["data"]["attack"]) for event in refused] == [
        (device, "freeze") for device in reversed(DEVICES)
    ]
    (event,) = await operator.succeed("fleet", "security", "--device", DEVICES[0])
    assert event["id"] == DEVICES[0]
    command = ["fleet", "security", "--device", DEVICES[1], "--operator-dir", str(operator.folder)]
    result = await asyncio.to_thread(lambda: CliRunner().invoke(make_app(command), command, env={"COLUMNS": "200"}))
    row = next(line for line in result.stdout.splitlines() if "freeze" in line)
    assert [word in row for word in ("bbbbbbbb", "MetadataExpiredError", "spring", "is expired")] == [True] * 4


async def test_events_of_a_type_are_paged(operator: Operator) -> None:
    """The cursor leads to the older ones; a type must be named."""
    client = operator.service.operator
    first = (await client.get("/events", params={"type": "device", "limit": "1"})).json()
    rest = (await client.get("/events", params={"type": "device", "cursor": first["next_cursor"]})).json()
    renamed = [event["id"] for event in (*first["items"], *rest["items"]) if event["change"] == "renamed"]
    assert (len(first["items"]), renamed) == (1, [*reversed(DEVICES)])
    assert (await client.get("/events")).status_code == 422
