"""One device's part in a rollout, driven by its reports and its deadline.

Monotonic and idempotent: states only advance in the order of `ActionState`, a final state never changes, and a
report that arrives twice, late or out of order changes nothing that a later one has said. Success is the confirmed
digest: a device that says CONFIRMED but runs other bytes than the release's has failed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from protocol.geometry import Slot
from protocol.messages import MAX_DETAIL_CHARACTERS, ActionReport, ActionState, Cause
from protocol.shadow import ShadowCounts
from protocol.updates import Order
from service.domain.errors import InvalidError, NotFoundError

_RANK = {state: rank for rank, state in enumerate(ActionState)}
_REPORTABLE = frozenset(
    {
        ActionState.DOWNLOADING,
        ActionState.DOWNLOADED,
        ActionState.SHADOWING,
        ActionState.INSTALLING,
        ActionState.TRIAL,
        ActionState.CONFIRMED,
        ActionState.REVERTED,
        ActionState.FAILED,
    }
)
# Failures that say something of the image itself, however few devices have it (rollout-gates, rule 3).
_RULED_CAUSES = frozenset({Cause.BOOT, Cause.GOLDEN_VECTORS})


class InvalidReportError(InvalidError):
    """A device reports what only the service may say."""


class UnknownActionError(NotFoundError):
    """There is no action of this id, or it is another device's."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an earlier attempt at an action ended.

    Attributes:
        state: final.
        offered: whether the device had been given the release by then.
        shadow, agrees: of the action by then.
    """

    state: ActionState
    cause: Cause | None
    detail: str
    ended_at: datetime
    offered: bool
    shadow: ShadowCounts | None = None
    agrees: bool | None = None

    @property
    def blame(self) -> Cause | None:
        """What it failed for, or None; a device that reverts and does not say why did not start."""
        return (self.cause or Cause.BOOT) if self.state.is_failure else None

    @property
    def is_ruled(self) -> bool:
        """Whether it is a failure that says something of the image itself."""
        return self.state is ActionState.REVERTED or (self.state.is_failure and self.cause in _RULED_CAUSES)


class Bucket(StrEnum):
    """Where an action is counted in its stage."""

    SCHEDULED = "scheduled"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Hold(StrEnum):
    """What an action that is scheduled waits for before its device may have it."""

    RETRY = "retry"  # the pause before its next attempt; it keeps its place in the pace
    WINDOW = "window"  # the device's first maintenance window
    NEXT_WINDOW = "next-window"  # another one: the device did not ask in the last
    DEFERRAL = "deferral"  # its user put it off
    BUDGET = "budget"  # another device at the same place is to end its update
    PASSAGE = "passage"  # a rollout is to bring a release that the device must pass through


@dataclass(frozen=True, slots=True)
class Action:
    """One device's part in a rollout.

    Attributes:
        stage_index: the stage that holds the device, from 0.
        sequence: of the last report that counted; -1 before the first.
        cause: why it failed or was reverted.
        detail: what was expected and found, for an operator.
        progressed_at: when the state last advanced, UTC, aware.
        due_at: when it times out, UTC, aware; None once final.
        offered: whether the device was ever given the release.
        heals: whether it brings a quarantined device what a rollout that has finished brought its group.
        past: how earlier attempts ended, oldest first.
        hold: what it waits for while it is scheduled, or None.
        not_before: until when it does, UTC, aware; None where no clock ends it.
        place: attribute and value, as in `site=harbour-3`, whose disruption budget it waits for or has last asked.
        deferrals: how often the device's user has put it off.
        order: what the device was last told to do with the release.
        shadow: what this attempt's comparison came to, or None.
        agrees: whether that is within the plan's tolerance; None before there is anything to judge.
    """

    action_id: str
    rollout_id: str
    device_id: str
    stage_index: int
    state: ActionState
    progressed_at: datetime
    due_at: datetime | None
    sequence: int = -1
    cause: Cause | None = None
    detail: str = ""
    offered: bool = False
    heals: bool = False
    past: tuple[Attempt, ...] = ()
    hold: Hold | None = None
    not_before: datetime | None = None
    place: str = ""
    deferrals: int = 0
    order: Order = Order.INSTALL
    shadow: ShadowCounts | None = None
    agrees: bool | None = None

    @property
    def attempt(self) -> int:
        """Which attempt it is, from 1."""
        return len(self.past) + 1

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt that has ended."""
        if not self.state.is_final:
            return self.past
        return (*self.past, self._as_attempt())

    def _as_attempt(self) -> Attempt:
        return Attempt(self.state, self.cause, self.detail, self.progressed_at, self.offered, self.shadow, self.agrees)

    @property
    def _comparisons(self) -> tuple[bool | None, ...]:
        return (self.agrees, *(each.agrees for each in self.past))

    @property
    def has_disagreed(self) -> bool:
        """Whether its model in shadow did not answer as it is to at any attempt."""
        return False in self._comparisons

    @property
    def has_agreed(self) -> bool:
        """Whether its model in shadow has answered as it is to, and never otherwise."""
        return True in self._comparisons and not self.has_disagreed

    @property
    def has_broken(self) -> bool:
        """Whether its model in shadow crashed, hung or did not start at any attempt."""
        shadows = (self.shadow, *(each.shadow for each in self.past))
        return any(shadow is not None and bool(shadow.failure) for shadow in shadows)

    @property
    def blames(self) -> frozenset[Cause]:
        """What the device has failed for in any attempt since it was first given the release."""
        return frozenset(each.blame for each in self.attempts if each.offered and each.blame)

    @property
    def failed_at(self) -> datetime | None:
        """When the device first failed, UTC, aware; None if it never has."""
        return next((each.ended_at for each in self.attempts if each.blame), None)

    @property
    def all_blames(self) -> frozenset[Cause]:
        """What the device has failed for in any attempt, those before it was given the release included."""
        return frozenset(each.blame for each in self.attempts if each.blame)

    @property
    def is_held(self) -> bool:
        """Whether its device may not have it yet."""
        return self.hold is not None and self.state is ActionState.SCHEDULED

    @property
    def leaves_the_pace(self) -> bool:
        """Whether it is held, and let in anew by its rollout's pace once its time has come."""
        return self.is_held and self.hold is not Hold.RETRY

    @property
    def bucket(self) -> Bucket:
        """Where the action is counted."""
        if self.state is ActionState.SCHEDULED:
            return Bucket.SCHEDULED
        if self.state is ActionState.CONFIRMED:
            return Bucket.SUCCEEDED
        if self.state is ActionState.CANCELLED:
            return Bucket.CANCELLED
        return Bucket.FAILED if self.state.is_failure else Bucket.IN_PROGRESS

    @property
    def is_started(self) -> bool:
        """Whether the device has reported that it works on it."""
        return _RANK[self.state] > _RANK[ActionState.OFFERED]

    @property
    def is_independent(self) -> bool:
        """Whether the device may have it whatever becomes of its rollout: it has begun to install, or heals by it."""
        return self.heals or (self.is_started and self.order is Order.INSTALL)

    @property
    def is_kept(self) -> bool:
        """Whether the device was given the release, and not to install: it still runs what it ran."""
        is_given = self.state is not ActionState.SCHEDULED and not self.state.is_final
        return is_given and self.order is not Order.INSTALL

    @property
    def is_waiting(self) -> bool:
        """Whether the device has done what it was told and waits for the next word."""
        return self.state is ActionState.DOWNLOADED or (self.state is ActionState.SHADOWING and self.shadow is not None)

    @property
    def halts_small_stage(self) -> bool:
        """Whether it has a failure that halts a stage which is too small for a test, at any attempt."""
        return any(each.is_ruled for each in self.attempts)


