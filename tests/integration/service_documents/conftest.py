"""The update half with documents, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.databases import database, postgresql
from tests.integration.service_documents.document_world import DocumentWorld, open_document_world
from tests.service_folder import make_folders

__all__ = ["database", "postgresql"]


@pytest.fixture
async def documented(database: str, tmp_path: Path) -> AsyncIterator[DocumentWorld]:
    """A service whose first start is done."""
    async with open_document_world(make_folders(tmp_path / "init"), database) as opened:
        yield opened
