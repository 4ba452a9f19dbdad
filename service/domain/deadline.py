"""What becomes of an action whose deadline is over.

In this order:
    1. a final action stays;
    2. an action that was not begun is cancelled when its rollout is over or its device may not take it any more;
    3. one whose pause before a retry is over may be given to its device; one that is held otherwise waits on;
    4. it waits on while the rollout is paused, the device works on another action or must have that first, is to heal
       by it, or waits with the release for the word to install it;
    5. a device that waited through a pause, or through an outage of the service, gets its whole time again; of outages
       that come often, what they took and as much (`service.domain.listening`);
    6. within its maintenance window a device is not silent, and by the end of it only once its whole time is over;
    7. otherwise the device is silent, for good.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from protocol.messages import ActionState
from service.domain.action import Action, Hold, cancel, time_out
from service.domain.holding import admit, wait_for_window
from service.domain.listening import Listening
from service.domain.retries import let_go
from service.domain.rollout import Rollout, RolloutState
from service.domain.windows import Span


def at_deadline(
    action: Action,
    rollout: Rollout,
    *,
    now: datetime,
    listening: Listening,
    is_eligible: bool,
    is_busy: bool,
    span: Span | None = None,
) -> Action:
    """Return the action after its deadline.

    Args:
        action: with `due_at` at or before `now`.
        rollout: the action's.
        now: UTC, aware.
        listening: when the service has been up to hear reports.
        is_eligible: the device may still take the release: attested, in the group, not blocked.
        is_busy: the device works on another rollout's action, or is to have that first.
        span: the device's maintenance window that is open or opens next; None without windows.
    """
    if action.state.is_final:  # 1
        return action
    has_begun = action.is_started and not action.is_kept
    if not has_begun and rollout.has_given_up(action):  # 2
        return cancel(action, f"rollout {rollout.state}", now=now)
    if not has_begun and not is_eligible:
        return cancel(action, "expected an attested device of the group, found it otherwise", now=now)
    timeout = rollout.conditions.action_timeout
    if action.is_held:  # 3
        return _held_on(action, span, now=now, timeout=timeout)
    waits_since = action.progressed_at
    if not has_begun:
        is_to_heal = action.heals and action.state is ActionState.SCHEDULED
        does_as_told = action.is_waiting and rollout.order_of(action) is action.order
        waits = rollout.state is RolloutState.PAUSED or is_busy or is_to_heal or does_as_told  # 4
        waits_since = now if waits else max(waits_since, rollout.resumed_at or waits_since)
    due_at = listening.due(waits_since, timeout, now=now)  # 5
    if span is not None and action.state is ActionState.SCHEDULED and (span.holds(now) or now < due_at):  # 6
        return _in_window(action, span, now=now, hold=Hold.WINDOW if waits_since == now else Hold.NEXT_WINDOW)
    return replace(action, due_at=due_at) if now < due_at else time_out(action, now)  # 7


def _held_on(action: Action, span: Span | None, *, now: datetime, timeout: timedelta) -> Action:
    if action.hold is Hold.RETRY:
        return admit(let_go(action, now=now, timeout=timeout), span, now=now)
    if span is not None and action.hold in {Hold.WINDOW, Hold.NEXT_WINDOW}:
        return wait_for_window(action, span, hold=action.hold)
    return replace(action, due_at=now + timeout)


def _in_window(action: Action, span: Span, *, now: datetime, hold: Hold) -> Action:
    return replace(action, due_at=span.closes_at) if span.holds(now) else wait_for_window(action, span, hold=hold)
