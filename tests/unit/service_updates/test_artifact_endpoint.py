"""Devices get artifacts whole or in ranges; whatever else they ask is refused."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest
from obstore.store import MemoryStore

from service.adapters.artifact_cache import CachedArtifacts
from service.adapters.artifact_store import ObjectArtifactStore
from service.api.artifacts import ARTIFACTS_PATH, ArtifactEndpoint
from service.application.artifacts import Artifacts, UnknownArtifactError

CONTENT = bytes(range(256)) * 5
SHA256 = hashlib.sha256(CONTENT).hexdigest()


Headers = Mapping[str, str] | Sequence[tuple[str, str]]


async def ask(name: str = SHA256, *, method: str = "GET", headers: Headers | None = None) -> httpx.Response:
    """Ask the endpoint for an artifact."""
    store = CachedArtifacts(ObjectArtifactStore(MemoryStore()), max_bytes=1_000_000)
    await store.put(SHA256, CONTENT)
    unused: Any = None  # only operators bring artifacts
    endpoint: Any = ArtifactEndpoint(Artifacts(unused, store=store, keys=unused, clock=unused))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="https://service") as client:
        return await client.request(method, f"{ARTIFACTS_PATH}/{name}", headers=headers)


async def test_artifact_comes_whole() -> None:
    """Its tag is its hash."""
    answer = await ask()
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert (answer.headers["etag"], answer.headers["content-length"]) == (f'"{SHA256}"', str(len(CONTENT)))


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=256-511", 256, 512), ("bytes=1200-9999", 1200, 1280), ("Bytes=-3", 1277, 1280)],
)
async def test_range_comes_alone(wanted: str, start: int, end: int) -> None:
    """From the first to the last byte that was asked for, as far as there are any."""
    answer = await ask(headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=-"},
        {"Range": "bytes=5-2"},
        {"Range": "bytes=0-1,3-4"},
        {"Range": "items=0-1"},
        {"Range": "bytes=0-1", "If-Range": f'"{"0" * 64}"'},
        [("Range", "bytes=0-1"), ("Range", "bytes=5-9")],
        [("Range", "bytes=0-1"), ("If-Range", f'"{"0" * 64}"'), ("If-Range", f'"{SHA256}"')],
    ],
)
async def test_range_that_means_none_is_passed_over(headers: Headers) -> None:
    """Malformed, of several parts, or of other bytes: the whole comes."""
    answer = await ask(headers=headers)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["accept-ranges"] == "bytes"


async def test_range_counts_for_get_alone() -> None:
    """HEAD tells of the whole (RFC 9110 §14.2)."""
    answer = await ask(method="HEAD", headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(CONTENT)))


async def test_range_behind_the_end_is_refused() -> None:
    """The length is told."""
    answer = await ask(headers={"Range": "bytes=1280-"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (416, b"", "bytes */1280")


async def test_other_method_is_refused() -> None:
    """Devices bring no artifacts."""
    answer = await ask(method="PUT")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("name", ["0" * 64, SHA256.upper(), "..", "", "keys.pem", SHA256 + "0"])
async def test_name_that_is_no_artifact_is_refused(name: str) -> None:
    """Nothing but the hash of an artifact gets to the store."""
    with pytest.raises(UnknownArtifactError, match="artifact: expected a"):
        await ask(name)
