"""Things that many threads share, each used by one at a time: any that is free, or one that is wanted."""

import threading
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lending(Generic[T]):
    """Lends things out and takes them back.

    Args:
        things: all free at first.
    """

    def __init__(self, things: Iterable[T]) -> None:
        self._free = list(things)
        self._changed = threading.Condition()

    def take(self, timeout_seconds: float | None, wanted: T | None = None) -> T | None:
        """Borrow a thing.

        Args:
            timeout_seconds: longest wait; None: as long as it takes.
            wanted: this one; None: any.

        Returns:
            The thing, or None if it did not become free in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._has(wanted), timeout_seconds):
                return None
            return self._free.pop(0 if wanted is None else self._free.index(wanted))

    def give(self, thing: T) -> None:
        """Take a thing back."""
        with self._changed:
            self._free.append(thing)
            self._changed.notify_all()

    @property
    def none_left(self) -> bool:
        """Whether everything is lent out."""
        return not self._free

    def _has(self, wanted: T | None) -> bool:
        return bool(self._free) if wanted is None else wanted in self._free
