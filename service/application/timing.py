"""When devices get their release: their maintenance windows, and their turn where few may be at an update at once.

A place is called for in order: the oldest action that waits for it is let in when one there has ended. Whoever is
called and does not ask for its release in time is followed by the next, and may still come. Who comes uncalled leaves
room for those that were.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from service.application.disruption_repository import Place
from service.application.rollout_changes import store_actions, store_rollout
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.action import Action, Bucket, Hold
from service.domain.holding import TURN, call, wait_elsewhere, wait_for_place, wait_for_window
from service.domain.rollout import Rollout
from service.domain.timing import Budget
from service.domain.windows import Span

TIME_ZONE = "time-zone"  # the attribute that names a device's IANA time zone


async def windows_of(
    work: UnitOfWork, rollout: Rollout, device_ids: Collection[str], *, now: datetime
) -> Mapping[str, Span]:
    """Return the maintenance window of each device that is open or opens next; empty without windows."""
    maintenance = rollout.conditions.timing.maintenance
    if not maintenance.windows or not device_ids:
        return {}
    attributes = await work.attributes.of(device_ids)
    zones = {device_id: attributes.get(device_id, {}).get(TIME_ZONE) for device_id in device_ids}
    spans = {zone: span for zone in set(zones.values()) if (span := maintenance.span(now, zone))}
    return {device_id: spans[zone] for device_id, zone in zones.items()}


async def held_back(work: UnitOfWork, rollout: Rollout, action: Action, *, now: datetime) -> Action | None:
    """Return an action as it waits although its device asks for its release; None if the device may have it.

    Whoever gets None holds the device's place until the transaction ends.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: the action's.
        action: scheduled, not held.
        now: UTC, aware.
    """
    if action.heals:
        return None  # a device in quarantine is out of service until it has it
    span = (await windows_of(work, rollout, [action.device_id], now=now)).get(action.device_id)
    if span is not None and not span.holds(now):
        return wait_for_window(action, span, hold=Hold.NEXT_WINDOW)
    budget = rollout.conditions.timing.budget
    place = None if budget is None else await _place(work, budget, action.device_id)
    if budget is None or place is None:
        return None
    await work.disruptions.hold(place)
    most = await _most(work, budget, place)
    at_work = await work.disruptions.at_work(place, limit=most)
    is_called = action.place == str(place)
    called = 0 if is_called else await work.disruptions.called(place, since=now - TURN)
    if len(at_work) + called < most:
        return None
    by = next(iter(at_work), "")
    return wait_for_place(action, str(place), at_work=len(at_work) + called, most=most, by=by)


async def follow_place(work: UnitOfWork, rollout: Rollout, action: Action, *, now: datetime) -> Action:
    """Return an action as it waits once its device's attributes have changed; one at work is at work there, too.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: the action's.
        action: not final.
        now: UTC, aware.
    """
    if action.bucket is Bucket.IN_PROGRESS:
        await work.disruptions.begin([action])
    budget = rollout.conditions.timing.budget
    if not action.is_held or action.hold is not Hold.BUDGET or budget is None:
        return action
    place = await _place(work, budget, action.device_id)
    name = "" if place is None else str(place)
    return action if name == action.place else wait_elsewhere(action, name, now=now)


async def call_next(unit_of_work: UnitOfWorkFactory, places: Iterable[Place], *, now: datetime) -> None:
    """Call as many of those that wait for each place as there is room for; each is a transaction of its own."""
    for place in places:
        while await _called_one(unit_of_work, place, now=now):
            pass


@tried_again
async def _called_one(unit_of_work: UnitOfWorkFactory, place: Place, *, now: datetime) -> bool:
    async with unit_of_work() as work:
        is_called = await _call_one(work, place, now=now)
        if is_called:
            await work.commit()
        return is_called


async def _call_one(work: UnitOfWork, place: Place, *, now: datetime) -> bool:
    waiting = await work.disruptions.waiting(place, limit=1)
    if not waiting:
        return False
    stored = await work.rollouts.get(waiting[0].rollout_id, lock=True)
    action = await work.actions.get(waiting[0].action_id, lock=True)
    budget = stored.rollout.conditions.timing.budget
    if not action.is_held or action.hold is not Hold.BUDGET or budget is None:
        return False  # another process has changed it since, and tells of it
    most = await _most(work, budget, place)
    at_work = await work.disruptions.at_work(place, limit=most)
    if len(at_work) + await work.disruptions.called(place, since=now - TURN) >= most:
        return False
    rollout = await store_actions(work, stored.rollout, [(action, call(action, now=now))], now=now)
    await store_rollout(work, stored, rollout, now=now)
    return True


async def awaited_places(
    work: UnitOfWork, device_ids: Collection[str], *, freed: Collection[Place], resumed: Collection[str]
) -> set[Place]:
    """Return the places that an action waits for.

    Args:
        work: may be read-only.
        device_ids: of devices in whose places something may have changed.
        freed: places where an update has ended.
        resumed: ids of rollouts that run again.
    """
    if not (device_ids or freed or resumed) or not await work.disruptions.is_anybody_waiting():
        return set()
    attributes = await work.attributes.of(device_ids)
    places = {Place(*pair) for values in attributes.values() for pair in values.items()}
    waiting = await work.actions.unfinished(device_ids)
    places |= {*freed, *(Place.parse(action.place) for action in waiting if action.place)}
    return {*await work.disruptions.waited_for(places), *await work.disruptions.waited_for_by(resumed)}


async def _place(work: UnitOfWork, budget: Budget, device_id: str) -> Place | None:
    value = (await work.attributes.of([device_id])).get(device_id, {}).get(budget.group_by)
    return None if value is None else Place(budget.group_by, value)


async def _most(work: UnitOfWork, budget: Budget, place: Place) -> int:
    return budget.most(0 if budget.percent is None else await work.disruptions.members(place))
