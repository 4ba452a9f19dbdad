"""Each test runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.service_devices.device_world import DeviceWorld, open_world
from tests.postgresql import fresh_database, postgresql_server
from tests.service_folder import Folders, make_folders


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'control.db'}"
        return
    async with fresh_database(request.getfixturevalue("postgresql")) as url:
        yield url


@pytest.fixture
async def world(database: str, folders: Folders) -> AsyncIterator[DeviceWorld]:
    async with open_world(database, folders) as opened:
        yield opened


@pytest.fixture
async def postgresql_url(postgresql: str) -> AsyncIterator[str]:
    async with fresh_database(postgresql) as url:
        yield url
