"""What happens to the devices of a stage when, on a grid of time: how many of each column fall into each slot."""

from math import inf

import numpy as np

from simulation.what_if.arrays import Floats, Integers

FIRST_SLOTS = 8192  # a day of ten seconds each


class Agenda:
    """Integers by slot and column.

    Args:
        start: of the first slot, seconds from the scenario's start.
        slot_seconds: length of a slot; what falls into it happens at its end.
        columns: kinds of what can happen.
    """

    def __init__(self, start: float, *, slot_seconds: float, columns: int) -> None:
        self._start = start
        self._length = slot_seconds
        self._counts: Integers = np.zeros((FIRST_SLOTS, columns), dtype=np.int64)
        self._is_busy = np.zeros(FIRST_SLOTS, dtype=np.bool_)
        self._next = 0  # slots before it have been taken
        self._last = -1  # slots after it are empty
        self._next_at = inf

    def add(self, at: Floats, columns: Integers, counts: Integers) -> None:
        """Enter what happens at some times, seconds from the scenario's start; arrays of one length, not empty."""
        slots = np.ceil((at - self._start) / self._length).astype(np.int64) - 1
        slots = np.maximum(slots, self._next)
        last = int(slots.max())
        self._grow(last + 1)
        np.add.at(self._counts.reshape(-1), slots * self._counts.shape[1] + columns, counts)
        self._is_busy[slots] = True
        self._last = max(self._last, last)
        self._next_at = min(self._next_at, self._end_of(int(slots.min())))

    def next_at(self) -> float:
        """Return when something happens next, seconds from the scenario's start; infinity for never."""
        return self._next_at

    def take(self, until: float) -> Integers:
        """Return what has happened by a time and was not taken yet, by column."""
        end = max(self._next, min(int((until - self._start) / self._length + 1e-6), self._last + 1))
        taken: Integers = self._counts[self._next : end].sum(axis=0)
        self._next = end
        self._next_at = inf
        if end <= self._last:
            self._next_at = self._end_of(end + int(self._is_busy[end : self._last + 1].argmax()))
        return taken

    def _end_of(self, slot: int) -> float:
        return self._start + (slot + 1) * self._length

    def _grow(self, slots: int) -> None:
        have = len(self._is_busy)
        if slots <= have:
            return
        more = max(slots, 2 * have) - have
        self._counts = np.concatenate([self._counts, np.zeros((more, self._counts.shape[1]), dtype=np.int64)])
        self._is_busy = np.concatenate([self._is_busy, np.zeros(more, dtype=np.bool_)])
