"""Requests that wait for a second person, in the control database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.identity_tables import approvals
from service.adapters.database.upsert import insert_into
from service.domain.approval import Approval, ApprovalState, UnknownApprovalError


class SqlApprovals:
    """Implements `ApprovalRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, approval: Approval) -> bool:
        """See `ApprovalRepository.add`."""
        values = {
            "approval_id": approval.approval_id,
            "action": approval.action,
            "subject_id": approval.subject_id,
            "parameters": {
                "version": approval.subject_version,
                "arguments": dict(approval.arguments),
                "replaces": approval.replaces,
            },
            "requested_by": approval.requested_by,
            "requested_at": approval.requested_at,
            "expires_at": approval.expires_at,
            "state": approval.state,
        }
        added = insert_into(self._connection, approvals).values(values).on_conflict_do_nothing()
        return (await self._connection.execute(added)).rowcount == 1

    async def get(self, approval_id: str) -> Approval:
        """See `ApprovalRepository.get`."""
        query = select(approvals).where(approvals.c.approval_id == approval_id)
        row = (await self._connection.execute(query)).first()
        if row is None:
            raise UnknownApprovalError(f"approval: expected an id in use, found {approval_id[:36]!r}")
        return _approval(row)

    async def pending_on(self, action: str, subject_id: str) -> Approval | None:
        """See `ApprovalRepository.pending_on`."""
        query = select(approvals).where(
            approvals.c.state == ApprovalState.PENDING,
            approvals.c.action == action,
            approvals.c.subject_id == subject_id,
        )
        row = (await self._connection.execute(query.limit(1))).first()
        return None if row is None else _approval(row)

    async def close(self, approval: Approval) -> bool:
        """See `ApprovalRepository.close`."""
        closed = (
            update(approvals)
            .where(approvals.c.approval_id == approval.approval_id, approvals.c.state == ApprovalState.PENDING)
            .values(state=approval.state, decided_by=approval.decided_by, decided_at=approval.decided_at)
        )
        return (await self._connection.execute(closed)).rowcount == 1

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Approval]:
        """See `ApprovalRepository.expired`."""
        query = (
            select(approvals)
            .where(approvals.c.state == ApprovalState.PENDING, approvals.c.expires_at <= now)
            .order_by(approvals.c.requested_at)
            .limit(limit)
        )
        return [_approval(row) for row in await self._connection.execute(query)]

    async def forget(self, *, decided_before: datetime) -> None:
        """See `ApprovalRepository.forget`."""
        closed = approvals.c.state != ApprovalState.PENDING
        await self._connection.execute(delete(approvals).where(closed, approvals.c.decided_at < decided_before))

    async def page(
        self, *, before: tuple[datetime, str] | None, limit: int, pending_at: datetime | None = None
    ) -> Sequence[Approval]:
        """See `ApprovalRepository.page`."""
        order = (approvals.c.requested_at.desc(), approvals.c.approval_id.desc())
        query = select(approvals).order_by(*order).limit(limit)
        if before is not None:
            query = query.where(tuple_(approvals.c.requested_at, approvals.c.approval_id) < tuple_(*before))
        if pending_at is not None:
            query = query.where(approvals.c.state == ApprovalState.PENDING, approvals.c.expires_at > pending_at)
        return [_approval(row) for row in await self._connection.execute(query)]


def _approval(row: Row[Any]) -> Approval:
    return Approval(
        approval_id=row.approval_id,
        action=row.action,
        subject_id=row.subject_id,
        subject_version=row.parameters["version"],
        arguments=row.parameters["arguments"],
        requested_by=row.requested_by,
        requested_at=row.requested_at,
        expires_at=row.expires_at,
        state=ApprovalState(row.state),
        decided_by=row.decided_by,
        decided_at=row.decided_at,
        replaces=row.parameters.get("replaces"),
    )
