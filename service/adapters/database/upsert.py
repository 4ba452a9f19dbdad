"""INSERT … ON CONFLICT, which SQLite and PostgreSQL share but SQLAlchemy keeps per dialect."""

from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection


def insert_into(connection: AsyncConnection, table: Table) -> PostgresqlInsert | SqliteInsert:
    """Return an INSERT of the connection's dialect, which has `on_conflict_do_update` and `on_conflict_do_nothing`."""
    return postgresql_insert(table) if connection.dialect.name == "postgresql" else sqlite_insert(table)
