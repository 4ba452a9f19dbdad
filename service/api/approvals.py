"""Approvals: requests for actions that take two persons, and the second person's decision."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from service.api.auth import OperatorActor, ViewerActor
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.paging import Page, Paging
from service.api.services import ServicesParameter
from service.application.approvals import Outcome
from service.domain.approval import Approval, ApprovalState
from service.domain.errors import CursorError

router = APIRouter(prefix="/approvals", tags=["approvals"], route_class=IdempotentRoute)
_idempotent = [Depends(idempotency_header)]

ApprovalId = Annotated[str, Path(max_length=64)]


class ApprovalModel(BaseModel):
    """A request: what one operator asked for, and what another decided.

    Attributes:
        replaces: an earlier request for the same, closed because what it was about had changed.
    """

    id: str
    action: str
    subject: str
    arguments: Mapping[str, Any]
    state: ApprovalState
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    decided_by: str | None
    decided_at: datetime | None
    replaces: str | None = None


class ApprovedModel(ApprovalModel):
    """A request that was approved and done; `answer` is what the action says."""

    answer: Mapping[str, Any]


# What an endpoint documents whose action may take two persons; `answer_to` gives it.
PENDING_RESPONSE: dict[int | str, dict[str, Any]] = {
    202: {"description": "Stored as a request that another operator must approve.", "model": ApprovalModel}
}


def answer_to(outcome: Outcome) -> Response:
    """Return 204 for what is done, 200 with what it has to say, or 202 with the request that waits for approval."""
    if isinstance(outcome, Approval):
        headers = {"Location": f"/api/v1/approvals/{outcome.approval_id}"}
        content = approval_model(outcome).model_dump(mode="json")
        return JSONResponse(content, status_code=status.HTTP_202_ACCEPTED, headers=headers)
    if outcome.answer:
        return JSONResponse(dict(outcome.answer))
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.get("")
async def list_approvals(
    _actor: ViewerActor,
    services: ServicesParameter,
    paging: Paging,
    pending: Annotated[bool, Query(description="Only those that wait for a decision.")] = True,  # noqa: FBT002 - a query
) -> Page[ApprovalModel]:
    """List requests, newest first."""
    found = await services.approvals.page(before=_position(paging.after), limit=paging.fetch, pending=pending)
    return paging.page(
        found, key=lambda approval: f"{approval.requested_at.isoformat()} {approval.approval_id}", model=approval_model
    )


@router.get("/{approval}")
async def show_approval(_actor: ViewerActor, services: ServicesParameter, approval: ApprovalId) -> ApprovalModel:
    """Show a request."""
    return approval_model(await services.approvals.get(approval))


@router.post("/{approval}/approve", dependencies=_idempotent)
async def approve_request(actor: OperatorActor, services: ServicesParameter, approval: ApprovalId) -> ApprovedModel:
    """Approve another operator's request, and do what it asks for in the same transaction."""
    approved, done = await services.approvals.approve(actor, approval)
    return ApprovedModel(**approval_model(approved).model_dump(), answer=done.answer)


@router.post("/{approval}/reject", dependencies=_idempotent)
async def reject_request(actor: OperatorActor, services: ServicesParameter, approval: ApprovalId) -> ApprovalModel:
    """Reject a request, or take back one's own."""
    return approval_model(await services.approvals.reject(actor, approval))


def _position(cursor: str | None) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    moment, _, approval_id = cursor.partition(" ")
    try:
        requested_at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise CursorError("cursor: expected one of this list, found another") from error
    if requested_at.tzinfo is None:
        raise CursorError("cursor: expected one of this list, found another")
    return requested_at, approval_id


def approval_model(approval: Approval) -> ApprovalModel:
    """Return a request as the API shows it."""
    return ApprovalModel(
        id=approval.approval_id,
        action=approval.action,
        subject=approval.subject_id,
        arguments=approval.arguments,
        state=approval.state,
        requested_by=approval.requested_by,
        requested_at=approval.requested_at,
        expires_at=approval.expires_at,
        decided_by=approval.decided_by,
        decided_at=approval.decided_at,
        replaces=approval.replaces,
    )
