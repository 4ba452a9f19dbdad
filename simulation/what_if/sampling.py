"""What becomes of devices that are let in: when they are given the release, and when and how they end.

`EachDevice` draws every device for itself, its kind and its end once and for all. `Aggregated` draws how many of a
batch fall into which cell (kind, end, part of the delays), which costs the same for ten devices as for ten thousand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from simulation.what_if.fleet import Ending, FleetModel, Kind

DELAY_PARTS = 5  # equal parts of the delays' distribution, each in the place of its median


@dataclass(frozen=True, slots=True)
class Batch:
    """Devices that were let in together, in groups; arrays of one length.

    Attributes:
        counts: devices of each group.
        given_at: when they are given the release, seconds from the scenario's start.
        ends_at: when they have their result; of those that fall silent, when they were given it.
        endings: index into the model's endings.
    """

    counts: NDArray[np.int64]
    given_at: NDArray[np.float64]
    ends_at: NDArray[np.float64]
    endings: NDArray[np.int64]


class Sampler(Protocol):
    """Draws what becomes of devices."""

    def draw(self, devices: int, now: float) -> Batch:
        """Return what becomes of the next devices, let in at a time of the scenario, seconds from its start."""


class Aggregated:
    """Draws groups.

    Args:
        model: the fleet.
        rng: seeded.
    """

    def __init__(self, model: FleetModel, rng: np.random.Generator) -> None:
        self._model = model
        self._rng = rng
        parts = -np.log1p(-(np.arange(DELAY_PARTS) + 0.5) / DELAY_PARTS)  # medians of parts of an exponential
        rows = [
            (kind.share * ending.share / DELAY_PARTS, kind.contact_seconds * part, kind.update_seconds, number, which)
            for which, kind, number, ending in _cells(model)
            for part in parts
        ]
        table = np.array(rows)
        self._shares = table[:, 0] / table[:, 0].sum()
        self._contact, self._update = table[:, 1], table[:, 2]
        self._endings, self._kinds = table[:, 3].astype(int), table[:, 4].astype(int)

    def draw(self, devices: int, now: float) -> Batch:
        """See `Sampler.draw`."""
        counts = self._rng.multinomial(devices, self._shares)
        online = np.array([kind.online_from(now) for kind in self._model.kinds])
        given_at = online[self._kinds] + self._contact
        hit = counts > 0
        return Batch(counts[hit], given_at[hit], (given_at + self._update)[hit], self._endings[hit])


class EachDevice:
    """Draws every device; they are let in once each, in a random order.

    Args:
        model: the fleet.
        rng: seeded.
    """

    def __init__(self, model: FleetModel, rng: np.random.Generator) -> None:
        self._model = model
        cells = list(_cells(model))
        shares = np.array([kind.share * ending.share for _, kind, _, ending in cells])
        chosen = rng.choice(len(cells), size=model.devices, p=shares / shares.sum())
        self._kinds = np.array([which for which, _, _, _ in cells])[chosen]
        self._endings = np.array([number for _, _, number, _ in cells])[chosen]
        contact = np.array([kind.contact_seconds for kind in model.kinds])[self._kinds]
        self._contact = rng.exponential(contact)
        self._update = np.array([kind.update_seconds for kind in model.kinds])[self._kinds]
        self._update *= rng.uniform(0.8, 1.4, model.devices)
        self._next = 0

    def draw(self, devices: int, now: float) -> Batch:
        """See `Sampler.draw`."""
        taken = slice(self._next, self._next + devices)
        self._next += devices
        online = np.array([kind.online_from(now) for kind in self._model.kinds])
        given_at = online[self._kinds[taken]] + self._contact[taken]
        counts = np.ones(given_at.size, dtype=np.int64)
        return Batch(counts, given_at, given_at + self._update[taken], self._endings[taken])


def _cells(model: FleetModel) -> Iterator[tuple[int, Kind, int, Ending]]:
    """Yield each kind with each of its endings: numbers of both, and both."""
    number = 0
    for which, kind in enumerate(model.kinds):
        for ending in kind.endings:
            yield which, kind, number, ending
            number += 1
