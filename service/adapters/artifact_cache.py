"""Artifacts that were read lately, kept in memory: a rollout asks thousands of times for the same bytes.

An artifact is read whole from the store behind, by one request while the others wait for it, in this order:
    1. length: at most `MAX_PACKAGE_BYTES`, which no artifact exceeds; more is not read;
    2. hash: bytes that somebody changed in the store are refused here, once, and not only on each device.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from weakref import WeakValueDictionary

from protocol.image import MAX_PACKAGE_BYTES
from service.adapters.artifact_store import ArtifactStoreError
from service.application.artifacts import ArtifactStore

BLOCK_BYTES = 1024 * 1024


class CachedArtifacts:
    """Implements `ArtifactStore` over another one.

    Args:
        store: the one behind.
        max_bytes: that are kept; the artifact that was asked for longest ago goes first.
    """

    def __init__(self, store: ArtifactStore, *, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(self, sha256: str, content: bytes) -> None:
        """See `ArtifactStore.put`."""
        await self._store.put(sha256, content)

    async def length(self, sha256: str) -> int | None:
        """See `ArtifactStore.length`."""
        kept = self._kept.get(sha256)
        return await self._store.length(sha256) if kept is None else len(kept)

    async def delete(self, sha256: str) -> None:
        """See `ArtifactStore.delete`."""
        self._bytes -= len(self._kept.pop(sha256, b""))
        await self._store.delete(sha256)

    async def read(self, sha256: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """See `ArtifactStore.read`.

        Raises:
            ArtifactStoreError: the store holds other bytes under this hash, or more than any artifact has.
        """
        content = self._kept.get(sha256)
        if content is None:
            content = await self._load(sha256)
        else:
            self._kept.move_to_end(sha256)
        for block in range(start, end, BLOCK_BYTES):
            yield content[block : min(block + BLOCK_BYTES, end)]

    async def _load(self, sha256: str) -> bytes:
        lock = self._locks.setdefault(sha256, asyncio.Lock())
        async with lock:
            kept = self._kept.get(sha256)
            return await self._read_whole(sha256) if kept is None else kept

    async def _read_whole(self, sha256: str) -> bytes:
        length = await self._store.length(sha256) or 0
        # Step 1: length.
        if length > MAX_PACKAGE_BYTES:
            raise ArtifactStoreError(f"artifact: expected at most {MAX_PACKAGE_BYTES} bytes, found {length}")
        content = b"".join([block async for block in self._store.read(sha256, start=0, end=length)])
        # Step 2: hash.
        found = (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
        if found != sha256:
            raise ArtifactStoreError(f"artifact: expected the bytes of {sha256[:12]}…, found others, {found[:12]}…")
        self._keep(sha256, content)
        return content

    def _keep(self, sha256: str, content: bytes) -> None:
        if len(content) > self._max_bytes:
            return
        self._kept[sha256] = content
        self._bytes += len(content)
        while self._bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)
