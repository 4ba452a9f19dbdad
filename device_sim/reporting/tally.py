"""The fold of a run's events into its record; it knows nothing that no event says.

Counters that devices emit (`counts`, `wire`) go on from a device's start. Where one falls, the device has started anew
and the count goes on from there.
"""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from device_sim.reporting.energy import EnergyModel
from device_sim.reporting.record import (
    DeviceState,
    FleetRecord,
    HappeningMoment,
    RolloutMoment,
    RunReport,
    TimelinePoint,
    Wire,
    WireOfOne,
)
from device_sim.reporting.timeline import Timeline
from protocol.messages import ActionState
from protocol.scenario import Scenario

UNNAMED = "devices"  # the fleet of a run without fleets
MAX_MOMENTS = 10_000  # rollout changes and happenings that are kept

_PLAIN_STATES: Mapping[str, DeviceState] = {
    "boot-stopped": DeviceState.STOPPED,
    "unclaimed": DeviceState.UNCLAIMED,
    "refused": DeviceState.REFUSED,
    "access-lost": DeviceState.REFUSED,
    "quarantined": DeviceState.QUARANTINED,
    "connected": DeviceState.ONLINE,
    "disconnected": DeviceState.OFFLINE,
    "crashed": DeviceState.CRASHED,
}
_RESTING = frozenset({DeviceState.ONLINE, DeviceState.OFFLINE, DeviceState.QUARANTINED})
_COUNTERS = ("sent", "acknowledged", "dropped", "flash_operations", "inferences", "core_ms")
_WIRE_BYTES = ("bytes_sent", "bytes_received")
_WIRE = (*_WIRE_BYTES, "requests")


@dataclass(slots=True)
class _Device:
    fleet: str
    state: DeviceState = DeviceState.OFF
    is_on: bool = False
    resting: DeviceState = DeviceState.OFFLINE  # where an update returns to
    latest: dict[str, float] = field(default_factory=dict)
    wire_bytes: float = 0.0  # both ways
    action: str = ""  # of the last result


@dataclass(slots=True)
class _Fleet:
    devices: int = 0
    states: Counter[DeviceState] = field(default_factory=Counter)
    updates: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    boots: int = 0
    on: int = 0  # devices that have power
    on_seconds: float = 0.0  # less the start of each that has power, so that `on` times now is missing


