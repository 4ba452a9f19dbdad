"""The transparency log on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.databases import database, postgresql, postgresql_url
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.log_witnesses import Witnesses, cosigner, require_witnesses
from tests.service_folder import make_folders

__all__ = ["database", "postgresql", "postgresql_url"]


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service whose Image root asks for two of three witnesses."""
    folders = make_folders(tmp_path / "init")
    require_witnesses(folders, tuple(str(cosigner(number).key) for number in (1, 2, 3)), quorum=2)
    async with open_world(folders, database) as opened:
        yield opened


@pytest.fixture
def witnesses(world: UpdateWorld, tmp_path: Path) -> Witnesses:
    """Three witnesses that have seen nothing."""
    return Witnesses(world, tmp_path / "witnesses")
