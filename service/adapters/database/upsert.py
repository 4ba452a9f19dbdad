"""INSERT … ON CONFLICT, which SQLite and PostgreSQL share but SQLAlchemy keeps per dialect."""

import functools

from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import Insert as PostgresqlInsert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import Insert as SqliteInsert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

Insert = PostgresqlInsert | SqliteInsert


def insert_into(connection: AsyncConnection, table: Table) -> Insert:
    """Return an INSERT of the connection's dialect, which has `on_conflict_do_nothing`."""
    return _insert(connection.dialect.name, table)


def upsert(connection: AsyncConnection, table: Table, *, rising: str = "") -> Insert:
    """Return an INSERT that replaces the row of the same primary key.

    Args:
        connection: whose dialect it is for.
        table: gets the rows.
        rising: a column that must be higher than in the row that is there, or nothing is replaced.
    """
    return _upsert(connection.dialect.name, table, rising)


def _insert(dialect: str, table: Table) -> Insert:
    return postgresql_insert(table) if dialect == "postgresql" else sqlite_insert(table)


@functools.cache  # a statement takes longer to build than to run
def _upsert(dialect: str, table: Table, rising: str) -> Insert:
    statement = _insert(dialect, table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    where = table.c[rising] < statement.excluded[rising] if rising else None
    return statement.on_conflict_do_update(index_elements=keys, set_=changed, where=where)
