"""What moves rollouts beside reports: opening stages, deadlines, devices that join or leave, ends.

Every step is one bounded transaction that leaves a consistent state, so a worker that is killed between two of them
is followed by another that goes on where it stopped. A tick costs what is due, never the fleet; a stage that opens
reads the ids of its own devices, in the rollout's order.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from protocol.messages import ActionState
from service.application.clock import Clock
from service.application.disruption_repository import Place
from service.application.enrolment import enrol
from service.application.entropy import Entropy
from service.application.events import Event, EventType, StoredEvent
from service.application.healing import heal
from service.application.lease_repository import Lease
from service.application.passages import awaiting, is_behind
from service.application.retries import retry_step
from service.application.rollbacks import undo_after_halt
from service.application.rollout_changes import store_actions, store_rollout
from service.application.rollout_members import filters_of, is_member, walk
from service.application.security_events import unheard
from service.application.silence import look_for_silence
from service.application.timing import awaited_places, call_next, follow_place, windows_of
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredRollout
from service.domain.action import Action, Hold, cancel, withdraw
from service.domain.deadline import at_deadline
from service.domain.device import Device, DeviceState
from service.domain.holding import release
from service.domain.listening import Listening
from service.domain.membership import ENROLLED_STATES
from service.domain.rollout import Rollout, RolloutState
from service.domain.stage import Stage, StageState

IDS_PER_STEP = 10_000  # that one step of an opening stage reads, to the end of a bucket
DEVICES_PER_STEP = 500
ACTIONS_PER_STEP = 200
ROLLOUTS_PER_TICK = 50
EVENTS_PER_STEP = 200
COUNTS_PER_STEP = 2000  # changes that devices have brought, of which each has few


@dataclass(frozen=True, slots=True)
class _Due:
    """What a tick finds to do, each part bounded."""

    events: Sequence[StoredEvent]
    rollout_ids: Sequence[str]
    actions: Sequence[Action]


class RolloutTicks:
    """The steps of a tick; only the holder of the lease may call them.

    Args:
        devices_per_step: that one transaction of an opening stage lets in.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        clock: Clock,
        entropy: Entropy,
        devices_per_step: int = DEVICES_PER_STEP,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy
        self._devices_per_step = devices_per_step

    async def tick(self, lease: Lease) -> Lease | None:
        """Do one bounded step of everything that is due.

        Returns:
            The lease with the events that were acted on if there is more to do now, None if there is not.
        """
        due = await self._due(lease.event_sequence)
        if not due.events and not due.rollout_ids and not due.actions:
            return None
        await call_next(self._unit_of_work, await self._free_places(due), now=self._clock.now())
        await self._follow_devices(lease, due.events)
        for rollout_id in due.rollout_ids:
            await self._look_at(rollout_id, listening=lease.listening)
        for rollout_id, actions in _by_rollout(due.actions).items():
            device_ids = {action.device_id for action in actions}
            await self._expire_of(rollout_id, device_ids, listening=lease.listening)
        return replace(lease, event_sequence=due.events[-1].sequence) if due.events else lease

    @tried_again
    async def _look_at(self, rollout_id: str, *, listening: Listening) -> None:
        async with self._unit_of_work() as work:
            await self._look(work, await self._listened(work, rollout_id, listening=listening))
            await work.commit()

    @tried_again
    async def _expire_of(self, rollout_id: str, device_ids: set[str], *, listening: Listening) -> None:
        async with self._unit_of_work() as work:
            stored = await work.rollouts.get(rollout_id, lock=True)
            await self._expire(work, stored, device_ids, listening=listening)
            await work.commit()

    async def _free_places(self, due: _Due) -> set[Place]:
        """Return the places that others wait for where a device may have ended, or was called and did not come."""
        device_ids = {action.device_id for action in due.actions if action.place and not action.is_started}
        device_ids |= {device_id for stored in due.events if (device_id := _whose_place(stored.event))}
        rollouts = (stored.event for stored in due.events if stored.event.type is EventType.ROLLOUT)
        resumed = {event.subject_id for event in rollouts if event.change == RolloutState.RUNNING}
        freed = {place for stored in due.events for place in _freed(stored.event)}
        if not (device_ids or freed or resumed):
            return set()
        async with self._unit_of_work(read_only=True) as work:
            return await awaited_places(work, device_ids, freed=freed, resumed=resumed)

    async def _due(self, event_sequence: int) -> _Due:
        now = self._clock.now()
        async with self._unit_of_work(read_only=True) as work:
            return _Due(
                events=await work.events.after(event_sequence, limit=EVENTS_PER_STEP),
                rollout_ids=await work.rollouts.due(now, limit=ROLLOUTS_PER_TICK),
                actions=await work.actions.due(now, limit=ACTIONS_PER_STEP),
            )

    async def next_look(self) -> datetime | None:
        """Return when the next rollout or deadline is due, UTC, aware; None if nothing is."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.rollouts.next_look()

    @tried_again
    async def _follow_devices(self, lease: Lease, page: Sequence[StoredEvent]) -> None:
        """Act on the changes of devices since the last tick; they count as done with the same commit."""
        if not page:
            return
        changed = {stored.event.subject_id for stored in page if stored.event.type is EventType.DEVICE}
        async with self._unit_of_work() as work:
            changed |= await _updated(work, page)
            await _lock_rollouts(work, changed)
            for device_id in sorted(changed):
                await self._follow_device(work, device_id)
            await work.devices.sum_up_counts(limit=COUNTS_PER_STEP)
            await work.leases.advance(lease.name, lease.owner, page[-1].sequence)
            await work.commit()

    async def _follow_device(self, work: UnitOfWork, device_id: str) -> None:
        device = await work.devices.find(device_id)
        if device is None:
            return
        for found in await work.actions.unfinished([device_id]):
            stored = await work.rollouts.get(found.rollout_id, lock=True)
            # A report may have come since it was found.
            action = await work.actions.get(found.action_id, lock=True)
            if action.state.is_final:
                continue
            now = self._clock.now()
            if await _is_eligible(work, device, action, stored.rollout):
                after = await follow_place(work, stored.rollout, action, now=now)
            else:
                end = cancel if device.state.may_connect else withdraw
                after = end(action, f"device is {device.state} and no longer takes this rollout", now=now)
            if after != action:
                rollout = await store_actions(work, stored.rollout, [(action, after)], now=now)
                await store_rollout(work, stored, rollout, now=now)
        if device.state in ENROLLED_STATES:
            await self._leave(work, device)
            await self._join(work, device)
        if device.state is DeviceState.QUARANTINED:
            await heal(work, device, now=self._clock.now(), entropy=self._entropy)

    async def _leave(self, work: UnitOfWork, device: Device) -> None:
        """Take back what the device was not given yet, where it is no longer of those whom a rollout is for."""
        for found in await work.actions.unfinished([device.device_id]):
            if found.state is not ActionState.SCHEDULED or found.heals:
                continue
            stored = await work.rollouts.get(found.rollout_id, lock=True)
            if stored.rollout.conditions.target is None or await is_member(work, stored.rollout, device.device_id):
                continue
            action = await work.actions.get(found.action_id, lock=True)
            if action.state is ActionState.SCHEDULED:
                now = self._clock.now()
                gone = cancel(action, "the rollout's target no longer matches the device", now=now)
                rollout = await store_actions(work, stored.rollout, [(action, gone)], now=now)
                await store_rollout(work, stored, rollout, now=now)

    async def _join(self, work: UnitOfWork, device: Device) -> None:
        for found in await work.rollouts.of_group(device.group_id):
            if found.rollout.state is RolloutState.DRAFT:
                continue
            stored = await work.rollouts.get(found.rollout.rollout_id, lock=True)
            position = stored.rollout.order.position(device.device_id)
            stage = stored.rollout.stage_at(position, await filters_of(work, stored.rollout, device.device_id))
            known = await work.actions.known(stored.rollout.rollout_id, [device.device_id])
            # A stage that waits, or is being opened, finds the device by itself.
            is_untouched = stage is not None and stage.state is StageState.WAITING and not stage.is_open
            if stage is None or is_untouched or known or stage.will_find(position):
                continue
            if not stored.rollout.state.is_over and await is_member(work, stored.rollout, device.device_id):
                await self._let_in(work, stored, stage, device.device_id)

    async def _let_in(self, work: UnitOfWork, stored: StoredRollout, stage: Stage, device_id: str) -> None:
        """Take a newcomer into a stage that was opened before, inside the rollout's pace."""
        now, rollout = self._clock.now(), stored.rollout
        if not rollout.lends(now):
            # The stage is opened once more, no later than from here on, when the pace allows it.
            reopened = stage.reopened(rollout.order.position(device_id))
            await store_rollout(work, stored, rollout.with_stage(reopened), now=now)
            return
        rollout = await enrol(work, stored, stage.index, [device_id], now=now, entropy=self._entropy)
        let_in = 1 - (rollout.held - stored.rollout.held)
        await store_rollout(work, stored, rollout.paced(let_in, now), now=now)

    async def _listened(self, work: UnitOfWork, rollout_id: str, *, listening: Listening) -> StoredRollout:
        """Return a rollout, locked, once it was looked for what no report tells."""
        stored, now = await work.rollouts.get(rollout_id, lock=True), self._clock.now()
        rollout = await look_for_silence(work, stored.rollout, now=now, listening=listening)
        return stored if rollout is stored.rollout else await store_rollout(work, stored, rollout, now=now)

    async def _look(self, work: UnitOfWork, stored: StoredRollout) -> None:
        now = self._clock.now()
        stage = stored.rollout.opening_stage
        if stored.rollout.is_release_due(now):
            await self._release(work, stored, now=now)
        elif stored.rollout.is_retrying:
            await retry_step(work, stored, now=now)
        elif stage is not None:
            await self._open(work, stored, stage, now=now)
        elif stored.rollout.is_to_be_undone:
            await undo_after_halt(work, stored, now=now, entropy=self._entropy)
        elif stored.rollout.state.is_over:
            await _close(work, stored, now=now)
        else:
            await store_rollout(work, stored, stored.rollout, now=now)

    async def _release(self, work: UnitOfWork, stored: StoredRollout, *, now: datetime) -> None:
        """Let the next of those begin that were held, as fast as the pace lets."""
        rollout, timeout = stored.rollout, stored.rollout.conditions.action_timeout
        limit = min(self._devices_per_step, rollout.allowed(now))
        held = await work.actions.held(rollout.rollout_id, until=now, limit=limit)
        spans = await windows_of(work, rollout, {action.device_id for action in held}, now=now)
        waiting = [await awaiting(work, rollout, each, now=now) if each.hold is Hold.PASSAGE else None for each in held]
        changes = [
            (each, after or release(each, spans.get(each.device_id), now=now, timeout=timeout))
            for each, after in zip(held, waiting, strict=True)
        ]
        rollout = await store_actions(work, rollout, changes, now=now)
        # Who was called to its place has used the pace before.
        let_in = [before for before, after in changes if not after.is_held and before.hold is not Hold.BUDGET]
        held_until = await work.actions.first_held(rollout.rollout_id)
        await store_rollout(work, stored, replace(rollout.paced(len(let_in), now), held_until=held_until), now=now)

    async def _open(self, work: UnitOfWork, stored: StoredRollout, stage: Stage, *, now: datetime) -> None:
        """Give the next members of an opening stage their actions."""
        rollout, index = stored.rollout, stage.index
        limit = min(self._devices_per_step, rollout.allowed(now), stage.room)
        if limit:
            step = await walk(work, rollout, stage, limit=limit, ids_to_read=IDS_PER_STEP)
            rollout = await enrol(work, stored, index, step.new, now=now, entropy=self._entropy)
            rollout = rollout.paced(len(step.new) - (rollout.held - stored.rollout.held), now)
            rollout = rollout.with_stage(
                rollout.stages[index].walked_to(step.position, is_end=step.is_end, elsewhere=step.elsewhere)
            )
        elif not stage.room:
            rollout = rollout.with_stage(stage.walked_to(stage.walked, is_end=False))
        await store_rollout(work, stored, rollout, now=now)

    async def _expire(
        self, work: UnitOfWork, stored: StoredRollout, device_ids: set[str], *, listening: Listening
    ) -> None:
        now = self._clock.now()
        unfinished = await work.actions.unfinished(device_ids)
        busy = {action.device_id: action.action_id for action in unfinished if action.bucket == "in_progress"}
        queues = {device_id: [a for a in unfinished if a.device_id == device_id] for device_id in device_ids}
        changes: list[tuple[Action, Action]] = []
        spans = await windows_of(work, stored.rollout, device_ids, now=now)
        for action in unfinished:
            # Another process may have changed it since it was found due.
            if action.rollout_id != stored.rollout.rollout_id or action.due_at is None or action.due_at > now:
                continue
            device = await work.devices.find(action.device_id)
            after = at_deadline(
                action,
                stored.rollout,
                now=now,
                listening=listening,
                is_eligible=device is not None and await _is_eligible(work, device, action, stored.rollout),
                is_busy=busy.get(action.device_id, action.action_id) != action.action_id
                or await is_behind(work, stored.rollout, queues[action.device_id]),
                span=spans.get(action.device_id),
            )
            changes.append((action, after))
            if device is not None and after.state is ActionState.TIMED_OUT:
                await _tell_if_unheard(work, stored, action, device, now=now)
        rollout = await store_actions(work, stored.rollout, changes, now=now)
        await store_rollout(work, stored, rollout, now=now)


