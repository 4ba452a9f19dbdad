"""The issuance log, for whoever wants to verify it: entries as they were hashed, and where the log ends."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from pki.issuance import LogEntry, LogHead, entry_document
from service.api.auth import ViewerActor
from service.api.services import ServicesParameter

router = APIRouter(prefix="/issuance", tags=["certificates"])

MAX_ENTRIES = 1000


class EntryModel(BaseModel):
    """One entry; `entry_sha256` is the SHA-256 of the other fields as canonical JSON (pki/issuance.py)."""

    sequence: int
    at: str
    kind: str
    serial: str
    subject: str
    key_sha256: str
    certificate_sha256: str
    issuer_sha256: str
    not_after: str
    previous_sha256: str
    entry_sha256: str


class HeadModel(BaseModel):
    """Where the log ends: number and hash of its last entry; 0 and zeros for an empty one."""

    sequence: int
    entry_sha256: str


class IssuancePage(BaseModel):
    """Entries in their order, and the log's head at the same moment."""

    items: list[EntryModel]
    head: HeadModel


@router.get("")
async def list_issued_certificates(
    _actor: ViewerActor,
    services: ServicesParameter,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Sequence number of the last entry that is known.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES, description="Most entries of the page.")] = MAX_ENTRIES,
) -> IssuancePage:
    """List what has been issued, oldest first."""
    async with services.unit_of_work(read_only=True) as work:
        entries, head = await work.issuance.page(after=after, limit=limit)
    return _page(entries, head)


def _page(entries: Sequence[LogEntry], head: LogHead) -> IssuancePage:
    items = [EntryModel.model_validate(entry_document(entry)) for entry in entries]
    return IssuancePage(items=items, head=HeadModel(sequence=head.sequence, entry_sha256=head.entry_sha256))
