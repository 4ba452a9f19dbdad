"""The transparency log: tiles for everybody, status and entries for operators, proofs for devices.

What is public needs no credential and is signed or hashed (C2SP tlog-tiles); the log's URL prefix is `/tlog`.
"""

import base64
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel
from starlette.requests import Request
from starlette.routing import Route

from protocol.merkle import HASH_BYTES
from service.api.auth import ViewerActor
from service.api.device_gate import BASE_PATH
from service.api.problems import PROBLEM_TYPE
from service.api.services import ServicesParameter
from service.application.transparency import ProvenEntry, Transparency, UnknownEntryError

router = APIRouter(prefix="/log", tags=["transparency"])
public_router = APIRouter(prefix="/tlog", tags=["transparency"])  # outside /api/v1: where auditors look

TEXT = "text/plain; charset=utf-8"
TILE_SECONDS = 86_400  # a tile never changes
_SHA256_PATTERN = r"^[0-9a-f]{64}$"
_PROBLEM = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_NOTE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}}, "description": "A signed note."},
    503: {"content": _PROBLEM, "description": "There is no checkpoint yet; Retry-After says when to ask again."},
}
_TILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}, "description": "Hashes or entries."}
}


class WitnessModel(BaseModel):
    """A witness as the process that answers knows it; `problem` is empty where nothing went wrong."""

    name: str
    url: str
    size: int
    problem: str
    at: datetime | None


class LogModel(BaseModel):
    """How the log stands; `policy` is what the Image root says of it, null where devices ask for no proof."""

    origin: str
    key: str
    size: int
    policy: dict[str, Any] | None
    checkpoint: str | None
    witnesses: list[WitnessModel]


class LogEntryModel(BaseModel):
    """An entry, base64 of its bytes, and its proof (C2SP tlog-proof); null until a checkpoint covers it."""

    number: int
    name: str
    leaf_hash: str
    entry: str
    proof: str | None


class LogEntryList(BaseModel):
    """The entries of an image or root, oldest first."""

    items: list[LogEntryModel]
    next_cursor: str | None = None


@router.get("")
async def show_log(_actor: ViewerActor, services: ServicesParameter) -> LogModel:
    """Show how the transparency log and its witnesses stand."""
    status = await services.transparency.status()
    return LogModel(
        origin=status.key.name,
        key=str(status.key),
        size=status.size,
        policy=None if status.policy is None else status.policy.model_dump(mode="json"),
        checkpoint=None if status.checkpoint is None else status.checkpoint.decode(),
        witnesses=[
            WitnessModel(name=each.name, url=each.url, size=each.size, problem=each.problem, at=each.at)
            for each in services.checkpoints.states()
        ],
    )


@router.get("/entries/{sha256}")
async def find_log_entries(
    _actor: ViewerActor,
    services: ServicesParameter,
    sha256: Annotated[str, Path(pattern=_SHA256_PATTERN, description="Of the image package or root.json, hex.")],
) -> LogEntryList:
    """Find what is logged of an image or root."""
    return LogEntryList(items=[_model(found) for found in await services.transparency.about(sha256)])


@public_router.get("/checkpoint", response_class=Response, responses=_NOTE)
async def show_checkpoint(services: ServicesParameter) -> Response:
    """Show the newest checkpoint; needs no credential."""
    services.log_rate.admit()
    note = await services.transparency.checkpoint()
    return Response(note, media_type=TEXT, headers={"Cache-Control": "no-cache"})


@public_router.get("/tile/{path:path}", response_class=Response, responses=_TILE)
async def show_tile(services: ServicesParameter, path: Annotated[str, Path(max_length=100)]) -> Response:
    """Show a tile of hashes or a bundle of entries; needs no credential."""
    services.log_rate.admit()
    content = await services.transparency.tile(path)
    headers = {"Cache-Control": f"public, max-age={TILE_SECONDS}, immutable"}
    return Response(content, media_type="application/octet-stream", headers=headers)


def transparency_routes(transparency: Transparency) -> list[Route]:
    """Return the routes of proofs for devices, by the leaf hash of the entry that a device has computed."""

    async def proof(request: Request) -> Response:
        leaf = request.path_params["leaf"]
        return Response(await transparency.proof(_leaf(leaf)), media_type=TEXT)

    return [Route(f"{BASE_PATH}/transparency/{{leaf}}", proof, methods=["GET"])]


def _leaf(text: str) -> bytes:
    try:
        leaf = bytes.fromhex(text)
    except ValueError:
        leaf = b""
    if leaf.hex() != text or len(leaf) != HASH_BYTES:
        raise UnknownEntryError(f"log: expected a leaf hash of 64 hex digits, found {text[:80]!r}")
    return leaf


def _model(found: ProvenEntry) -> LogEntryModel:
    entry = found.entry
    return LogEntryModel(
        number=entry.number,
        name=entry.name,
        leaf_hash=entry.leaf_hash.hex(),
        entry=base64.b64encode(entry.entry).decode(),
        proof=None if found.proof is None else found.proof.decode(),
    )
