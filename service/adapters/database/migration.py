"""Bringing the database to the newest schema; at every start, before anything else."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from service.adapters.database.engine import Database

_ADVISORY_LOCK = 0x7466_6D69  # "tfmi": of two processes that start at once, one migrates


async def migrate(database: Database) -> tuple[str | None, str | None]:
    """Migrate to the newest schema.

    Returns:
        Revision before and after; None before for an empty database.
    """
    async with database.engine.begin() as connection:
        return await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    before = _revision(connection)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, _revision(connection)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
