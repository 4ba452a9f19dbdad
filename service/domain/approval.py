"""Approvals: what one operator asked for and another one must agree to before it is done.

A request is pending until one other person decides, or until its time is over; every state but `pending` is final.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from service.domain.errors import ConflictError, ForbiddenError, JsonValue, NotFoundError


class UnknownApprovalError(NotFoundError):
    """There is no such request."""


class SamePersonError(ForbiddenError):
    """The one who asked, or who was added after the request, would approve it."""


class ApprovalDecidedError(ConflictError):
    """The request was approved, rejected or closed before."""


class ApprovalExpiredError(ConflictError):
    """Nobody decided in time."""


class ApprovalState(StrEnum):
    """Where a request stands."""

    PENDING = "pending"
    APPROVED = "approved"  # and done in the same transaction
    REJECTED = "rejected"
    EXPIRED = "expired"  # nobody decided in time
    STALE = "stale"  # what it was about changed meanwhile, or the one who asked may no longer do it


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for an action that takes two persons.

    Attributes:
        approval_id: GUID.
        action: name of the action, e.g. `device.unblock`.
        subject_id: what it is about, e.g. a device id.
        subject_version: version of the subject that the one who asked saw.
        arguments: what the action is to be done with; JSON.
        requested_by: name of the operator who asked.
        expires_at: UTC; nobody can approve it at or after this time.
        decided_by: name of the operator who approved or rejected, or `service`; None while it is pending.
        replaces: id of an earlier request for the same, which had become stale; None for most.
    """

    approval_id: str
    action: str
    subject_id: str
    subject_version: int
    arguments: Mapping[str, JsonValue]
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    state: ApprovalState = ApprovalState.PENDING
    decided_by: str | None = None
    decided_at: datetime | None = None
    replaces: str | None = None

    def at(self, now: datetime) -> "Approval":
        """Return the request as it stands at a time: pending beyond its end is expired."""
        if self.state is ApprovalState.PENDING and now >= self.expires_at:
            return replace(self, state=ApprovalState.EXPIRED)
        return self

    def close(self, state: ApprovalState, *, by: str, at: datetime) -> "Approval":
        """Return the request decided.

        Raises:
            ApprovalDecidedError: it is no longer pending.
            ApprovalExpiredError: its time is over, and it is not closed as expired.
        """
        found = self.at(at).state
        if found is ApprovalState.EXPIRED and state is not ApprovalState.EXPIRED:
            raise ApprovalExpiredError(
                f"approval: expected a decision before {self.expires_at:%FT%TZ}, found {at:%FT%TZ}"
            )
        if self.state is not ApprovalState.PENDING:
            raise ApprovalDecidedError(f"approval: expected a pending request, found it {self.state}")
        return replace(self, state=state, decided_by=by, decided_at=at)

    def check_second_person(self, name: str, *, added_at: datetime) -> None:
        """Let another person than the one who asked pass.

        Names are compared without case; a token and a client certificate of one name are one person. An operator who
        was added after the request cannot approve it, so that nobody makes the second person that a request lacks.

        Args:
            name: of the operator who would approve.
            added_at: when that operator was added, UTC.

        Raises:
            SamePersonError: it is the same person, or one who was added since.
        """
        if name.casefold() == self.requested_by.casefold():
            raise SamePersonError(f"approval: expected another operator than {self.requested_by}, found the same")
        if added_at > self.requested_at:
            raise SamePersonError(f"approval: expected an operator from before the request, found {name} added since")
