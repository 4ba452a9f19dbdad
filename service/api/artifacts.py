"""Artifacts: operators put them, devices get them, whole or in ranges (RFC 9110 §14)."""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response, status
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from service.api.auth import ReleaserActor, ViewerActor
from service.api.device_gate import BASE_PATH as DEVICE_BASE_PATH
from service.api.services import ServicesParameter
from service.application.artifacts import Artifacts, UnknownArtifactError
from service.domain.release import Artifact, ArtifactKind

router = APIRouter(prefix="/artifacts", tags=["artifacts"])

Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the bytes, lower-case hex.")]
ARTIFACTS_PATH = f"{DEVICE_BASE_PATH}/artifacts"
RawHeader = tuple[bytes, bytes]  # the name in lower case, as ASGI has it
_METHODS = ("GET", "HEAD")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_RANGE = re.compile(rb"bytes=(\d{0,18})-(\d{0,18})\Z", re.IGNORECASE)
_CACHED = (b"cache-control", b"private, immutable")
_RANGED = (b"accept-ranges", b"bytes")
_RAW_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}

_RAW: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_RAW_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {**_RAW, "description": "All of its bytes."},
    206: {**_RAW, "description": "The bytes of the range."},
    416: {"description": "There are no bytes in the range."},
}


class ArtifactModel(BaseModel):
    """Bytes that were verified and stored."""

    sha256: str
    length: int
    kind: ArtifactKind


@router.put("/{sha256}", status_code=status.HTTP_201_CREATED, openapi_extra=_RAW_BODY)
async def put_artifact(
    actor: ReleaserActor, services: ServicesParameter, sha256: Sha256, request: Request
) -> ArtifactModel:
    """Store a package, golden vectors, a release document or a document about them; repeated, it changes nothing."""
    return _model(await services.artifacts.take(actor, sha256, request.stream()))


@router.head("/{sha256}", response_class=Response)
async def find_artifact(_actor: ViewerActor, services: ServicesParameter, sha256: Sha256) -> Response:
    """Say whether an artifact is stored."""
    length = await services.artifacts.length(sha256)
    return Response(headers={"ETag": f'"{sha256}"', "Content-Length": str(length)})


@router.get("/{sha256}", response_class=Response, responses=_RAW_ANSWERS)
async def read_artifact(_actor: ViewerActor, services: ServicesParameter, sha256: Sha256, request: Request) -> Response:
    """Return an artifact's bytes, whole or in a range; the signed targets name their length and hash."""
    return await _answer(services.artifacts, sha256, request.headers.raw)


class ArtifactEndpoint:
    """An ASGI app that gives devices artifacts; plain, because a download asks for range after range."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sha256 = scope["path"].rpartition("/")[2]
        if scope["method"] not in _METHODS:
            answer = Response(status_code=status.HTTP_405_METHOD_NOT_ALLOWED, headers={"Allow": ", ".join(_METHODS)})
        elif not _SHA256.match(sha256):
            raise UnknownArtifactError(f"artifact: expected a SHA-256, found {sha256[:12]!r}")
        else:
            # RFC 9110 §14.2: a range counts for GET alone.
            asked = scope["headers"] if scope["method"] == "GET" else ()
            answer = await _answer(self._artifacts, sha256, asked)
        await answer(scope, receive, send)


async def _answer(artifacts: Artifacts, sha256: str, asked: Iterable[RawHeader]) -> Response:
    length = await artifacts.length(sha256)
    tag = f'"{sha256}"'.encode()
    headers = ((b"etag", tag), _CACHED)
    wanted = _wanted_range(asked, tag, length)
    if wanted is None:
        blocks = artifacts.read(sha256, start=0, end=length)
        return BlocksResponse(blocks, length=length, headers=(*headers, _RANGED))
    start, end = wanted
    if start >= end:
        unsatisfied = {"Content-Range": f"bytes */{length}"}
        return Response(status_code=status.HTTP_416_RANGE_NOT_SATISFIABLE, headers=unsatisfied)
    blocks = artifacts.read(sha256, start=start, end=end)
    found = (b"content-range", b"bytes %d-%d/%d" % (start, end - 1, length))
    return BlocksResponse(
        blocks, length=end - start, headers=(*headers, found), status_code=status.HTTP_206_PARTIAL_CONTENT
    )


class BlocksResponse(Response):
    """Sends blocks as they come; its status goes with the first, so that what cannot be read is no half answer.

    Args:
        blocks: the bytes.
        length: of all of them.
        headers: further ones.
        status_code: of an answer that has a body.
        media_type: of the bytes.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        *,
        length: int,
        headers: Sequence[RawHeader],
        status_code: int = status.HTTP_200_OK,
        media_type: str = "application/octet-stream",
    ) -> None:
        super().__init__(status_code=status_code)
        own = ((b"content-length", b"%d" % length), (b"content-type", media_type.encode()))
        self.raw_headers = [*headers, *own]
        self._blocks = blocks
        self._length = length

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; what cannot be read raises before any of it."""
        block, left = await anext(self._blocks, b""), self._length
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while block and len(block) < left:
            left -= len(block)
            await send({"type": "http.response.body", "body": block, "more_body": True})
            block = await anext(self._blocks, b"")
        await send({"type": "http.response.body", "body": block})


def _wanted_range(asked: Iterable[RawHeader], tag: bytes, length: int) -> tuple[int, int] | None:
    """Return the wanted bytes as (start, end); None where the whole is to be sent (RFC 9110 §14.2)."""
    said = [(name, value) for name, value in asked if name in {b"range", b"if-range"}]
    ranges = [value for name, value in said if name == b"range"]
    changed = any(value != tag for name, value in said if name == b"if-range")
    found = _RANGE.match(ranges[0]) if len(ranges) == 1 and not changed else None
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        return (max(0, length - int(last)), length) if last else None
    if not last:
        return int(first), length
    return (int(first), min(length, int(last) + 1)) if int(first) <= int(last) else None


def _model(artifact: Artifact) -> ArtifactModel:
    return ArtifactModel(sha256=artifact.sha256, length=artifact.length, kind=artifact.kind)
