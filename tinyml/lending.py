"""Things that many threads share, each used by one at a time: any that is free, or one that is wanted."""

import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Waiter(Generic[T]):
    """A thread that waits for a thing; None: for any."""

    def __init__(self, wanted: T | None) -> None:
        self.wanted = wanted
        self.lent: T | None = None
        self.has_come = threading.Event()


class Lending(Generic[T]):
    """Lends things out and takes them back; who has waited for the longest is served first, and alone is woken.

    Args:
        things: all free at first.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self._free = list(things)
        self._waiting: list[_Waiter[T]] = []
        self._lock = threading.Lock()

    def take(self, timeout_seconds: float | None, wanted: T | None = None) -> T | None:
        """Borrow a thing.

        Args:
            timeout_seconds: longest wait; None: as long as it takes.
            wanted: this one; None: any.

        Returns:
            The thing, or None if it did not become free in time.
        """
        with self._lock:
            found = next((thing for thing in self._free if _fits(thing, wanted)), None)
            if found is not None:
                self._free.remove(found)
                return found
            waiter = _Waiter(wanted)
            self._waiting.append(waiter)
        waiter.has_come.wait(timeout_seconds)
        with self._lock:
            if waiter.lent is None:
                self._waiting.remove(waiter)
            return waiter.lent

    def give(self, thing: T) -> None:
        """Take a thing back."""
        with self._lock:
            waiter = next((waiter for waiter in self._waiting if _fits(thing, waiter.wanted)), None)
            if waiter is None:
                self._free.append(thing)
                return
            self._waiting.remove(waiter)
            waiter.lent = thing
            waiter.has_come.set()

    @property
    def none_left(self) -> bool:
        """Whether everything is lent out."""
        return not self._free


def _fits(thing: T, wanted: T | None) -> bool:
    return wanted is None or wanted is thing