def offer(action: Action, now: datetime, *, timeout: timedelta, order: Order = Order.INSTALL) -> Action:
    """Record that the device was given the release, and what it is to do with it; no change once it was told so."""
    if action.state is ActionState.SCHEDULED:
        action = replace(action, state=ActionState.OFFERED, progressed_at=now, offered=True, not_before=None)
    elif action.state.is_final or action.order is order:
        return action
    return replace(action, order=order, due_at=now + timeout)


def confirm_without_work(action: Action, now: datetime) -> Action:
    """End an action whose device runs the release already, before it is given it once more."""
    detail = "the device runs the release already"
    return replace(action, state=ActionState.CONFIRMED, cause=None, detail=detail, progressed_at=now, due_at=None)


def refuse(action: Action, unmet: Sequence[str], *, now: datetime) -> Action:
    """End an action before its device is given the release: the images that would run together cannot work.

    Args:
        action: not given to its device yet.
        unmet: what each image lacks, expected and found; at least one.
        now: UTC, aware.
    """
    detail = "; ".join(unmet)[:MAX_DETAIL_CHARACTERS]
    return replace(
        action, state=ActionState.FAILED, cause=Cause.REQUIREMENT, detail=detail, progressed_at=now, due_at=None
    )


def apply_report(
    action: Action,
    report: ActionReport,
    expected_digests: Mapping[Slot, str],
    *,
    now: datetime,
    timeout: timedelta,
    tolerated: float = 0.0,
) -> Action:
    """Return the action after a report; the same object if the report changes nothing, or is of an earlier attempt.

    Args:
        action: as it stands.
        report: of the action's device; the caller has checked that.
        expected_digests: SHA-256 of the release's image in each slot that it changes.
        now: UTC, aware.
        timeout: time to the next report after each advance.
        tolerated: share of the frames that a model in shadow may answer otherwise than the one that it is to replace.

    Raises:
        InvalidReportError: a state that only the service sets.
    """
    if report.state not in _REPORTABLE:
        raise InvalidReportError(f"report: expected one of {sorted(_REPORTABLE)}, found {report.state}")
    if action.state.is_final or report.attempt < action.attempt:
        return action
    if report.state.is_final:
        return _finish(action, report, expected_digests, now)
    is_result = report.shadow is not None and action.shadow is None and action.state is report.state
    if report.sequence <= action.sequence or (_RANK[report.state] <= _RANK[action.state] and not is_result):
        return action
    return replace(
        action,
        shadow=report.shadow or action.shadow,
        agrees=action.agrees if report.shadow is None else _agrees(report.shadow, tolerated),
        state=report.state,
        sequence=report.sequence,
        detail=report.detail,
        progressed_at=now,
        due_at=now + timeout,
        offered=True,
        hold=None,
        not_before=None,
    )


