"""Trying again: an action whose device failed goes back in line, with what it failed for kept.

The row stays the same and its attempt rises, so that a late report of an earlier attempt changes nothing. What a
device has failed for once stands for ever in the evidence (`service.domain.rollout_counts`), and so does a model that
disagreed in shadow; a later success counts for the completion of its stage.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from protocol.messages import MAX_DETAIL_CHARACTERS, ActionState, Cause
from service.domain.action import Action, Hold
from service.domain.membership import InvalidPlanError

MAX_ATTEMPTS = 16  # of one device at one action, those that an operator asks for included
_ENDED_BADLY = frozenset({ActionState.FAILED, ActionState.REVERTED, ActionState.TIMED_OUT, ActionState.CANCELLED})


@dataclass(frozen=True, slots=True)
class Retries:
    """Which failures are tried again by themselves.

    Attributes:
        most: further attempts of one device.
        pause: between a failure and the next attempt.
        causes: of the failures; a device that reverted never tries again by itself.
    """

    most: int
    pause: timedelta
    causes: frozenset[Cause]

    def __post_init__(self) -> None:
        if not 1 <= self.most < MAX_ATTEMPTS:
            raise InvalidPlanError(f"retries: expected 1 to {MAX_ATTEMPTS - 1}, found {self.most}")

    def apply_to(self, action: Action) -> bool:
        """Whether an action that has just ended is tried again."""
        is_of_device = action.state in {ActionState.FAILED, ActionState.TIMED_OUT} and not action.heals
        return is_of_device and action.cause in self.causes and action.attempt <= self.most


def may_be_retried(action: Action) -> bool:
    """Whether an operator may have the device try again."""
    return action.state in _ENDED_BADLY and not action.heals and action.attempt < MAX_ATTEMPTS


def retried(action: Action, *, now: datetime, pause: timedelta, timeout: timedelta) -> Action:
    """Return an ended action in line again.

    Args:
        action: final, and not confirmed.
        now: UTC, aware.
        pause: that its device waits.
        timeout: time that it has then.
    """
    not_before = now + pause if pause else None
    return replace(
        action,
        past=action.attempts,
        state=ActionState.SCHEDULED,
        sequence=-1,
        cause=None,
        detail=f"attempt {action.attempt + 1}, after: {action.detail}"[:MAX_DETAIL_CHARACTERS],
        progressed_at=now,
        not_before=not_before,
        hold=Hold.RETRY if pause else None,
        place="",
        due_at=not_before or now + timeout,
        shadow=None,
        agrees=None,
    )


def let_go(action: Action, *, now: datetime, timeout: timedelta) -> Action:
    """Return an action whose pause is over: its device may have it, and has its whole time."""
    return replace(action, hold=None, not_before=None, progressed_at=now, due_at=now + timeout)
