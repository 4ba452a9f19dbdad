"""Tables of the telemetry stores, and the migrations that make them.

`senders` gives each device id (128 characters) a small number, which keeps rows and their index narrow: with the
id itself in the index, 2,000 devices made inserts four times as slow.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.ext.asyncio import AsyncEngine

METADATA = MetaData()
VERSION_TABLE = "telemetry_alembic_version"  # its own, because PostgreSQL may hold the control tables beside

_ROW_ID = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows by INTEGER PRIMARY KEY only

SENDERS = Table(
    "telemetry_senders",
    METADATA,
    Column("sender_id", Integer, primary_key=True),
    Column("device_id", String(128), nullable=False, unique=True),
    sqlite_autoincrement=True,
)

# AUTOINCREMENT: an id is not given twice after pruning, so a reader's last seen id stays good.
MESSAGES = Table(
    "telemetry_messages",
    METADATA,
    Column("message_id", _ROW_ID, primary_key=True),
    Column("sender_id", Integer, ForeignKey(SENDERS.c.sender_id), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("stream", String(64), nullable=False),
    Column("received_at_ms", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("properties", Text, nullable=True),
    Index("telemetry_messages_by_sender", "sender_id", "message_id"),
    sqlite_autoincrement=True,
)

MESSAGE_COLUMNS = ("sender_id", "kind", "stream", "received_at_ms", "payload", "properties")


async def migrate(engine: AsyncEngine) -> None:
    """Bring the database to the newest revision, from whatever it has."""
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
