"""Databases of tests: a fresh one on SQLite or on one PostgreSQL server that the whole run shares."""

import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
from sqlalchemy import make_url

from tests.integration.gateway.postgres_server import postgres_server, restart


@contextmanager
def postgresql_server() -> Iterator[str]:
    """Run a server in a folder that its unprivileged owner can enter, and yield its URL."""
    with crashing_server() as (url, _):
        yield url


@contextmanager
def crashing_server() -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a server of the test's own, and yield its URL and what crashes it and starts it again."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-pg-") as folder:
        Path(folder).chmod(0o755)
        data = Path(folder) / "server"
        data.mkdir()
        with postgres_server(data) as url:
            yield url, lambda: restart(data)


@asynccontextmanager
async def fresh_database(server_url: str) -> AsyncIterator[str]:
    """Make an empty database and drop it afterwards."""
    url, name = make_url(server_url), f"t{uuid.uuid4().hex}"
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield url.set(database=name).render_as_string(hide_password=False)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()