class RunTally:
    """Folds events; any thread may hand them over.

    Args:
        scenario: gives the description, the seed and the fleets' names.
        started_at: UTC, aware.
        energy: what things cost.
    """

    def __init__(self, scenario: Scenario, *, started_at: datetime, energy: EnergyModel | None = None) -> None:
        self._scenario = scenario
        self._started_at = started_at
        self._energy = energy or EnergyModel()
        self._devices: dict[str, _Device] = {}
        self._fleets: dict[str, _Fleet] = {fleet.name: _Fleet() for fleet in scenario.fleets}
        self._states: Counter[str] = Counter()
        self._timeline = Timeline()
        self._rollouts: list[RolloutMoment] = []
        self._happenings: list[HappeningMoment] = []
        self._now = 0.0
        self._events = self._crashed = 0
        self._lock = threading.Lock()
        self._folds: Mapping[str, Callable[[_Device, Mapping[str, Any]], None]] = {
            "booted": self._booted,
            "power": self._power,
            "attested": self._attested,
            "update": self._update,
            "reverted": self._update,
            "counts": self._counts,
            "wire": self._wire,
        }

    def hear(self, event: Mapping[str, Any]) -> None:
        """Fold one event, as `EventLog` has it: `event`, `time`, and `device` where it is one device's."""
        with self._lock:
            moment = datetime.fromisoformat(str(event["time"]))
            self._now = max(self._now, (moment - self._started_at).total_seconds())
            self._timeline.advance(self._now, self._states)
            self._events += 1
            if device_id := event.get("device"):
                self._fold(self._device(str(device_id), str(event.get("fleet") or UNNAMED)), event)
            elif event["event"] == "rollout" and len(self._rollouts) < MAX_MOMENTS:
                self._rollouts.append(_rollout_moment(self._now, event))
            elif event["event"] == "happening" and len(self._happenings) < MAX_MOMENTS:
                kind, devices = str(event.get("kind", "")), int(event.get("devices", 0))
                self._happenings.append(HappeningMoment(at=self._now, kind=kind, devices=devices))

    def report(self, *, ended: bool = True) -> RunReport:
        """Return the record so far."""
        with self._lock:
            points = [*self._timeline.points, (self._now, dict(self._states))]
            wires = self._wires()
            return RunReport(
                description=self._scenario.description,
                seed=self._scenario.seed,
                started_at=self._started_at,
                seconds=self._now,
                ended=ended,
                devices=len(self._devices),
                events=self._events,
                crashed=self._crashed,
                fleets=tuple(self._record(name, fleet, wires[name]) for name, fleet in self._fleets.items()),
                timeline=tuple(
                    TimelinePoint(at=at, states={DeviceState(name): count for name, count in states.items() if count})
                    for at, states in points
                ),
                rollouts=tuple(self._rollouts),
                happenings=tuple(self._happenings),
            )

    def _device(self, device_id: str, fleet: str) -> _Device:
        device = self._devices.get(device_id)
        if device is None:
            device = self._devices[device_id] = _Device(fleet)
            group = self._fleets.setdefault(fleet, _Fleet())
            group.devices += 1
            group.states[device.state] += 1
            self._states[device.state] += 1
        return device

    def _fold(self, device: _Device, event: Mapping[str, Any]) -> None:
        kind = str(event["event"])
        fold = self._folds.get(kind)
        if fold is not None:
            fold(device, event)
        elif kind in _PLAIN_STATES:
            self._crashed += kind == "crashed"
            self._move(device, _PLAIN_STATES[kind])

    def _move(self, device: _Device, state: DeviceState) -> None:
        if state in _RESTING:
            device.resting = state
            if device.state is DeviceState.UPDATING:
                return  # the link comes and goes while an update runs
        self._count(device, state)

    def _count(self, device: _Device, state: DeviceState) -> None:
        fleet = self._fleets[device.fleet]
        for states in (fleet.states, self._states):
            states[device.state] -= 1
            states[state] += 1
        device.state = state

    def _booted(self, device: _Device, _event: Mapping[str, Any]) -> None:
        self._fleets[device.fleet].boots += 1
        self._switch(device, on=True)
        self._move(device, DeviceState.BOOTED)

    def _power(self, device: _Device, event: Mapping[str, Any]) -> None:
        self._switch(device, on=bool(event.get("on")))
        if not device.is_on:
            self._move(device, DeviceState.OFF)

    def _switch(self, device: _Device, *, on: bool) -> None:
        if device.is_on is not on:
            device.is_on = on
            fleet = self._fleets[device.fleet]
            fleet.on += 1 if on else -1
            fleet.on_seconds += -self._now if on else self._now

    def _attested(self, device: _Device, _event: Mapping[str, Any]) -> None:
        if device.state is not DeviceState.ONLINE:
            self._move(device, DeviceState.OFFLINE)

    def _update(self, device: _Device, event: Mapping[str, Any]) -> None:
        state = ActionState(event["state"])
        if state is ActionState.SCHEDULED:  # put off
            self._rest(device)
            return
        if not state.is_final:
            self._move(device, DeviceState.UPDATING)
            return
        fleet = self._fleets[device.fleet]
        if device.action != event.get("action_id"):
            device.action = str(event.get("action_id"))
            fleet.updates[state.value] += 1
            if state.is_failure:
                fleet.failures[str(event.get("cause") or "unknown")] += 1
            if attack := event.get("attack"):
                fleet.attacks[str(attack)] += 1
        self._rest(device)

    def _rest(self, device: _Device) -> None:
        if device.state is DeviceState.UPDATING:
            self._count(device, device.resting)

    def _counts(self, device: _Device, event: Mapping[str, Any]) -> None:
        cores = event.get("cores") or {}
        events = sum(int(core.get("events", 0)) for core in cores.values())
        core_ms = sum(float(core.get("core_ms", 0)) for core in cores.values())
        values = {"inferences": events, "core_ms": core_ms, **event}
        self._add(device, {name: float(values.get(name, 0)) for name in _COUNTERS})

    def _wire(self, device: _Device, event: Mapping[str, Any]) -> None:
        device.wire_bytes += self._add(device, {name: float(event.get(name, 0)) for name in _WIRE_BYTES})
        self._add(device, {"requests": float(event.get("requests", 0))})

    def _add(self, device: _Device, values: Mapping[str, float]) -> float:
        """Add what counters of a device have grown by to its fleet's sums; return all of it together."""
        sums, grown = self._fleets[device.fleet].sums, 0.0
        for name, value in values.items():
            before = device.latest.get(name, 0.0)
            more = value - before if value >= before else value
            sums[name] += more
            grown += more
            device.latest[name] = value
        return grown

    def _wires(self) -> Mapping[str, Sequence[float]]:
        """Return the bytes of each device by fleet, in rising order."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for device in self._devices.values():
            found[device.fleet].append(device.wire_bytes)
        for wires in found.values():
            wires.sort()
        return found

    def _record(self, name: str, fleet: _Fleet, wires: Sequence[float]) -> FleetRecord:
        sums = fleet.sums
        return FleetRecord(
            name=name,
            devices=fleet.devices,
            states={state: count for state, count in fleet.states.items() if count},
            updates=dict(fleet.updates),
            failures=dict(fleet.failures),
            attacks=dict(fleet.attacks),
            boots=fleet.boots,
            inferences=int(sums["inferences"]),
            messages_sent=int(sums["sent"]),
            messages_acknowledged=int(sums["acknowledged"]),
            dropped=int(sums["dropped"]),
            wire=Wire(**{key: int(sums[key]) for key in _WIRE}),
            wire_of_one=_wire_of_one(wires),
            energy=self._energy.estimate(
                on_seconds=fleet.on_seconds + fleet.on * self._now,
                core_seconds=sums["core_ms"] / 1000,
                sent=int(sums["bytes_sent"]),
                received=int(sums["bytes_received"]),
                flash_operations=int(sums["flash_operations"]),
            ),
        )


def _wire_of_one(wires: Sequence[float]) -> WireOfOne:
    if not wires:
        return WireOfOne()
    return WireOfOne(median=_at(wires, percent=50), p95=_at(wires, percent=95), most=int(wires[-1]))


def _at(wires: Sequence[float], *, percent: int) -> int:
    """Return the least of some rising values that so many percent do not exceed."""
    return int(wires[-(-len(wires) * percent // 100) - 1])


def _rollout_moment(now: float, event: Mapping[str, Any]) -> RolloutMoment:
    return RolloutMoment(
        at=now,
        rollout=str(event.get("rollout", "")),
        state=str(event.get("state", "")),
        detail=str(event.get("detail", "")),
    )
