"""Rollouts whose devices go on after the update: events and means in two arms, hour by hour, on the gates themselves.

What a run may be told: events of everybody at once, devices that are always in trouble, reports that come late, a
service that starts again after each of them. A run is never ended by anything but a halt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from protocol.geometry import Core
from protocol.plan import HealthEvent, Metric
from service.domain.gates.arms import Arm, EventGate
from service.domain.gates.averages import AverageGate
from service.domain.gates.control import ControlGate
from service.domain.gates.failure_rate import threshold
from service.domain.gates.kept import Kept
from service.domain.gates.means import MeanGate
from service.domain.model_health import Limits

START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVENTS = EventGate("drift", frozenset({HealthEvent.DRIFT}), ControlGate(1.5), Limits(), timedelta(days=1))
MEAN = AverageGate("latency", Metric.LATENCY, Core.M4_0, MeanGate(margin=1.0, expected_change=5.0))


@dataclass(frozen=True)
class Fleet:
    """Devices and what happens to them.

    Attributes:
        devices: of the rollout.
        hours: that it is watched after the first stage.
        reached: share of the devices that have the release, by tenths of that time.
        rate: of events per device and hour, without the release.
        ratio: of the rate with the release.
        frailty: shape of the gamma distribution of the devices' own rates; 0: all alike.
        outage_at: hour in which half of all devices have an event; 0 never.
        late: share of reports that come up to a day late.
        alone: hours of control alone before the first canary; no evidence may come of them.
        dusk: share of all devices that have an event in the first hour of the canaries.
        restarts: whether evidence goes through JSON after each hour.
    """

    devices: int = 200
    hours: int = 20
    reached: tuple[float, ...] = (0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.7, 0.7, 0.9, 0.9)
    rate: float = 0.02
    ratio: float = 1.0
    frailty: float = 0.0
    outage_at: int = 0
    late: float = 0.0
    alone: int = 0
    dusk: float = 0.0
    restarts: bool = False


def event_halt(fleet: Fleet, seed: int, *, alpha: float, gate: EventGate = EVENTS) -> int | None:
    """Return how many devices had the release when the gate halted, or None."""
    rng = np.random.default_rng(seed)
    rates = fleet.rate * (rng.gamma(fleet.frailty, 1 / fleet.frailty, fleet.devices) if fleet.frailty else 1.0)
    counted = np.zeros(fleet.devices, bool)
    kept: Kept = {}
    waiting: dict[int, list[tuple[int, Arm, bool]]] = {}
    slots: dict[int, tuple[int, Arm]] = {}
    for hour in range(-fleet.alone, fleet.hours):
        with_release = int(fleet.reached[max(hour, 0) * len(fleet.reached) // fleet.hours] * fleet.devices) * (
            hour >= 0
        )
        chance = np.minimum(rates * np.where(np.arange(fleet.devices) < with_release, fleet.ratio, 1.0), 1.0)
        chance = np.maximum(chance, 0.5) if fleet.outage_at and hour == fleet.outage_at else chance
        chance = np.maximum(chance, fleet.dusk) if hour == 0 else chance
        happened = rng.random(fleet.devices) < chance
        arrives = hour + np.where(rng.random(fleet.devices) < fleet.late, rng.integers(1, 24, fleet.devices), 0)
        for device in rng.permutation(fleet.devices):
            arm = Arm.CANARY if device < with_release else Arm.CONTROL
            waiting.setdefault(int(arrives[device]), []).append((int(device), arm, bool(happened[device])))
        told = waiting.pop(hour, [])
        for device, arm, is_event in told:
            settled = gate.settled(kept, hour) if kept else kept
            if settled is not kept and gate.log_evidence(settled) >= threshold(alpha):
                return with_release
            kept = settled
            slot, of_slot = slots.get(device, (hour - 1, arm))
            if counted[device] or (slot == hour and of_slot is not arm):
                continue
            slots[device] = (hour, arm)
            kept = gate.seen(kept, arm, is_new=slot != hour, is_event=is_event, slot=hour)
            counted[device] = is_event
        kept = _stored(kept) if fleet.restarts else kept
    return None


def mean_halt(seed: int, *, alpha: float, excess: float, sway: float = 0.0, spread: float = 1.0) -> bool:
    """Whether the gate on means halted a rollout, of 20 hours with 10 canaries and 15 devices of control each.

    Args:
        seed: of the run.
        alpha: error budget.
        excess: how much further the release moves the mean than the plan allows, in deviations of a device; at most 0
            for a release that is as good as demanded.
        sway: by how many deviations the mean of everybody moves up and down in a day.
        spread: deviation of canaries, as a multiple of that of control.
    """
    rng = np.random.default_rng(seed)
    kept: Kept = {}
    allowed = MEAN.test.expected_change + MEAN.test.margin
    number = 0
    for hour in range(20):
        common = sway * np.sin(hour * 2 * np.pi / 24)
        for arm in rng.permutation(np.array([Arm.CONTROL] * 15 + [Arm.CANARY] * 10, object)):
            number += 1
            canary = allowed + excess + spread * rng.standard_normal()
            change = common + (canary if arm is Arm.CANARY else rng.standard_normal())
            kept, _ = MEAN.seen(kept, arm, f"{number:0128x}", change=float(change), at=START + hour * HOUR)
        kept = _stored(kept)
        if MEAN.log_evidence(kept) >= threshold(alpha):
            return True
    return False


def _stored(kept: Kept) -> Kept:
    read: Mapping[str, Any] = json.loads(json.dumps(kept))
    return read