def _agrees(shadow: ShadowCounts, tolerated: float) -> bool:
    """Whether a device's candidate ran to the end and answered as the incumbent did, but for a tolerated share."""
    return not shadow.failure and shadow.differs <= tolerated


def _finish(action: Action, report: ActionReport, expected_digests: Mapping[Slot, str], now: datetime) -> Action:
    state, cause, detail = report.state, report.cause, report.detail
    if state is ActionState.CONFIRMED:
        cause = None
        wrong = wrong_digests(report.digests, expected_digests)
        if wrong:
            state, cause, detail = ActionState.FAILED, Cause.VERIFY, wrong
    return replace(
        action,
        state=state,
        sequence=max(report.sequence, action.sequence),
        cause=cause,
        detail=detail,
        progressed_at=now,
        due_at=None,
        offered=True,
        not_before=None,
    )


def wrong_digests(found: Mapping[Slot, str], expected: Mapping[Slot, str]) -> str:
    """Return the first slot that runs other bytes than the release's, as text; empty if there is none."""
    for slot, digest in expected.items():
        if found.get(slot) != digest:
            return f"{slot}: expected digest {digest[:12]}…, found {(found.get(slot) or 'none')[:12]}"
    return ""


def time_out(action: Action, now: datetime) -> Action:
    """End an unfinished action as silent: no report before its deadline."""
    if action.state.is_final:
        return action
    detail = f"expected a report within the time-out, last heard {action.state} at {action.progressed_at:%FT%TZ}"
    return replace(
        action, state=ActionState.TIMED_OUT, cause=Cause.SILENT, detail=detail, progressed_at=now, due_at=None
    )


def withdraw(action: Action, reason: str, *, now: datetime) -> Action:
    """End an action whose device was shut out, begun or not: it can report no more, and its silence is no failure.

    One that only waits to be tried again ends as it had ended before.
    """
    if action.state.is_final:
        return action
    if action.state is ActionState.SCHEDULED and action.past:
        last = action.past[-1]
        detail = f"{last.detail}; not tried again: {reason}"[:MAX_DETAIL_CHARACTERS]
        ended = replace(action, state=last.state, cause=last.cause, detail=detail, past=action.past[:-1])
        ended = replace(ended, shadow=last.shadow, agrees=last.agrees)
        return replace(ended, progressed_at=last.ended_at, due_at=None, not_before=None)
    return replace(action, state=ActionState.CANCELLED, detail=reason, progressed_at=now, due_at=None)


def cancel(action: Action, reason: str, *, now: datetime) -> Action:
    """Cancel an action that the device has not begun to install; no change once it has."""
    return action if action.is_started and not action.is_kept else withdraw(action, reason, now=now)
