"""The update half on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.databases import database, postgresql
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.service_folder import make_folders

__all__ = ["database", "postgresql"]


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service whose first start is done."""
    async with open_world(make_folders(tmp_path / "init"), database) as opened:
        yield opened
