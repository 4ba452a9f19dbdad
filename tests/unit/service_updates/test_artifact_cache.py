"""Artifacts in memory: read once from the store behind, whole, and only as what their hash says."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from protocol.image import MAX_PACKAGE_BYTES
from service.adapters.artifact_cache import BLOCK_BYTES, CachedArtifacts
from service.adapters.artifact_store import ArtifactStoreError
from service.api.problems import problem
from service.application.artifacts import UnknownArtifactError


class CountingStore:
    """An artifact store in memory that counts its reads."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.reads = 0

    def add(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = content
        return sha256

    async def put(self, sha256: str, content: bytes) -> None:
        self.contents[sha256] = content

    async def length(self, sha256: str) -> int | None:
        content = self.contents.get(sha256)
        return None if content is None else len(content)

    async def delete(self, sha256: str) -> None:
        self.contents.pop(sha256, None)

    async def read(self, sha256: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        self.reads += 1
        await asyncio.sleep(0)  # others run meanwhile
        if sha256 not in self.contents:
            raise UnknownArtifactError("artifact: expected a known SHA-256, found another")
        yield self.contents[sha256][start:end]


async def _read(cache: CachedArtifacts, sha256: str, start: int, end: int) -> bytes:
    return b"".join([block async for block in cache.read(sha256, start=start, end=end)])


async def test_many_readers_at_once_cost_one_read() -> None:
    """Each gets its own range."""
    store = CountingStore()
    sha256 = store.add(bytes(range(256)) * 10_000)
    cache = CachedArtifacts(store, max_bytes=10 * BLOCK_BYTES)
    found = await asyncio.gather(*(_read(cache, sha256, at, at + 100) for at in range(0, 2_000, 100)))
    assert b"".join(found) == store.contents[sha256][:2_000]
    assert await _read(cache, sha256, 0, 2_560_000) == store.contents[sha256]
    assert (store.reads, await cache.length(sha256)) == (1, 2_560_000)


async def test_longest_unused_goes_first() -> None:
    """What does not fit is read again when it is asked for."""
    store = CountingStore()
    one, two, three = (store.add(letter * 40) for letter in (b"a", b"b", b"c"))
    cache = CachedArtifacts(store, max_bytes=100)
    for sha256 in (one, two, one, three, one):
        await _read(cache, sha256, 0, 40)
    assert store.reads == 3
    await _read(cache, two, 0, 40)
    assert store.reads == 4


async def test_artifact_larger_than_the_cache_is_served_all_the_same() -> None:
    """And keeps nothing else out."""
    store = CountingStore()
    small, large = store.add(b"a" * 40), store.add(b"b" * 200)
    cache = CachedArtifacts(store, max_bytes=100)
    await _read(cache, small, 0, 40)
    assert await _read(cache, large, 150, 200) == b"b" * 50
    await _read(cache, small, 0, 40)
    assert store.reads == 2


async def test_changed_bytes_are_refused() -> None:
    """Somebody wrote into the store; mended, the artifact is served again."""
    store = CountingStore()
    sha256 = store.add(b"a package")
    cache = CachedArtifacts(store, max_bytes=100)
    store.contents[sha256] = b"another 1"
    with pytest.raises(ArtifactStoreError, match=r"expected the bytes of .* found others"):
        await _read(cache, sha256, 0, 9)
    await cache.put(sha256, b"a package")
    assert await _read(cache, sha256, 2, 9) == b"package"


async def test_more_bytes_than_any_artifact_has_are_not_read() -> None:
    """Somebody wrote a huge object into the store: refused by its length, before a byte of it is in memory."""
    store = CountingStore()
    sha256 = store.add(bytes(MAX_PACKAGE_BYTES + 1))
    cache = CachedArtifacts(store, max_bytes=100)
    with pytest.raises(ArtifactStoreError, match=r"expected at most \d+ bytes, found \d+") as caught:
        await _read(cache, sha256, 0, 1)
    assert store.reads == 0
    answer = problem(caught.value, "/artifacts")
    assert (answer.status_code, sha256[:12].encode() in answer.body) == (503, False)


async def test_unknown_artifact_is_unknown() -> None:
    """Nothing of it is kept."""
    cache = CachedArtifacts(CountingStore(), max_bytes=100)
    assert await cache.length("a" * 64) is None
    with pytest.raises(UnknownArtifactError):
        await _read(cache, "a" * 64, 0, 1)


async def test_deleted_bytes_are_gone_from_memory_too() -> None:
    """And leave room for others."""
    store = CountingStore()
    one, two = store.add(b"a" * 60), store.add(b"b" * 60)
    cache = CachedArtifacts(store, max_bytes=100)
    await _read(cache, one, 0, 60)
    for _ in range(2):
        await cache.delete(one)
    assert await cache.length(one) is None
    for _ in range(2):
        assert await _read(cache, two, 0, 60) == b"b" * 60
    assert store.reads == 2
