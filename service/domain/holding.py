"""Actions that wait although their rollout would offer them: for a window, for their user, or for another device.

Only what is scheduled is held; what a device was given it may finish. Time that it is held does not count against a
device. One that asked for nothing in a window waits for the next, until the end of one by which its time-out, from its
first, is over: then it is silent.
"""

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

from protocol.messages import ActionReport, ActionState
from service.domain.action import Action, Hold
from service.domain.errors import ConflictError
from service.domain.timing import Timing
from service.domain.windows import Span

TURN = timedelta(minutes=2)  # that a device has to ask for its release before another of its place is called, too
LONGEST_PASSAGE = timedelta(days=30)  # that an action waits for another rollout to come to its device
SHORTEST_LOOK = timedelta(minutes=10)  # after which it is looked whether it has
_ONE_WAIT = frozenset({Hold.NEXT_WINDOW, Hold.PASSAGE})  # holds that go on in the time from before
_MAY_DEFER = frozenset({ActionState.SCHEDULED, ActionState.OFFERED, ActionState.DOWNLOADING})
_SHARES = 1 << 32


class DeferralRefusedError(ConflictError):
    """A device may not put its update off, or not again."""


def admit(action: Action, span: Span | None, *, now: datetime) -> Action:
    """Return a new action as its device's window lets it begin.

    Args:
        action: its deadline says when its device is silent without windows; what is not scheduled stays as it is.
        span: the device's window that is open or opens next; None without windows.
        now: UTC, aware.
    """
    if span is None or action.state is not ActionState.SCHEDULED:
        return action
    if span.holds(now):
        return replace(action, due_at=span.closes_at)
    return wait_for_window(action, span, hold=Hold.WINDOW)


def wait_for_window(action: Action, span: Span, *, hold: Hold) -> Action:
    """Hold an action until its device's window opens, each device a moment of its own after that.

    Args:
        action: scheduled.
        span: the window.
        hold: `WINDOW`, or `NEXT_WINDOW` where the device let one pass.
    """
    entry = span.entry(_share(action))
    detail = f"its maintenance window opens {span.opens_at:%FT%TZ}; its turn is {entry:%FT%TZ}"
    return replace(action, hold=hold, not_before=entry, place="", due_at=span.closes_at, detail=detail)


def wait_for_place(action: Action, place: str, *, at_work: int, most: int, by: str) -> Action:
    """Hold an action until a device at the same place has ended its update.

    Args:
        action: scheduled.
        place: attribute and value.
        at_work: devices there that are at an update, or have been called to begin one.
        most: that may be.
        by: a device that is, 128 hex digits; empty where none has begun.
    """
    used = f", of which {by[:16]}… is one" if by else ""
    detail = f"{place}: expected fewer than {most} devices at an update at once, found {at_work}{used}"
    return replace(action, hold=Hold.BUDGET, not_before=None, place=place, detail=detail)


def wait_for_passage(action: Action, release: str, *, now: datetime, timeout: timedelta) -> Action | None:
    """Hold an action until a rollout brings its device what it must have first; None where that takes too long.

    It is looked at again from time to time.

    Args:
        action: scheduled.
        release: name of what the device must have first.
        now: UTC, aware.
        timeout: time that the device has then.
    """
    ends_at = action.progressed_at + LONGEST_PASSAGE
    if now >= ends_at:
        return None
    again = min(now + max(SHORTEST_LOOK, (now - action.progressed_at) / 8), ends_at)
    detail = f"release {release} comes first, which a rollout has yet to bring; waits for it to {ends_at:%FT%TZ}"
    return replace(action, hold=Hold.PASSAGE, not_before=again, place="", due_at=again + timeout, detail=detail)


def wait_elsewhere(action: Action, place: str, *, now: datetime) -> Action:
    """Return an action that waits for a place once its device belongs to another one, or to none: then it is called."""
    if not place:
        return replace(action, place="", not_before=now)
    detail = f"{place}: waits for its turn here since {now:%FT%TZ}, before for {action.place}"
    return replace(action, place=place, not_before=None, detail=detail)


def call(action: Action, *, now: datetime) -> Action:
    """Let an action that waits for its place begin, as soon as its rollout's pace does."""
    return replace(action, not_before=now)


def release(action: Action, span: Span | None, *, now: datetime, timeout: timedelta) -> Action:
    """Return a held action whose time has come: its device may have it, or waits for its window.

    Args:
        action: held.
        span: the device's window that is open or opens next; None without windows.
        now: UTC, aware.
        timeout: time that the device has.
    """
    if span is not None and not span.holds(now):
        hold = Hold.NEXT_WINDOW if action.hold in _ONE_WAIT else Hold.WINDOW
        return wait_for_window(action, span, hold=hold)
    since = action.progressed_at if action.hold in _ONE_WAIT else now
    due_at = span.closes_at if span else (now if action.hold is Hold.PASSAGE else since) + timeout
    if action.hold is Hold.BUDGET:
        due_at = min(due_at, now + TURN)
    return replace(action, hold=None, not_before=None, progressed_at=since, due_at=due_at, detail="")


def put_off(action: Action, report: ActionReport, timing: Timing, *, now: datetime, timeout: timedelta) -> Action:
    """Return an action that its device's user puts off; the same object if a later report has said more.

    The device has not run the release, so it counts as one that was not given it yet.

    Raises:
        DeferralRefusedError: the plan does not let it, or the device has begun to install.
    """
    if (
        action.state.is_final
        or report.attempt < action.attempt
        or report.sequence <= action.sequence
        or report.defer_seconds is None
    ):
        return action
    if action.heals:
        raise DeferralRefusedError("deferral: expected an update that may be put off, found one that heals the device")
    limits = timing.deferral
    if limits is None:
        found = "one that is forced" if timing.forced else "one whose plan has no deferral"
        raise DeferralRefusedError(f"deferral: expected an update that may be put off, found {found}")
    if action.deferrals >= limits.most:
        raise DeferralRefusedError(f"deferral: expected at most {limits.most}, found {action.deferrals} before this")
    if action.state not in _MAY_DEFER:
        raise DeferralRefusedError(f"deferral: expected an update that has not begun, found it {action.state}")
    until = now + min(timedelta(seconds=report.defer_seconds), limits.longest)
    deferrals = action.deferrals + 1
    return replace(
        action,
        state=ActionState.SCHEDULED,
        sequence=report.sequence,
        offered=any(each.offered for each in action.past),
        hold=Hold.DEFERRAL,
        not_before=until,
        due_at=until + timeout,
        progressed_at=now,
        place="",
        deferrals=deferrals,
        detail=f"put off to {until:%FT%TZ} by its user, {deferrals} of at most {limits.most} times",
    )


def _share(action: Action) -> float:
    """Return a device's share of the time over which those of a window are let in; not that of its stage."""
    digest = hashlib.sha256(f"{action.rollout_id}:{action.device_id}:window".encode()).digest()
    return int.from_bytes(digest[:4], "big") / _SHARES
