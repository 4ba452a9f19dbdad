"""What moves rollouts beside reports: opening stages, deadlines, devices that join or leave, ends.

Every step is one bounded transaction that leaves a consistent state, so a worker that is killed between two of them
is followed by another that goes on where it stopped. A tick costs what is due, never the fleet; only the opening of a
stage reads the group's ids, `members_per_step` at a time, because a device's stage is a hash that no index holds.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil

from protocol.messages import ActionState
from service.application.clock import Clock
from service.application.enrolment import enrol
from service.application.entropy import Entropy
from service.application.events import EventType, StoredEvent
from service.application.healing import heal
from service.application.retries import retry_step
from service.application.rollbacks import undo_after_halt
from service.application.rollout_changes import store_actions, store_rollout
from service.application.rollout_members import is_member, members_of
from service.application.security_events import unheard
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import Lease, StoredRollout
from service.domain.action import Action, cancel, withdraw
from service.domain.deadline import at_deadline
from service.domain.device import Device, DeviceState
from service.domain.membership import ENROLLED_STATES, MAX_POSITION, position_of
from service.domain.rollout import Rollout, RolloutState, Stage, StageState

MEMBERS_PER_STEP = 10_000
FEWEST_MEMBERS = 50
ACTIONS_PER_OPENING = 500
ACTIONS_PER_STEP = 200
ROLLOUTS_PER_TICK = 50
EVENTS_PER_STEP = 200


@dataclass(frozen=True, slots=True)
class _Due:
    """What a tick finds to do, each part bounded."""

    events: Sequence[StoredEvent]
    rollout_ids: Sequence[str]
    actions: Sequence[Action]


class RolloutTicks:
    """The steps of a tick; only the holder of the lease may call them.

    Args:
        members_per_step: ids of a group that one transaction of an opening stage reads.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        clock: Clock,
        entropy: Entropy,
        members_per_step: int = MEMBERS_PER_STEP,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy
        self._members_per_step = members_per_step

    async def tick(self, lease: Lease) -> Lease | None:
        """Do one bounded step of everything that is due.

        Returns:
            The lease with the events that were acted on if there is more to do now, None if there is not.
        """
        due = await self._due(lease.event_sequence)
        if not due.events and not due.rollout_ids and not due.actions:
            return None
        await self._follow_devices(lease, due.events)
        for rollout_id in due.rollout_ids:
            async with self._unit_of_work() as work:
                await self._look(work, await work.rollouts.get(rollout_id, lock=True))
                await work.commit()
        for rollout_id, actions in _by_rollout(due.actions).items():
            async with self._unit_of_work() as work:
                stored = await work.rollouts.get(rollout_id, lock=True)
                device_ids = {action.device_id for action in actions}
                await self._expire(work, stored, device_ids, listening_since=lease.listening_since)
                await work.commit()
        return replace(lease, event_sequence=due.events[-1].sequence) if due.events else lease

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

    async def _follow_devices(self, lease: Lease, page: Sequence[StoredEvent]) -> None:
        """Act on the changes of devices since the last tick; they count as done with the same commit."""
        if not page:
            return
        changed = {stored.event.subject_id for stored in page if stored.event.type is EventType.DEVICE}
        async with self._unit_of_work() as work:
            for device_id in sorted(changed):
                await self._follow_device(work, device_id)
            await work.leases.advance(lease.name, page[-1].sequence)
            await work.commit()

    async def _follow_device(self, work: UnitOfWork, device_id: str) -> None:
        device = await work.devices.find(device_id)
        if device is None:
            return
        for found in await work.actions.unfinished([device_id]):
            stored = await work.rollouts.get(found.rollout_id, lock=True)
            # A report may have come since it was found.
            action = await work.actions.get(found.action_id, lock=True)
            if not action.state.is_final and not _is_eligible(device, action, stored.rollout):
                now = self._clock.now()
                end = cancel if device.state.may_connect else withdraw
                gone = end(action, f"device is {device.state} and no longer takes this rollout", now=now)
                rollout = await store_actions(work, stored.rollout, [(action, gone)], now=now)
                await store_rollout(work, stored, rollout, now=now)
        if device.state in ENROLLED_STATES:
            await self._join(work, device)
        if device.state is DeviceState.QUARANTINED:
            await heal(work, device, now=self._clock.now(), entropy=self._entropy)

    async def _join(self, work: UnitOfWork, device: Device) -> None:
        for found in await work.rollouts.of_group(device.group_id):
            if found.rollout.state is RolloutState.DRAFT:
                continue
            stored = await work.rollouts.get(found.rollout.rollout_id, lock=True)
            stage = stored.rollout.stage_at(position_of(stored.rollout.rollout_id, device.device_id))
            known = await work.actions.known(stored.rollout.rollout_id, [device.device_id])
            # A stage that waits, or is being opened, finds the device by itself.
            if stage is None or stage.state is StageState.WAITING or known or _will_be_found(stored, stage, device):
                continue
            if not stored.rollout.state.is_over and await is_member(work, stored.rollout, device.device_id):
                await self._let_in(work, stored, stage, device.device_id)

    async def _let_in(self, work: UnitOfWork, stored: StoredRollout, stage: Stage, device_id: str) -> None:
        """Take a newcomer into a stage that was opened before, inside the rollout's pace."""
        now, rollout = self._clock.now(), stored.rollout
        if not rollout.lends(now):
            # The stage is opened once more, no later than from here on, when the pace allows it.
            reopened = rollout.with_stage(replace(stage, is_open=False))
            cursor = _cursor_before(stored, stage, device_id)
            await store_rollout(work, stored, reopened, now=now, opening_cursor=cursor)
            return
        rollout = await enrol(work, stored, stage.index, [device_id], now=now, entropy=self._entropy)
        await store_rollout(work, stored, rollout.paced(1, now), now=now)

    async def _look(self, work: UnitOfWork, stored: StoredRollout) -> None:
        now = self._clock.now()
        stage = stored.rollout.opening_stage
        if stored.rollout.is_retrying:
            await retry_step(work, stored, now=now)
        elif stage is not None:
            await self._open(work, stored, stage, now=now)
        elif stored.rollout.is_to_be_undone:
            await undo_after_halt(work, stored, now=now, entropy=self._entropy)
        elif stored.rollout.state.is_over:
            await _close(work, stored, now=now)
        else:
            await store_rollout(work, stored, stored.rollout, now=now)

    async def _open(self, work: UnitOfWork, stored: StoredRollout, stage: Stage, *, now: datetime) -> None:
        """Give the next members of an opening stage their actions."""
        rollout = stored.rollout
        batch = min(ACTIONS_PER_OPENING, rollout.allowed(now))
        if not batch:
            await store_rollout(work, stored, rollout, now=now)
            return
        limit = _ids_to_read(stage, batch, most=self._members_per_step)
        members = await members_of(work, rollout, after_id=stored.opening_cursor, limit=limit)
        held = [id_ for id_ in members if position_of(rollout.rollout_id, id_) <= stage.threshold]
        wanted = held[:batch]
        known = await work.actions.known(rollout.rollout_id, wanted)
        new = _within_cap(stage, [device_id for device_id in wanted if device_id not in known])
        rollout = await enrol(work, stored, stage.index, new, now=now, entropy=self._entropy)
        rollout = rollout.paced(len(new), now)
        cursor = _next_cursor(members, held, batch=batch, limit=limit)
        if not cursor:
            rollout = rollout.with_stage(replace(rollout.stages[stage.index], is_open=True))
        await store_rollout(work, stored, rollout, now=now, opening_cursor=cursor)

    async def _expire(
        self, work: UnitOfWork, stored: StoredRollout, device_ids: set[str], *, listening_since: datetime
    ) -> None:
        now = self._clock.now()
        unfinished = await work.actions.unfinished(device_ids)
        busy = {action.device_id: action.action_id for action in unfinished if action.bucket == "in_progress"}
        changes: list[tuple[Action, Action]] = []
        for action in unfinished:
            # Another process may have changed it since it was found due.
            if action.rollout_id != stored.rollout.rollout_id or action.due_at is None or action.due_at > now:
                continue
            device = await work.devices.find(action.device_id)
            after = at_deadline(
                action,
                stored.rollout,
                now=now,
                listening_since=listening_since,
                is_eligible=device is not None and _is_eligible(device, action, stored.rollout),
                is_busy=busy.get(action.device_id, action.action_id) != action.action_id,
            )
            changes.append((action, after))
            if device is not None and after.state is ActionState.TIMED_OUT:
                await _tell_if_unheard(work, stored, action, device, now=now)
        rollout = await store_actions(work, stored.rollout, changes, now=now)
        await store_rollout(work, stored, rollout, now=now)


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


