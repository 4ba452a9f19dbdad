"""What becomes of devices that are let in: when they are given the release, and when and how they end.

`EachDevice` draws every device for itself, its kind and its end once and for all. `Aggregated` draws how many of a
batch fall into which cell (kind, end, part of the delays), which costs the same for ten devices as for ten thousand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from protocol.messages import ActionState
from simulation.what_if.arrays import Floats, Integers
from simulation.what_if.fleet import FleetModel, Kind
from simulation.what_if.places import NEVER, Turns
from simulation.what_if.windows import OpenTimes

DELAY_PARTS = 5  # equal parts of the delays' distribution, each in the place of its median
QUICKEST, SLOWEST = 0.8, 1.4  # times the kind's usual time for an update; a draw lies evenly between
MOST_WINDOWS = 30  # that a device may miss because its network is away
SAMPLED = 4000  # devices, at whole places, whose waits stand for those of all
FEWEST_PLACES = 4
PARTS = np.full(50, 0.02)  # of the devices, by how long they wait
MIDDLES = np.append((np.cumsum(PARTS) - PARTS / 2)[:-1], 1.0)  # and of the last part the longest


@dataclass(frozen=True, slots=True)
class Waiting:
    """When devices of a batch ask for the release, and when their place lets them have it; seconds from the start."""

    asked_at: Floats
    called_at: Floats


@dataclass(frozen=True, slots=True)
class Batch:
    """Devices that were let in together, in groups; arrays of one length.

    Attributes:
        devices: of all groups.
        counts: devices of each group.
        let_in_at: seconds from the scenario's start.
        given_at: when they have the release.
        ends_at: when the service has their result, where there is one.
        endings: index into the model's endings.
        waiting: for other devices of their place; None where no disruption budget holds.
    """

    devices: int
    counts: Integers
    let_in_at: Floats
    given_at: Floats
    ends_at: Floats
    endings: Integers
    waiting: Waiting | None = None

    @property
    def kept_waiting(self) -> Floats | float:
        """Seconds that devices are given the release later because their place was full."""
        return 0.0 if self.waiting is None else self.given_at - self.waiting.asked_at


class Sampler(Protocol):
    """Draws what becomes of devices."""

    def split(self, devices: int) -> Sequence[int]:
        """Return how many of the next devices go by which clock."""

    def draw(self, devices: int, at: float, *, seconds: float, clock: int = 0) -> Batch:
        """Return what becomes of the next devices.

        Args:
            devices: at least one.
            clock: that they go by.
            at: from when they are let in, seconds from the scenario's start.
            seconds: over which they are let in evenly.
        """

    def hits(self, number: int, share: float) -> int:
        """Return how many of a number are hit by what hits a share."""


class Aggregated:
    """Draws groups; those let in over a time are taken to be let in at its middle.

    Args:
        model: the fleet.
        rng: seeded.
    """

    def __init__(self, model: FleetModel, rng: np.random.Generator) -> None:
        self._rng = rng
        self._shares = shares_of_clocks(model)
        self._groups = [_Group(model, clock) for clock in range(len(model.clocks))]
        self._waits = [_SampledWaits(model, place, rng) for place in range(len(model.places))]

    def split(self, devices: int) -> Sequence[int]:
        """See `Sampler.split`."""
        return [int(count) for count in self._rng.multinomial(devices, self._shares)]

    def draw(self, devices: int, at: float, *, seconds: float, clock: int = 0) -> Batch:
        """See `Sampler.draw`."""
        group = self._groups[clock]
        counts = self._rng.multinomial(devices, group.shares)
        middle = at + seconds / 2
        given, ends = group.times(middle)
        hit = counts.nonzero()[0]
        if self._waits:
            drawn = [each.draw(devices, at, seconds=seconds, clock=clock) for each in self._waits]
            waits = np.array([*drawn, np.zeros(PARTS.size)])  # the last row: who belongs to no place
            return self._with_waits(group, waits, hit=hit, counts=counts[hit], let_in=middle, asked=given[hit])
        return Batch(devices, counts[hit], np.full(hit.size, middle), given[hit], ends[hit], group.endings[hit])

    def _with_waits(
        self, group: "_Group", waits: Floats, *, hit: Integers, counts: Integers, let_in: float, asked: Floats
    ) -> Batch:
        """Return the groups of a batch, each split by how long its devices wait for others of their place."""
        split = self._rng.multinomial(counts, PARTS).ravel()
        found = split.nonzero()[0]
        cells, asked = np.repeat(hit, PARTS.size)[found], np.repeat(asked, PARTS.size)[found]
        waited = waits[group.place[hit]].ravel()[found]
        given = np.where(waited > 0, group.moved(cells, asked + waited), asked)
        called = np.where(waited > 0, np.maximum(asked, given - group.contact[cells]), asked)
        ends = group.online(cells, given + group.update[cells])
        let_in_at = np.full(found.size, let_in)
        waiting = Waiting(asked, called)
        return Batch(int(counts.sum()), split[found], let_in_at, given, ends, group.endings[cells], waiting)

    def hits(self, number: int, share: float) -> int:
        """See `Sampler.hits`."""
        return int(self._rng.binomial(number, share))


class _Group:
    """The cells of the devices that go by one clock: shares of all of them, endings and delays."""

    def __init__(self, model: FleetModel, clock: int) -> None:
        parts = -np.log1p(-(np.arange(DELAY_PARTS) + 0.5) / DELAY_PARTS)  # medians of parts of an exponential
        kinds, endings, shares = _cells(model, clock)
        self.clock = model.clocks[clock]
        self.shares = np.repeat(shares / DELAY_PARTS, DELAY_PARTS)
        self.endings = np.repeat(endings, DELAY_PARTS)
        of_kind = np.repeat(kinds, DELAY_PARTS)
        self.contact = _of_kinds(model, "contact_seconds")[of_kind] * np.tile(parts, len(kinds))
        self.update = _of_kinds(model, "update_seconds")[of_kind] * (QUICKEST + SLOWEST) / 2
        self._longest = float((self.contact + self.update).max())
        self._model, self._of_kind = model, of_kind
        self.place = np.array([kind.place for kind in model.kinds])[of_kind]
        self._interrupted = _interrupted(model, of_kind)

    def moved(self, cells: Integers, at: Floats) -> Floats:
        """Return when devices of some cells are given the release that could have it at some times."""
        return _moved(self._model, self._of_kind[cells], at)

    def online(self, cells: Integers, at: Floats) -> Floats:
        """Return when devices of some cells have the network that want it at some times."""
        return _online(self._model, self._of_kind[cells], at)

    def times(self, let_in: float) -> tuple[Floats, Floats]:
        """Return when devices of each cell are given the release that are let in at a time, and when they end."""
        given = let_in + self.contact
        ends = given + self.update
        for kind, ours in self._interrupted:
            if not self.clock.is_always or not kind.is_online(let_in, seconds=self._longest):
                begin = np.full(ours.size, let_in)
                given[ours], ends[ours] = _times(kind, begin, self.contact[ours], self.update[ours], clock=self.clock)
        return given, ends


class EachDevice:
    """Draws every device; they are let in once each, in a random order.

    Args:
        model: the fleet.
        rng: seeded.
    """

    def __init__(self, model: FleetModel, rng: np.random.Generator) -> None:
        self._model, self._rng = model, rng
        kinds, endings, shares = _cells(model)
        chosen = rng.choice(len(shares), size=model.devices, p=shares)
        self._kinds, self._endings = kinds[chosen], endings[chosen]
        self._contact = rng.exponential(_of_kinds(model, "contact_seconds")[self._kinds])
        self._update = _of_kinds(model, "update_seconds")[self._kinds] * rng.uniform(QUICKEST, SLOWEST, model.devices)
        self._clocks = np.array([kind.clock for kind in model.kinds])[self._kinds]
        self._by_clock = [(self._clocks == clock).nonzero()[0] for clock in range(len(model.clocks))]
        self._drawn = [0 for _ in model.clocks]
        self._next = 0
        self._place: Integers = np.array([kind.place for kind in model.kinds])[self._kinds]
        self._site = np.zeros(model.devices, dtype=np.int64)
        self._turns = [Turns(places) for places in model.places]
        self._work = self._update
        for number, places in enumerate(model.places):
            ours = (self._place == number).nonzero()[0]
            self._site[ours] = rng.permutation(ours.size) % places.number
            self._work = np.where(self._place == number, self._at_work(places.silent_seconds), self._work)

    def _at_work(self, silent_seconds: float) -> Floats:
        """Return how long each device is at its update, over all its attempts."""
        attempts = np.array([1 + ending.earlier for ending in self._model.endings])
        is_silent = np.array([ending.state is ActionState.TIMED_OUT for ending in self._model.endings])
        return np.where(is_silent[self._endings], silent_seconds, self._update * attempts[self._endings])

    def left(self, clock: int) -> int:
        """Return how many devices are left that go by a clock."""
        return len(self._by_clock[clock]) - self._drawn[clock]

    def split(self, devices: int) -> Sequence[int]:
        """See `Sampler.split`."""
        taken = self._clocks[self._next : self._next + devices]
        self._next += devices
        return [int(count) for count in np.bincount(taken, minlength=len(self._by_clock))]

    def draw(self, devices: int, at: float, *, seconds: float, clock: int = 0) -> Batch:
        """See `Sampler.draw`."""
        begin = self._drawn[clock]
        self._drawn[clock] = begin + devices
        taken = self._by_clock[clock][begin : begin + devices]
        contact, update = self._contact[taken], self._update[taken]
        let_in = at + seconds * (np.arange(devices) + 0.5) / devices
        given = let_in + contact
        ends = given + update
        times = self._model.clocks[clock]
        for kind, ours in _interrupted(self._model, self._kinds[taken]):
            given[ours], ends[ours] = _times(kind, let_in[ours], contact[ours], update[ours], clock=times)
        counts = np.ones(devices, dtype=np.int64)
        if not self._turns:
            return Batch(devices, counts, let_in, given, ends, self._endings[taken])
        called, begun = self._take_turns(taken, given)
        ends = _online(self._model, self._kinds[taken], begun + update)
        return Batch(devices, counts, let_in, begun, ends, self._endings[taken], Waiting(given, called))

    def _take_turns(self, taken: Integers, asked: Floats) -> tuple[Floats, Floats]:
        """Return when devices are called, and when they are given the release, by who else is at their place."""
        called, given = asked.copy(), asked.copy()
        for number, turns in enumerate(self._turns):
            ours = (self._place[taken] == number).nonzero()[0]
            if not ours.size:
                continue
            devices = taken[ours]
            called[ours], given[ours] = turns.take(
                self._site[devices],
                asked[ours],
                contact=self._contact[devices],
                work=self._work[devices],
                move=partial(_moved_of, self._model, self._kinds[devices]),
            )
        return called, given

    def hits(self, number: int, share: float) -> int:
        """See `Sampler.hits`."""
        return int(self._rng.binomial(number, share))


class _SampledWaits:
    """How long devices of one place wait for others: as those of some of the places do, drawn each.

    Args:
        model: the fleet.
        place: which of the fleet's places.
        rng: seeded.
    """

    def __init__(self, model: FleetModel, place: int, rng: np.random.Generator) -> None:
        ours = [kind for kind in model.kinds if kind.place == place]
        all_of_us = sum(kind.share for kind in ours)
        places = model.places[place]
        share = min(1.0, max(SAMPLED / (all_of_us * model.devices), FEWEST_PLACES / places.number))
        devices = max(1, round(all_of_us * model.devices * share))
        kinds = tuple(replace(kind, share=kind.share / all_of_us, place=0) for kind in ours)
        fewer = replace(places, number=max(1, round(places.number * share)))
        self._sample = EachDevice(replace(model, devices=devices, kinds=kinds, places=(fewer,)), rng)
        of_clocks = zip(shares_of_clocks(replace(model, kinds=tuple(ours))), shares_of_clocks(model), strict=True)
        self._shares = [share * part / whole if whole else 0.0 for part, whole in of_clocks]
        self._due = [0.0 for _ in model.clocks]
        self._waits: Floats = np.zeros(PARTS.size)

    def draw(self, devices: int, at: float, *, seconds: float, clock: int) -> Floats:
        """Return the waits of the next devices of the fleet that belong here, for each of `PARTS`."""
        self._due[clock] += devices * self._shares[clock]
        number = min(int(self._due[clock]), self._sample.left(clock))
        if number:
            self._due[clock] -= number
            batch = self._sample.draw(number, at, seconds=seconds, clock=clock)
            asked = batch.given_at if batch.waiting is None else batch.waiting.asked_at
            self._waits = np.quantile(batch.given_at - asked, MIDDLES)
        return self._waits


def shares_of_clocks(model: FleetModel) -> Floats:
    """Return which share of the devices goes by which clock."""
    shares = np.zeros(len(model.clocks))
    np.add.at(shares, [kind.clock for kind in model.kinds], [kind.share for kind in model.kinds])
    return shares


def _interrupted(model: FleetModel, kinds: Integers) -> list[tuple[Kind, Integers]]:
    """Return the kinds that cannot be given the release at any time, each with the places where it stands."""
    return [
        (kind, (kinds == number).nonzero()[0])
        for number, kind in enumerate(model.kinds)
        if kind.offline or kind.outages or not model.clocks[kind.clock].is_always
    ]


def _times(kind: Kind, let_in: Floats, contact: Floats, update: Floats, *, clock: OpenTimes) -> tuple[Floats, Floats]:
    """Return when devices are given the release and when their results arrive.

    Both need the network, and the first an open window, too: who has begun may finish after its end.
    """
    given = _in_window(kind, kind.online_from(kind.online_from(let_in) + contact), clock)
    return given, kind.online_from(given + update)


def _moved_of(model: FleetModel, kinds: Integers, ours: Integers, at: Floats) -> Floats:
    return _moved(model, kinds[ours], at)


def _moved(model: FleetModel, kinds: Integers, at: Floats) -> Floats:
    """Return when devices of these kinds are given the release that could have it at these times."""
    moved = at.copy()
    for kind, ours in _interrupted(model, kinds):
        moved[ours] = _in_window(kind, kind.online_from(at[ours]), model.clocks[kind.clock])
    return moved


def _online(model: FleetModel, kinds: Integers, at: Floats) -> Floats:
    online = at.copy()
    for kind, ours in _interrupted(model, kinds):
        online[ours] = kind.online_from(at[ours])
    return online


def _in_window(kind: Kind, at: Floats, clock: OpenTimes) -> Floats:
    """Return the first moments from these on, at which devices are online, that lie in a window."""
    if clock.is_always:
        return at
    for _ in range(MOST_WINDOWS):
        at = kind.online_from(clock.open_from(at))
        if (clock.open_from(at) == at).all():
            return at
    return np.where(clock.open_from(at) == at, at, NEVER)


def _of_kinds(model: FleetModel, name: str) -> Floats:
    return np.array([getattr(kind, name) for kind in model.kinds], dtype=np.float64)


def _cells(model: FleetModel, clock: int | None = None) -> tuple[Integers, Integers, Floats]:
    """Return each kind that goes by a clock, or any, with each ending: their indexes, and their shares of these."""
    numbers = {ending: number for number, ending in enumerate(model.endings)}
    cells = [
        (which, numbers[ending], kind.share * share)
        for which, kind in enumerate(model.kinds)
        if clock in (None, kind.clock)
        for ending, share in kind.endings
    ]
    kinds, endings, shares = zip(*cells, strict=True)
    total = np.array(shares, dtype=np.float64)
    return np.array(kinds), np.array(endings), total / total.sum()
