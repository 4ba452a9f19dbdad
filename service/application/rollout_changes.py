"""Storing what the rollout engine decided, with the events that tell of it; every change of a rollout goes this way.

In which order rows are locked is said in `service.application.transactions`.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from service.application.audit import Change
from service.application.disruption_repository import Place
from service.application.events import Event, EventType
from service.application.passages import come_first
from service.application.places import follow_work
from service.application.site_evidence import tell_sites
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.errors import JsonValue
from service.domain.operator import Actor
from service.domain.retries import retried
from service.domain.rollout import Rollout
from service.domain.rollout_evaluation import evaluate, next_look


async def store_rollout(work: UnitOfWork, before: StoredRollout, after: Rollout, *, now: datetime) -> StoredRollout:
    """Let the engine judge a changed rollout and store what it has become.

    Args:
        work: the transaction, which holds the rollout's row.
        before: as it was read in this transaction.
        after: with what has been counted since.
        now: UTC, aware.
    """
    judged = evaluate(after, now)
    kept = replace(judged, verdicts=()) if judged.verdicts else judged
    stored = replace(before, rollout=kept, look_at=next_look(judged, now))
    await work.rollouts.save(stored, before=before)
    if judged.verdicts:
        await work.rollouts.add_verdicts(judged.rollout_id, judged.verdicts, at=now)
    if judged is not before.rollout and _summary(judged) != _summary(before.rollout):
        work.record(await rollout_event(work, judged, str(judged.state), now=now))
    return stored


async def store_step(
    work: UnitOfWork,
    actor: Actor,
    before: StoredRollout,
    after: Rollout,
    *,
    name: str,
    now: datetime,
) -> None:
    """Store what an operator's step made of a rollout, with its audit record."""
    changed = await store_rollout(work, before, after, now=now)
    change = Change(
        f"rollout.{name}",
        after.rollout_id,
        before={"state": str(before.rollout.state)},
        after={"state": str(changed.rollout.state)},
    )
    await work.audit.add(actor, change, at=now)


async def rollout_event(work: UnitOfWork, rollout: Rollout, change: str, *, now: datetime) -> Event:
    """Return the event that tells where a rollout stands, and which releases come before its own."""
    release = await work.releases.get(rollout.release_id)
    first = sorted(await come_first(work, release))
    data = _summary(rollout) | {"release": release.name, "after": list[JsonValue](first)}
    return Event(EventType.ROLLOUT, rollout.rollout_id, change, now, data)


def action_event(action: Action, now: datetime, *, freed: Sequence[Place] = ()) -> Event:
    """Return the event that tells where an action stands.

    Args:
        action: as it is now.
        now: UTC, aware.
        freed: places where its device has ended an update, or was awaited.
    """
    data: dict[str, JsonValue] = {
        "device_id": action.device_id,
        "rollout_id": action.rollout_id,
        "state": str(action.state),
        "is_final": action.state.is_final,
        "is_started": action.is_started,
        "is_independent": action.is_independent,
        "is_held": action.is_held,
        "attempt": action.attempt,
        "hold": str(action.hold) if action.hold is not None and action.is_held else None,
        "stage_index": action.stage_index,
        "order": str(action.order) if action.is_kept else None,
        "cause": None if action.cause is None else str(action.cause),
        "detail": action.detail,
    }
    if freed:
        data["freed"] = [str(place) for place in freed]
    return Event(EventType.ACTION, action.action_id, str(action.state), now, data)


async def store_actions(
    work: UnitOfWork, rollout: Rollout, changes: Sequence[tuple[Action, Action]], *, now: datetime
) -> Rollout:
    """Store changed actions of one rollout, with events, and return the rollout with them counted.

    One that has failed for what the plan tries again is stored in line for its next attempt; both are told. One whose
    next attempt was taken back stays as it had ended.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: of the actions.
        changes: (before, after) of each action; those that are equal are left out.
        now: UTC, aware.
    """
    changed = [
        (before, after, _tried_again(rollout, before, after, now=now)) for before, after in changes if before != after
    ]
    await work.actions.save([last for _, _, last in changed])
    freed = await follow_work(work, [(before, last) for before, _, last in changed])
    for before, after, last in changed:
        rollout = rollout.with_moved(before, last)
        if _stands(before) != _stands(after):
            work.record(action_event(after, now, freed=freed.get(after.action_id, ())))
        if last is not after:
            work.record(action_event(last, now))
    return await tell_sites(work, rollout, [last for _, _, last in changed])


def _tried_again(rollout: Rollout, before: Action, after: Action, *, now: datetime) -> Action:
    conditions = rollout.conditions
    was_taken_back = after.attempt < before.attempt
    if conditions.retries is None or was_taken_back or not rollout.retries(after):
        return after
    return retried(after, now=now, pause=conditions.retries.pause, timeout=conditions.action_timeout)


def _stands(action: Action) -> tuple[object, ...]:
    """Return what of an action others are told."""
    return action.state, action.hold, action.not_before, action.place, action.order


def _summary(rollout: Rollout) -> dict[str, JsonValue]:
    return {
        "state": str(rollout.state),
        "group_id": rollout.group_id,
        "halted_reason": rollout.halted_reason,
        "stages": [str(stage.state) for stage in rollout.stages],
        "orders": [str(order) for order in rollout.orders],
    }
