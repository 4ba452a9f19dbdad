"""The update half on each database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.service_updates.update_world import UpdateWorld, open_world, sqlite_url
from tests.service_folder import make_folders


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service whose first start is done."""
    folders = make_folders(tmp_path)
    async with open_world(folders, sqlite_url(folders.service)) as opened:
        yield opened