def _ids_to_read(stage: Stage, batch: int, *, most: int) -> int:
    """Return how many ids likely hold as many members of a stage as may be let in: a slow pace reads few at a time."""
    share = (stage.threshold + 1) / (MAX_POSITION + 1)
    return most if share == 0 else min(most, max(FEWEST_MEMBERS, ceil(2 * batch / share)))


def _next_cursor(members: Sequence[str], held: Sequence[str], *, batch: int, limit: int) -> str:
    """Return the last device that a step of an opening stage has dealt with; empty if it was the group's last."""
    if len(held) > batch:
        return held[batch - 1]
    return members[-1] if len(members) == limit else ""


def _cursor_before(stored: StoredRollout, stage: Stage, device_id: str) -> str:
    """Return from where on the first unopened stage is to look, so that one which is opened again finds a device."""
    opening = next((s for s in stored.rollout.stages if s.state is not StageState.WAITING and not s.is_open), None)
    if opening is None or opening.index > stage.index:
        return device_id[:-1]
    return stored.opening_cursor if opening.index < stage.index else min(stored.opening_cursor, device_id[:-1])


def _will_be_found(stored: StoredRollout, stage: Stage, device: Device) -> bool:
    return stage == stored.rollout.opening_stage and device.device_id > stored.opening_cursor


def _is_eligible(device: Device, action: Action, rollout: Rollout) -> bool:
    states = {DeviceState.QUARANTINED} if action.heals else ENROLLED_STATES
    return device.state in states and device.group_id == rollout.group_id


def _within_cap(stage: Stage, device_ids: Sequence[str]) -> Sequence[str]:
    if stage.cut is None or not stage.cut.is_capped:
        return device_ids
    return device_ids[: max(0, stage.cut.planned - stage.counts.size)]


def _by_rollout(actions: Iterable[Action]) -> dict[str, list[Action]]:
    found: dict[str, list[Action]] = defaultdict(list)
    for action in actions:
        found[action.rollout_id].append(action)
    return found
