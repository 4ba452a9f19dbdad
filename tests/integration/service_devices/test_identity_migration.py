"""Devices that were claimed before the service knew access and serial numbers, on both databases."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import service.adapters.database.migration as migration_module
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from tests.integration.service_devices.device_world import open_world
from tests.service_folder import Folders

MIGRATIONS = Path(migration_module.__file__).parent / "migrations"


def _downgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.downgrade(config, "0002")


async def test_older_registry_keeps_access_and_learns_serial_numbers(database: str, folders: Folders) -> None:
    """Of a device with a certificate, of one without, and of one that was put there without a birth certificate."""
    async with open_world(database, folders) as world:
        attested, claimed, bare = [await world.claimed() for _ in range(3)]
        await world.attest(attested)
        serial = (await world.devices.get(claimed.device_id)).device.idevid_serial
    opened = Database(database_url(database))
    try:
        async with opened.engine.begin() as connection:
            emptied = text("UPDATE devices SET idevid_chain = '' WHERE device_id = :bare")
            await connection.execute(emptied, {"bare": bare.device_id})
            await connection.run_sync(_downgrade)
        await migrate(opened)
        async with opened.engine.connect() as connection:
            rows = (await connection.execute(text("SELECT device_id, access, idevid_serial FROM devices"))).all()
    finally:
        await opened.close()
    found = {row.device_id: row for row in rows}
    assert [found[one.device_id].access for one in (attested, claimed, bare)] == ["full", None, None]
    assert (found[claimed.device_id].idevid_serial, found[bare.device_id].idevid_serial) == (serial, "")
