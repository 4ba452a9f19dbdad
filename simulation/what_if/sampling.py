"""What becomes of devices that are let in: when they are given the release, and when and how they end.

`EachDevice` draws every device for itself, its kind and its end once and for all. `Aggregated` draws how many of a
batch fall into which cell (kind, end, part of the delays), which costs the same for ten devices as for ten thousand.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulation.what_if.fleet import FleetModel, Floats, Kind

Integers = NDArray[np.int64]
DELAY_PARTS = 5  # equal parts of the delays' distribution, each in the place of its median
QUICKEST, SLOWEST = 0.8, 1.4  # times the kind's usual time for an update; a draw lies evenly between


@dataclass(frozen=True, slots=True)
class Batch:
    """Devices that were let in together, in groups; arrays of one length.

    Attributes:
        counts: devices of each group.
        let_in_at: seconds from the scenario's start.
        given_at: when they have the release.
        ends_at: when the service has their result, where there is one.
        endings: index into the model's endings.
    """

    counts: Integers
    let_in_at: Floats
    given_at: Floats
    ends_at: Floats
    endings: Integers


class Sampler(Protocol):
    """Draws what becomes of devices."""

    def draw(self, devices: int, at: float, *, seconds: float) -> Batch:
        """Return what becomes of the next devices.

        Args:
            devices: at least one.
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
        parts = -np.log1p(-(np.arange(DELAY_PARTS) + 0.5) / DELAY_PARTS)  # medians of parts of an exponential
        kinds, endings, shares = _cells(model)
        self._shares = np.repeat(shares / DELAY_PARTS, DELAY_PARTS)
        self._endings = np.repeat(endings, DELAY_PARTS)
        of_kind = np.repeat(kinds, DELAY_PARTS)
        self._contact = _of_kinds(model, "contact_seconds")[of_kind] * np.tile(parts, len(kinds))
        self._update = _of_kinds(model, "update_seconds")[of_kind] * (QUICKEST + SLOWEST) / 2
        self._interrupted = _interrupted(model, of_kind)

    def draw(self, devices: int, at: float, *, seconds: float) -> Batch:
        """See `Sampler.draw`."""
        counts = self._rng.multinomial(devices, self._shares)
        let_in = np.full(counts.size, at + seconds / 2)
        given = let_in + self._contact
        ends = given + self._update
        for kind, ours in self._interrupted:
            given[ours], ends[ours] = _times(kind, let_in[ours], self._contact[ours], self._update[ours])
        hit = counts.nonzero()[0]
        return Batch(counts[hit], let_in[hit], given[hit], ends[hit], self._endings[hit])

    def hits(self, number: int, share: float) -> int:
        """See `Sampler.hits`."""
        return int(self._rng.binomial(number, share))


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
        self._next = 0

    def draw(self, devices: int, at: float, *, seconds: float) -> Batch:
        """See `Sampler.draw`."""
        taken = slice(self._next, self._next + devices)
        self._next += devices
        contact, update = self._contact[taken], self._update[taken]
        let_in = at + seconds * (np.arange(devices) + 0.5) / devices
        given = let_in + contact
        ends = given + update
        for kind, ours in _interrupted(self._model, self._kinds[taken]):
            given[ours], ends[ours] = _times(kind, let_in[ours], contact[ours], update[ours])
        return Batch(np.ones(devices, dtype=np.int64), let_in, given, ends, self._endings[taken])

    def hits(self, number: int, share: float) -> int:
        """See `Sampler.hits`."""
        return int(self._rng.binomial(number, share))


def _interrupted(model: FleetModel, kinds: Integers) -> list[tuple[Kind, Integers]]:
    """Return the kinds that are not always online, each with the places where it stands."""
    return [
        (kind, (kinds == number).nonzero()[0])
        for number, kind in enumerate(model.kinds)
        if kind.offline or kind.outages
    ]


def _times(kind: Kind, let_in: Floats, contact: Floats, update: Floats) -> tuple[Floats, Floats]:
    """Return when devices are given the release and when their results arrive: both need the network."""
    given = kind.online_from(kind.online_from(let_in) + contact)
    return given, kind.online_from(given + update)


def _of_kinds(model: FleetModel, name: str) -> Floats:
    return np.array([getattr(kind, name) for kind in model.kinds], dtype=np.float64)


def _cells(model: FleetModel) -> tuple[Integers, Integers, Floats]:
    """Return each kind with each of its endings: their indexes, and their shares of the fleet."""
    numbers = {ending: number for number, ending in enumerate(model.endings)}
    cells = [
        (which, numbers[ending], kind.share * share)
        for which, kind in enumerate(model.kinds)
        for ending, share in kind.endings
    ]
    kinds, endings, shares = zip(*cells, strict=True)
    total = np.array(shares, dtype=np.float64)
    return np.array(kinds), np.array(endings), total / total.sum()