async def _lock_rollouts(work: UnitOfWork, device_ids: Collection[str]) -> None:
    """Lock all that may change with some devices: those that have them, and those that they may join."""
    if not device_ids:
        return
    groups = {device.group_id for device in (await work.devices.find_many(device_ids)).values()}
    of_groups = [each.rollout for group_id in groups for each in await work.rollouts.of_group(group_id)]
    joined = {rollout.rollout_id for rollout in of_groups if rollout.state is not RolloutState.DRAFT}
    has_them = {action.rollout_id for action in await work.actions.unfinished(device_ids)}
    await work.rollouts.lock(joined | has_them)


async def _updated(work: UnitOfWork, page: Sequence[StoredEvent]) -> set[str]:
    """Return devices that have ended an update, where a rollout of their group looks at what devices run."""
    events = [stored.event for stored in page if stored.event.type is EventType.ACTION]
    ended = {str(event.data["device_id"]) for event in events if event.data.get("is_final")}
    devices = await work.devices.find_many(ended) if ended else {}
    groups = {device.group_id for device in devices.values()}
    rollouts = {group: await work.rollouts.of_group(group) for group in groups}
    looking = {group for group, found in rollouts.items() if any(each.rollout.looks_at_images for each in found)}
    return {device_id for device_id, device in devices.items() if device.group_id in looking}


