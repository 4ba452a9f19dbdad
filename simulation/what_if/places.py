"""Disruption budgets of a plan at the places of a fleet: who waits until another device there has ended its update.

How many may be at it at once is the engine's own rule (service/domain/timing.py). A place calls its devices in the
order in which they asked; one that was called keeps its place until its update has ended, also while its network is
away.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from simulation.what_if.arrays import Floats, Integers

NEVER = 1e12  # seconds

Move = Callable[[Integers, Floats], Floats]
"""Returns when devices, by index, that could be given the release at some times are given it: online, in a window."""


@dataclass(frozen=True, slots=True)
class Places:
    """Places that are alike.

    Attributes:
        number: of them.
        most: devices of one that may be at an update at once.
        silent_seconds: that a device keeps its place which falls silent.
    """

    number: int
    most: int
    silent_seconds: float


class Turns:
    """Keeps when the places of one kind are free.

    Args:
        places: the kind.
    """

    def __init__(self, places: Places) -> None:
        self._free: Floats = np.full((places.number, places.most), -np.inf)

    def take(
        self, sites: Integers, asked: Floats, *, contact: Floats, work: Floats, move: Move
    ) -> tuple[Floats, Floats]:
        """Return when devices are called, and when they are given the release.

        Args:
            sites: of each device; devices are in no order.
            asked: when it asks for the release, seconds from the scenario's start.
            contact: seconds from its call until it asks again.
            work: seconds that it is at its update.
            move: to when it can be given it.
        """
        called, given = asked.copy(), asked.copy()
        for ours in _by_rank(sites, asked):
            at = sites[ours]
            free = self._free[at]
            which = free.argmin(axis=1)
            begins = free[np.arange(ours.size), which]
            waits = begins > asked[ours]
            called[ours] = np.where(waits, begins, asked[ours])
            begun = move(ours, np.where(waits, begins + contact[ours], asked[ours]))
            given[ours] = begun
            self._free[at, which] = np.where(begun < NEVER, begun + work[ours], begins)
        return called, given


def _by_rank(sites: Integers, asked: Floats) -> Iterator[Integers]:
    """Yield the first device of each site to ask, then the second ones, and so on, as indexes."""
    order = np.lexsort((asked, sites))
    ordered = sites[order]
    begins = np.r_[True, ordered[1:] != ordered[:-1]].nonzero()[0]
    ranks = np.arange(order.size) - np.repeat(begins, np.diff(np.r_[begins, order.size]))
    by_rank = order[np.argsort(ranks, kind="stable")]
    yield from np.split(by_rank, np.cumsum(np.bincount(ranks))[:-1])
