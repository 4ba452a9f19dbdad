"""Each test runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.databases import database, postgresql, postgresql_url
from tests.integration.service_devices.device_world import DeviceWorld, open_world
from tests.service_folder import Folders, make_folders

__all__ = ["database", "postgresql", "postgresql_url"]


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture
async def world(database: str, folders: Folders) -> AsyncIterator[DeviceWorld]:
    async with open_world(database, folders) as opened:
        yield opened