async def _tell_if_unheard(
    work: UnitOfWork, stored: StoredRollout, action: Action, device: Device, *, now: datetime
) -> None:
    release = await work.releases.get(stored.rollout.release_id)
    event = unheard(action, device, release=release.name, now=now)
    if event is not None:
        work.record(event)


async def _close(work: UnitOfWork, stored: StoredRollout, *, now: datetime) -> None:
    """Cancel the next of an ended rollout's actions that no device was given."""
    reason = f"rollout {stored.rollout.state}"
    waiting = await work.actions.scheduled(stored.rollout.rollout_id, limit=ACTIONS_PER_STEP)
    changes = [(action, cancel(action, reason, now=now)) for action in waiting]
    await store_rollout(work, stored, await store_actions(work, stored.rollout, changes, now=now), now=now)


async def _is_eligible(work: UnitOfWork, device: Device, action: Action, rollout: Rollout) -> bool:
    is_healed = action.heals and device.state is not DeviceState.QUARANTINED
    if is_healed and (action.state is ActionState.SCHEDULED or not await _is_passage(work, rollout)):
        return False
    return device.state in ENROLLED_STATES and device.group_id == rollout.group_id


async def _is_passage(work: UnitOfWork, rollout: Rollout) -> bool:
    return (await work.releases.get(rollout.release_id)).must_pass


def _whose_place(event: Event) -> str:
    """Return the device whose place may have room after an event; empty if it says nothing of places."""
    if event.type is EventType.DEVICE:
        return event.subject_id
    waits = event.type is EventType.ACTION and event.data.get("hold") is not None
    return str(event.data["device_id"]) if waits else ""


def _freed(event: Event) -> list[Place]:
    named = event.data.get("freed") if event.type is EventType.ACTION else None
    return [Place.parse(str(name)) for name in named] if isinstance(named, list) else []


def _by_rollout(actions: Iterable[Action]) -> dict[str, list[Action]]:
    found: dict[str, list[Action]] = defaultdict(list)
    for action in actions:
        found[action.rollout_id].append(action)
    return found
