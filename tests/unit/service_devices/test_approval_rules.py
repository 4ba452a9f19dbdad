"""Requests for two persons: who may decide, when, and that a decision is final."""

from datetime import UTC, datetime, timedelta

import pytest

from service.domain.approval import (
    Approval,
    ApprovalDecidedError,
    ApprovalExpiredError,
    ApprovalState,
    SamePersonError,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PENDING = Approval(
    approval_id="r1",
    action="device.unblock",
    subject_id="a" * 128,
    subject_version=3,
    arguments={},
    requested_by="anna",
    requested_at=NOW,
    expires_at=NOW + DAY,
)


@pytest.mark.parametrize("state", [ApprovalState.APPROVED, ApprovalState.REJECTED, ApprovalState.STALE])
def test_decision_is_final(state: ApprovalState) -> None:
    """Who, when and what stay as they were decided first."""
    decided = PENDING.close(state, by="bob", at=NOW)
    assert (decided.state, decided.decided_by, decided.decided_at) == (state, "bob", NOW)
    for again in ApprovalState:
        with pytest.raises(ApprovalDecidedError, match=f"found it {state}"):
            decided.close(again, by="carl", at=NOW + 2 * DAY)


def test_request_expires_at_its_end() -> None:
    """At the end it is over, a moment before it is not; only the service closes it then."""
    assert PENDING.at(NOW + DAY - timedelta(seconds=1)).state is ApprovalState.PENDING
    assert PENDING.at(NOW + DAY).state is ApprovalState.EXPIRED
    for state in (ApprovalState.APPROVED, ApprovalState.REJECTED, ApprovalState.STALE):
        with pytest.raises(ApprovalExpiredError, match="expected a decision before 2026-01-02"):
            PENDING.close(state, by="bob", at=NOW + DAY)
    assert PENDING.close(ApprovalState.EXPIRED, by="service", at=NOW + DAY).state is ApprovalState.EXPIRED


@pytest.mark.parametrize("name", ["anna", "Anna", "ANNA"])
def test_nobody_approves_their_own_request(name: str) -> None:
    """Neither by another credential nor by another spelling."""
    with pytest.raises(SamePersonError, match="expected another operator than anna"):
        PENDING.check_second_person(name, added_at=NOW - DAY)


def test_nobody_adds_the_second_person_after_the_request() -> None:
    """An admin alone cannot make somebody up to approve."""
    PENDING.check_second_person("bob", added_at=NOW)
    with pytest.raises(SamePersonError, match="found bob added since"):
        PENDING.check_second_person("bob", added_at=NOW + timedelta(microseconds=1))
