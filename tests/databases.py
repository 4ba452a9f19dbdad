"""Fixtures for tests that run on SQLite and on PostgreSQL; a conftest or a test module imports those that it wants."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.postgresql import fresh_database, postgresql_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a server that the whole run shares."""
    with postgresql_server() as url:
        yield url


@pytest.fixture
async def postgresql_url(postgresql: str) -> AsyncIterator[str]:
    """The URL of an empty database on PostgreSQL."""
    async with fresh_database(postgresql) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database, on one after the other."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'control.db'}"
        return
    async with fresh_database(request.getfixturevalue("postgresql")) as url:
        yield url
