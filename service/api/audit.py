"""The audit log."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from service.api.auth import ViewerActor
from service.api.paging import Page, Paging
from service.api.services import ServicesParameter
from service.application.audit import AuditEntry

router = APIRouter(prefix="/audit", tags=["audit"])


class AuditModel(BaseModel):
    """A change: who did what to which subject, and the changed facts before and after; `detail` is for people."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@router.get("")
async def list_audit_entries(
    _actor: ViewerActor,
    services: ServicesParameter,
    paging: Paging,
    subject: Annotated[str | None, Query(max_length=200, description="Id of what was changed.")] = None,
) -> Page[AuditModel]:
    """List changes, newest first."""
    async with services.unit_of_work(read_only=True) as work:
        found = await work.audit.page(before_id=paging.after_number, limit=paging.fetch, subject_id=subject)
    return paging.page(found, key=lambda entry: entry.entry_id, model=_model)


def _model(entry: AuditEntry) -> AuditModel:
    return AuditModel(
        id=entry.entry_id,
        at=entry.at,
        actor=entry.actor,
        action=entry.change.action,
        subject=entry.change.subject_id,
        detail=entry.change.detail,
        before=entry.change.before,
        after=entry.change.after,
    )
