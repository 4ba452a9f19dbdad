"""Taking what devices say of their models: their last window and past, and the evidence of rollouts that it moves.

A batch is one transaction: windows, evidence and what the gates count are stored together, or not at all. A report
that was taken before changes nothing. It costs the same however large the fleet is: rollouts that run in the device's
group are looked at, and of those that have finished the one that changed the device last, to tell the operator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from protocol.geometry import Core
from protocol.health import HealthReport
from protocol.messages import ActionState
from protocol.plan import HealthEvent
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.health_repository import Counted
from service.application.rollout_changes import store_rollout
from service.application.rollout_members import is_member
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.device import Device
from service.domain.errors import NotFoundError
from service.domain.gates.arms import Arm, EventGate
from service.domain.gates.averages import AverageGate
from service.domain.gates.kept import Kept, KeptGate
from service.domain.membership import ENROLLED_STATES
from service.domain.model_health import (
    CoreHealth,
    Past,
    Slots,
    counted_with,
    events_of,
    judged_by,
    metric_of,
)
from service.domain.policy import EvidencePolicy
from service.domain.rollout import Rollout, RolloutState

Told = tuple[str, HealthReport]
"""A device id, of its certificate, and what the device said."""
HOURS = Slots()
AFTER_THE_END = timedelta(days=30)  # for how long the operator is told what happens to devices of a finished rollout


class UnknownHealthError(NotFoundError):
    """A device has told nothing of its models."""


@dataclass(frozen=True, slots=True)
class Window:
    """One report that may move evidence, with what it is compared with.

    Attributes:
        reference: the core's own past; None where it is too short.
        since: beginning of the core's first window of the slot: the device was in one arm from then on.
        judged: events that it can tell of.
        judged_before: events that windows of the core could tell of earlier in the slot.
        slot: number of the one in which it came.
    """

    device: Device
    report: HealthReport
    reference: Past | None
    since: datetime
    judged: frozenset[HealthEvent]
    judged_before: frozenset[HealthEvent]
    slot: int
    at: datetime


@dataclass(slots=True)
class _Batch:
    """What one transaction changes."""

    work: UnitOfWork
    now: datetime
    slots: Slots
    states: dict[tuple[str, Core], CoreHealth] = field(default_factory=dict)
    watched: dict[str, "_Watched"] = field(default_factory=dict)  # rollouts by id
    ended: dict[str, "_Ended"] = field(default_factory=dict)  # rollouts by device
    counted: list[Counted] = field(default_factory=list)


@dataclass(slots=True)
class _Watched:
    """A rollout whose gates listen, locked.

    Attributes:
        actions: of the batch's devices, by device.
        counted: which of its gates have counted which devices.
    """

    stored: StoredRollout
    actions: Mapping[str, Action]
    counted: dict[str, frozenset[str]]
    kept: dict[str, Kept]


@dataclass(frozen=True, slots=True)
class ReadTo:
    """How far the message log was read.

    Attributes:
        lease: under which it is read.
        owner: that held it.
    """

    lease: str
    owner: str
    message_id: int


@dataclass(frozen=True, slots=True)
class _Ended:
    """A rollout that has finished, and the devices of the batch that it was the last to change.

    Attributes:
        gates: that count events.
        actions: of the devices, by device.
        counted: which of its gates have counted which devices.
    """

    rollout_id: str
    gates: tuple[EventGate, ...]
    actions: Mapping[str, Action]
    counted: dict[str, frozenset[str]]


class ModelHealth:
    """Health of models, for devices and for operators."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock, kept: timedelta, slots: Slots = HOURS) -> None:
        """Make the use cases.

        Args:
            unit_of_work: opens transactions.
            clock: of the service.
            kept: for how long what a device said last is kept; whom gates have counted is kept with the rollout.
            slots: in which devices are compared.
        """
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._kept = kept
        self._slots = slots

    @tried_again
    async def take(self, reports: Sequence[Told], *, position: ReadTo | None = None) -> None:
        """Take reports in the order they came; those of devices that are not there are dropped.

        Args:
            reports: of any devices.
            position: how far they were read, stored with them.

        Raises:
            LeaseLostError: another process reads them by now; nothing is taken.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            devices = await work.devices.find_many({device_id for device_id, _ in reports})
            known = await work.health.of(devices)
            running, ended = await _watched_rollouts(work, devices), await _ended_rollouts(work, devices, now)
            batch = _Batch(work, now, self._slots, dict(known), running, ended)
            for device_id, report in reports:
                if device_id in devices:
                    await _take_one(batch, devices[device_id], report)
            await work.health.put([state for key, state in batch.states.items() if state is not known.get(key)])
            await work.health.count(batch.counted)
            for watched in batch.watched.values():
                await _store(batch, watched)
            if position is not None:
                await work.leases.advance(position.lease, position.owner, position.message_id)
            await work.commit()

    async def of_device(self, device: str) -> Sequence[CoreHealth]:
        """Return what a device said last of its models, by core.

        Raises:
            UnknownDeviceError, AmbiguousDeviceError: there is not one such device.
            UnknownHealthError: it has said nothing.
        """
        async with self._unit_of_work(read_only=True) as work:
            device_id = (await work.devices.get(device)).device_id
            found = await work.health.of([device_id])
        if not found:
            raise UnknownHealthError(f"device {device_id[:16]}…: expected a health report, found none")
        return [found[key] for key in sorted(found)]

    async def counted(
        self, rollout_id: str, *, after: tuple[str, str] | None, limit: int, gate: str | None = None
    ) -> Sequence[Counted]:
        """Return at most `limit` devices that a rollout's gates have counted, by gate and device.

        Raises:
            UnknownRolloutError: there is no such rollout.
        """
        async with self._unit_of_work(read_only=True) as work:
            await work.rollouts.get(rollout_id)
            return await work.health.page_counted(rollout_id, after=after, limit=limit, gate=gate)

    async def keep_house(self, now: datetime) -> None:
        """Delete what devices said long ago."""
        async with self._unit_of_work() as work:
            await work.health.forget(received_before=now - self._kept)
            await work.commit()


def kept_gates(rollout: Rollout) -> tuple[KeptGate, ...]:
    """Return the gates of a rollout that keep evidence; a rollback has none."""
    policy = rollout.conditions.policy
    return policy.kept_gates if isinstance(policy, EvidencePolicy) else ()


def arm_of(action: Action | None, since: datetime) -> Arm | None:
    """Return the arm of a device in a rollout, of a window that began at a time; None: it is in neither.

    Args:
        action: its part in the rollout, or None where it has none; of the rollout's members alone.
        since: UTC, aware.
    """
    if action is None or (not action.offered and not action.state.is_final):
        return Arm.CONTROL
    if action.offered and action.state is ActionState.CONFIRMED and action.progressed_at <= since:
        return Arm.CANARY
    return None


async def _watched_rollouts(work: UnitOfWork, devices: Mapping[str, Device]) -> dict[str, _Watched]:
    """Lock the rollouts whose gates listen to these devices."""
    found: set[str] = set()
    for group_id in {device.group_id for device in devices.values()}:
        for stored in await work.rollouts.of_group(group_id):
            if stored.rollout.state is not RolloutState.DRAFT and kept_gates(stored.rollout):
                found.add(stored.rollout.rollout_id)
    watched: dict[str, _Watched] = {}
    for rollout_id, stored in (await work.rollouts.lock(found)).items():
        if stored.rollout.state.is_over:
            continue
        watched[rollout_id] = _Watched(
            stored,
            await work.actions.of_devices(rollout_id, devices),
            dict(await work.health.counted(rollout_id, devices)),
            dict(stored.rollout.kept),
        )
    return watched


async def _take_one(batch: _Batch, device: Device, report: HealthReport) -> None:
    key = (device.device_id, report.core)
    state = batch.states.get(key)
    if state is not None and not state.is_new(report):
        return
    new = CoreHealth.begun(device.device_id, report, batch.now) if state is None else state.after(report, batch.now)
    counted = None if state is None else state.counted
    if not batch.slots.is_comparable(report, counted, batch.now):
        batch.states[key] = new
        return
    reference = None if state is None else state.reference
    judged = judged_by(report, reference)
    now_counted = counted_with(counted, report, judged, batch.slots.number(batch.now))
    batch.states[key] = replace(new, counted=now_counted)
    is_later = counted is not None and counted.slot == now_counted.slot
    before = counted.judged if counted is not None and is_later else frozenset()
    window = Window(device, report, reference, now_counted.since, judged, before, now_counted.slot, batch.now)
    for watched in batch.watched.values():
        if watched.stored.rollout.group_id == device.group_id:
            await _see(batch, watched, window)
    _see_after_the_end(batch, window)


async def _see(batch: _Batch, watched: _Watched, window: Window) -> None:
    """Let the gates of a rollout see a window."""
    device_id, rollout = window.device.device_id, watched.stored.rollout
    action = watched.actions.get(device_id)
    arm = arm_of(action, window.since)
    if arm is None or window.since < watched.stored.created_at or window.device.state not in ENROLLED_STATES:
        return
    if action is None and not await is_member(batch.work, rollout, device_id):
        return
    for gate in kept_gates(rollout):
        if isinstance(gate, EventGate) and gate.name in watched.kept:
            await _settle(batch, watched, gate, slot=window.slot)
        if gate.name in watched.counted.get(device_id, frozenset()):
            continue
        if isinstance(gate, EventGate):
            _see_events(batch, watched, gate, window=window, arm=arm)
        elif isinstance(gate, AverageGate):
            _see_average(batch, watched, gate, window=window, arm=arm)


async def _settle(batch: _Batch, watched: _Watched, gate: EventGate, *, slot: int) -> None:
    """Weigh the slot before this one; where only one arm was heard in it, whom it has counted is at risk again."""
    kept, rollout_id = watched.kept[gate.name], watched.stored.rollout.rollout_id
    alone = gate.let_go(kept, slot)
    if alone is not None:
        again = await batch.work.health.uncount(
            rollout_id,
            gate.name,
            events=gate.events - {HealthEvent.OFFLINE},  # silence is weighed as it is found
            since=batch.slots.beginning(alone),
            before=batch.slots.beginning(alone + 1),
        )
        for device_id in again & watched.counted.keys():
            watched.counted[device_id] -= {gate.name}
    watched.kept[gate.name] = gate.settled(kept, slot)


def _see_events(batch: _Batch, watched: _Watched, gate: EventGate, *, window: Window, arm: Arm) -> None:
    if not gate.events & window.judged:
        return
    striking = events_of(window.report, window.reference, gate.limits)
    found = {event: detail for event, detail in striking.items() if event in gate.events}
    kept, is_new = watched.kept.get(gate.name, {}), not gate.events & window.judged_before
    watched.kept[gate.name] = gate.seen(kept, arm, is_new=is_new, is_event=bool(found), slot=window.slot)
    for event, detail in list(found.items())[:1]:
        _count(batch, watched, gate.name, window.device.device_id, arm=arm, what=event, detail=detail)


def _see_average(batch: _Batch, watched: _Watched, gate: AverageGate, *, window: Window, arm: Arm) -> None:
    value = metric_of(window.report, gate.metric)
    if window.report.core != gate.core or value is None or window.reference is None:
        return
    change = value - window.reference.of(gate.metric)
    kept = watched.kept.get(gate.name, {})
    device_id = window.device.device_id
    watched.kept[gate.name], used = gate.seen(kept, arm, device_id, change=change, at=window.report.until)
    for each in sorted(used):
        its_arm = arm if each == device_id else Arm.CONTROL
        detail = f"{gate.core}: {change:+.4g} from its own past" if each == device_id else ""
        _count(batch, watched, gate.name, each, arm=its_arm, what=gate.metric, detail=detail)


def _count(batch: _Batch, watched: _Watched, gate: str, device_id: str, *, arm: Arm, what: str, detail: str) -> None:
    rollout_id = watched.stored.rollout.rollout_id
    watched.counted[device_id] = watched.counted.get(device_id, frozenset()) | {gate}
    batch.counted.append(Counted(rollout_id, gate, device_id, arm, what, detail, batch.now))


async def _store(batch: _Batch, watched: _Watched) -> None:
    rollout = watched.stored.rollout
    if watched.kept != rollout.kept:
        await store_rollout(batch.work, watched.stored, replace(rollout, kept=watched.kept), now=batch.now)


async def _ended_rollouts(work: UnitOfWork, devices: Mapping[str, Device], now: datetime) -> dict[str, _Ended]:
    """Return the rollouts that changed these devices last and have finished, by device."""
    newest = (await work.actions.newest_of(devices)).values()
    recent = [each for each in newest if each.progressed_at >= now - AFTER_THE_END and not each.heals]
    found: dict[str, _Ended] = {}
    for rollout_id in sorted({action.rollout_id for action in recent}):
        rollout = (await work.rollouts.get(rollout_id)).rollout
        gates = tuple(gate for gate in kept_gates(rollout) if isinstance(gate, EventGate))
        if rollout.state is not RolloutState.FINISHED or not gates:
            continue
        actions = {action.device_id: action for action in recent if action.rollout_id == rollout_id}
        ended = _Ended(rollout_id, gates, actions, dict(await work.health.counted(rollout_id, actions)))
        found |= dict.fromkeys(actions, ended)
    return found


def _see_after_the_end(batch: _Batch, window: Window) -> None:
    """Tell the operator, once for each gate, what happens to a device after its rollout has finished."""
    device_id = window.device.device_id
    ended = batch.ended.get(device_id)
    if ended is None or arm_of(ended.actions[device_id], window.report.since) is not Arm.CANARY:
        return
    for gate in ended.gates:
        striking = events_of(window.report, window.reference, gate.limits)
        found = [(event, detail) for event, detail in striking.items() if event in gate.events][:1]
        if not found or gate.name in ended.counted.get(device_id, frozenset()):
            continue
        ((event, detail),) = found
        ended.counted[device_id] = ended.counted.get(device_id, frozenset()) | {gate.name}
        batch.counted.append(Counted(ended.rollout_id, gate.name, device_id, Arm.CANARY, event, detail, batch.now))
        data = {"rollout_id": ended.rollout_id, "gate": gate.name, "detail": f"{event} after the end: {detail}"}
        batch.work.record(Event(EventType.HEALTH, device_id, str(event), batch.now, dict(data)))
