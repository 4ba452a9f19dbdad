"""Artifacts in an object store: files by default, S3, Azure or Google Cloud by URL (obstore).

obstore does its I/O in threads of its own, so the event loop only hands on small blocks.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from service.application.artifacts import UnknownArtifactError
from service.domain.errors import UnavailableError

BLOCK_BYTES = 64 * 1024


class ArtifactStoreError(UnavailableError):
    """The object store cannot be reached, refuses, or holds what was never put."""


def open_store(url: str, *, default_folder: Path) -> ObjectStore:
    """Open the store that the settings name.

    Args:
        url: `file:///…`, `s3://…`, `az://…`, `gs://…`; empty for the default folder.
        default_folder: made if it is missing.

    Raises:
        ArtifactStoreError: the URL names no store.
    """
    if not url:
        return LocalStore(default_folder, automatic_cleanup=True, mkdir=True)
    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        scheme = url.partition(":")[0]
        raise ArtifactStoreError(f"artifacts URL: expected file, s3, az or gs, found {scheme!r}") from error


class ObjectArtifactStore:
    """Implements `ArtifactStore`; an artifact's name is its hash."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def put(self, sha256: str, content: bytes) -> None:
        """See `ArtifactStore.put`."""
        try:
            await obstore.put_async(self._store, sha256, content)
        except BaseError as error:
            raise ArtifactStoreError(f"artifact store: expected to write {sha256[:12]}…, found {error}") from error

    async def length(self, sha256: str) -> int | None:
        """See `ArtifactStore.length`."""
        try:
            return (await obstore.head_async(self._store, sha256))["size"]
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise ArtifactStoreError(f"artifact store: expected to look up {sha256[:12]}…, found {error}") from error

    async def delete(self, sha256: str) -> None:
        """See `ArtifactStore.delete`."""
        try:
            await obstore.delete_async(self._store, sha256)
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise ArtifactStoreError(f"artifact store: expected to remove {sha256[:12]}…, found {error}") from error

    async def read(self, sha256: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See `ArtifactStore.read`."""
        if start >= end:
            return
        try:
            found = await obstore.get_async(self._store, sha256, options={"range": (start, end)})
        except (NotFoundError, FileNotFoundError) as error:
            raise UnknownArtifactError(f"artifact: expected a known SHA-256, found {sha256[:12]}…") from error
        async for block in found.stream(min_chunk_size=BLOCK_BYTES):
            yield bytes(block)
