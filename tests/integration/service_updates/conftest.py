"""The update half on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.postgresql import fresh_database, postgresql_server
from tests.service_folder import make_folders


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'control.db'}"
        return
    async with fresh_database(request.getfixturevalue("postgresql")) as url:
        yield url


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service whose first start is done."""
    async with open_world(make_folders(tmp_path / "init"), database) as opened:
        yield opened
