"""Rollouts whose devices go on after the update: events and means in two arms, hour by hour, on the gates themselves.

What a run may be told: events of everybody at once, devices that are always in trouble, reports that come late, a
service that starts again after each of them. A run is never ended by anything but a halt.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from protocol.geometry import Core
from protocol.plan import HealthEvent, Metric
from service.domain.gates.arms import Arm, EventGate, Tally
from service.domain.gates.averages import AverageGate
from service.domain.gates.control import ControlGate
from service.domain.gates.failure_rate import threshold
from service.domain.gates.kept import Kept
from service.domain.gates.means import MeanGate
from service.domain.model_health import Limits

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
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
        cut_off: chance of a device, hour by hour, to be cut off for up to half a day; it tells them when it is back.
        swing: share by which the rate of everybody rises and falls in a day.
        phase: hour of the day at the first canary.
        alone: hours of control alone before the first canary; no evidence may come of them.
        dusk: share of all devices that have an event in the first hour of the canaries.
        restarts: whether evidence goes through JSON after each hour.
        site_size: devices of a site, which have their events together; 1: each has its own.
        is_spread: the release comes to devices of all sites, or to one site after the other.
        windows: in how many an hour is told, of canaries and of the others: from one to so many, by the device.
    """

    devices: int = 200
    hours: int = 20
    reached: tuple[float, ...] = (0.1, 0.1, 0.1, 0.3, 0.3, 0.3, 0.7, 0.7, 0.9, 0.9)
    rate: float = 0.02
    ratio: float = 1.0
    frailty: float = 0.0
    outage_at: int = 0
    late: float = 0.0
    cut_off: float = 0.0
    swing: float = 0.0
    phase: int = 0
    alone: int = 0
    dusk: float = 0.0
    restarts: bool = False
    windows: tuple[int, int] = (1, 1)
    site_size: int = 1
    is_spread: bool = True


@dataclass(frozen=True)
class Told:
    """What devices told in an hour, in the order in which it came.

    Attributes:
        hour: from the first canary.
        with_release: how many have the release.
        devices: their numbers, one for each window.
        hours: in which the windows were.
        is_canary, is_event: of the windows.
    """

    hour: int
    with_release: int
    devices: Numbers
    hours: Numbers
    is_canary: Flags
    is_event: Flags

    def of(self, chosen: Flags | Numbers) -> "Told":
        """Return some of the windows."""
        windows = (self.devices[chosen], self.hours[chosen], self.is_canary[chosen], self.is_event[chosen])
        return Told(self.hour, self.with_release, *windows)


class Hours:
    """The windows of a fleet's devices, hour by hour."""

    def __init__(self, fleet: Fleet, rng: np.random.Generator) -> None:
        """Draw what stays the same about the devices."""
        self._fleet, self._rng = fleet, rng
        gamma = fleet.frailty
        self._rates = fleet.rate * (rng.gamma(gamma, 1 / gamma, fleet.devices) if gamma else 1.0)
        self._numbers = np.arange(fleet.devices)
        self._sites = (rng.permutation(self._numbers) if fleet.is_spread else self._numbers) // fleet.site_size
        self._back_at = np.zeros(fleet.devices, int)
        self._waiting: dict[int, list[tuple[Numbers, Numbers, Flags, Flags]]] = {}

    def told(self, hour: int, is_canary: Flags) -> Told | None:
        """Return what is told in an hour, or None.

        Args:
            hour: one more than at the last call.
            is_canary: which devices have the release in it.
        """
        fleet, rng = self._fleet, self._rng
        common = 1 + fleet.swing * np.sin((hour + fleet.phase) * 2 * np.pi / 24)
        chance = np.minimum(common * self._rates * np.where(is_canary, fleet.ratio, 1.0), 1.0)
        chance = np.maximum(chance, 0.5) if fleet.outage_at and hour == fleet.outage_at else chance
        chance = np.maximum(chance, fleet.dusk) if hour == 0 else chance
        windows = np.where(is_canary, 1 + self._numbers % fleet.windows[0], 1 + self._numbers % fleet.windows[1])
        devices = rng.permutation(np.repeat(self._numbers, windows))
        draws = rng.random(fleet.devices)[self._sites][devices] if fleet.site_size > 1 else rng.random(devices.size)
        is_event = draws < 1 - (1 - chance[devices]) ** (1 / windows[devices])
        arrives = self._arrivals(hour, devices)
        for at in np.unique(arrives).tolist():
            some = devices[arrives == at]
            told = (some, np.full(some.size, hour), is_canary[some], is_event[arrives == at])
            self._waiting.setdefault(at, []).append(told)
        parts = [np.concatenate(each) for each in zip(*self._waiting.pop(hour, []), strict=True)]
        return Told(hour, int(is_canary.sum()), *parts) if parts else None

    def _arrivals(self, hour: int, devices: Numbers) -> Numbers:
        fleet, rng = self._fleet, self._rng
        is_late = rng.random(devices.size) < fleet.late
        arrives = hour + np.where(is_late, rng.integers(1, 24, devices.size), 0)
        if not fleet.cut_off:
            return arrives
        leaves = (rng.random(fleet.devices) < fleet.cut_off) & (self._back_at <= hour)
        self._back_at = np.where(leaves, hour + rng.integers(1, 13, fleet.devices), self._back_at)
        return np.asarray(np.maximum(arrives, self._back_at[devices]))


