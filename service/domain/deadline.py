"""What becomes of an action whose deadline is over.

In this order:
    1. a final action stays;
    2. an action that was not begun is cancelled when its rollout is over or its device may not take it any more;
    3. it waits on while the rollout is paused, the device works on another action, or is to heal by it;
    4. a device that waited through a pause, or through an outage of the service, gets its whole time again;
    5. one whose pause before a retry is over may be given to its device;
    6. otherwise the device is silent, for good.
"""

from dataclasses import replace
from datetime import datetime

from service.domain.action import Action, cancel, time_out
from service.domain.retries import let_go
from service.domain.rollout import Rollout, RolloutState


def at_deadline(
    action: Action,
    rollout: Rollout,
    *,
    now: datetime,
    listening_since: datetime,
    is_eligible: bool,
    is_busy: bool,
) -> Action:
    """Return the action after its deadline.

    Args:
        action: with `due_at` at or before `now`.
        rollout: the action's.
        now: UTC, aware.
        listening_since: since when the service has been up to hear reports, UTC, aware.
        is_eligible: the device may still take the release: attested, in the group, not blocked.
        is_busy: the device works on another rollout's action.
    """
    if action.state.is_final:  # 1
        return action
    if not action.is_started and rollout.has_given_up(action):  # 2
        return cancel(action, f"rollout {rollout.state}", now=now)
    if not action.is_started and not is_eligible:
        return cancel(action, "expected an attested device of the group, found it otherwise", now=now)
    if action.is_held:  # 5
        return let_go(action, now=now, timeout=rollout.conditions.action_timeout)
    waits_since = max(action.progressed_at, listening_since)
    if not action.is_started:
        is_held = rollout.state is RolloutState.PAUSED or is_busy or action.heals  # 3
        waits_since = now if is_held else max(waits_since, rollout.resumed_at or waits_since)
    due_at = waits_since + rollout.conditions.action_timeout
    return replace(action, due_at=due_at) if now < due_at else time_out(action, now)  # 4, 6
