"""The virtual scheduler: one thread, one heap of (due, order, entry); time jumps from one entry to the next.

Entries that are due at the same time run in the order in which they were put, so a run depends on nothing but what
its entries do. An entry has one place in the heap; another due time makes the old one stale.
"""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from typing_extensions import override

from simulation.clock import VirtualClock

NEVER = math.inf
_NOWHERE = 0  # order of an entry that is in no heap


class Entry(ABC):
    """What the scheduler steps; a base, because an entry knows its own place."""

    __slots__ = ("due", "order")

    def __init__(self) -> None:
        self.due = NEVER
        self.order = _NOWHERE

    @abstractmethod
    def step(self, now: float) -> float:
        """Do what is due.

        Args:
            now: seconds since the scenario's start.

        Returns:
            When to be stepped again; infinity for when it is woken.
        """


class Call(Entry):
    """An entry that calls a function."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[float], float]) -> None:
        super().__init__()
        self._function = function

    @override
    def step(self, now: float) -> float:
        """See `Entry.step`."""
        return self._function(now)


class Scheduler:
    """Steps entries in the order of virtual time.

    Args:
        clock: is moved.

    Attributes:
        steps: how many there were.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Entry]] = []
        self._order = _NOWHERE
        self._stopping = False
        self.steps = 0

    def put(self, entry: Entry, due: float) -> None:
        """Step an entry at a time, and not when it was to be stepped before."""
        self._order += 1
        entry.due, entry.order = due, self._order
        if due < NEVER:
            heapq.heappush(self._heap, (due, self._order, entry))

    def call(self, function: Callable[[float], float], due: float) -> Call:
        """Call a function at a time, and again when it says so."""
        entry = Call(function)
        self.put(entry, due)
        return entry

    def wake(self, entry: Entry) -> None:
        """Step an entry now, unless it is due earlier."""
        if entry.due > self._clock.seconds:
            self.put(entry, self._clock.seconds)

    def stop(self) -> None:
        """Let `run` return after the step that is being made."""
        self._stopping = True

    def run(self, until: float = NEVER) -> None:
        """Step whatever is due up to a time, or until nothing is or `stop` is called."""
        heap, clock, self._stopping = self._heap, self._clock, False
        while heap and not self._stopping:
            due, order, entry = heap[0]
            if entry.order != order:
                heapq.heappop(heap)
                continue
            if due > until:
                break
            clock.seconds = max(clock.seconds, due)
            self.steps += 1
            # While it is stepped it stands nowhere, so that waking it counts.
            entry.due, entry.order = NEVER, _NOWHERE
            again = entry.step(clock.seconds)
            self._put_back(entry, again)
        if until < NEVER and not self._stopping:
            clock.seconds = max(clock.seconds, until)

    def _put_back(self, entry: Entry, again: float) -> None:
        """Replace the top of the heap, where the stepped entry still is."""
        if entry.order != _NOWHERE and entry.due <= again:  # woken meanwhile
            heapq.heappop(self._heap)
        elif again < NEVER:
            self._order += 1
            entry.due, entry.order = again, self._order
            heapq.heapreplace(self._heap, (again, self._order, entry))
        else:
            heapq.heappop(self._heap)