def event_halt(fleet: Fleet, seed: int, *, alpha: float, gate: EventGate = EVENTS) -> int | None:
    """Return how many devices had the release when the gate halted, or None: it is told window by window."""
    counted = np.zeros(fleet.devices, bool)
    kept: Kept = {}
    slots: dict[int, tuple[int, bool]] = {}
    for told in _hours(fleet, seed):
        struck: list[int] = []
        windows = zip(told.devices.tolist(), told.is_canary.tolist(), told.is_event.tolist(), strict=True)
        for device, is_canary, is_event in windows:
            slot, of_slot = slots.get(device, (told.hour - 1, is_canary))
            if counted[device] or (slot == told.hour and of_slot is not is_canary):
                continue
            slots[device] = (told.hour, is_canary)
            arm = Arm.CANARY if is_canary else Arm.CONTROL
            kept = gate.seen(kept, arm, is_new=slot != told.hour, is_event=is_event, slot=told.hour)
            counted[device] = is_event
            struck += [device] if is_event else []
        if gate.let_go(kept, told.hour + 1) is not None:
            counted[struck] = False
        kept = gate.settled(kept, told.hour + 1)
        if gate.log_evidence(kept) >= threshold(alpha):
            return told.with_release
        kept = stored(kept) if fleet.restarts else kept
    return None


def tallied_halt(fleet: Fleet, seed: int, *, alpha: float, gate: EventGate = EVENTS) -> int | None:
    """Return what `event_halt` returns, at a tenth of its cost: the gate is told the sums of each hour."""
    counted = np.zeros(fleet.devices, bool)
    kept: Kept = {}
    for told in _hours(fleet, seed):
        kept = gate.weighed(kept, tallies_of(told, counted))
        if gate.log_evidence(kept) >= threshold(alpha):
            return told.with_release
        kept = stored(kept) if fleet.restarts else kept
    return None


def tallies_of(told: Told, counted: Flags) -> Mapping[Arm, Tally]:
    """Sum up an hour, and mark who has had an event in it that is compared."""
    free = ~counted[told.devices]
    is_canary, is_event = told.is_canary[free], told.is_event[free]
    devices, first, places = np.unique(told.devices[free], return_index=True, return_inverse=True)
    in_canary = is_canary[first]  # a device is in the arm of its first window of the slot
    struck = np.zeros(devices.size, bool)
    np.logical_or.at(struck, places, is_event & (is_canary == in_canary[places]))
    counted[devices[struck]] = in_canary.any() and not in_canary.all()
    return {
        Arm.CANARY: Tally(int(in_canary.sum()), int((in_canary & struck).sum())),
        Arm.CONTROL: Tally(int((~in_canary).sum()), int((~in_canary & struck).sum())),
    }


def _hours(fleet: Fleet, seed: int) -> Iterator[Told]:
    hours = Hours(fleet, np.random.default_rng(seed))
    for hour in range(-fleet.alone, fleet.hours):
        reached = fleet.reached[max(hour, 0) * len(fleet.reached) // fleet.hours] if hour >= 0 else 0.0
        told = hours.told(hour, np.arange(fleet.devices) < int(reached * fleet.devices))
        if told is not None:
            yield told


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
        kept = stored(kept)
        if MEAN.log_evidence(kept) >= threshold(alpha):
            return True
    return False


def stored(kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return it as it is once the service has started again."""
    read: Mapping[str, Any] = json.loads(json.dumps(kept))
    return read
