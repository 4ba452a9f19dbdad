"""What a unit of work has changed, so that it can be undone.

Everything that is stored is in dicts, and every change of one goes through here. Queues are heaps beside them that
may hold too much, never too little: an entry counts only if the dicts agree, and one that was dropped comes back when
the transaction that dropped it is undone.
"""

import heapq
from datetime import datetime
from typing import Any, TypeVar

from typing_extensions import override

from simulation.errors import OutOfReachError, TransactionError

K = TypeVar("K")
V = TypeVar("V")
Sortable = TypeVar("Sortable", int, tuple[datetime, int])
_MISSING = object()


class Journal:
    """Changes of the unit of work that is open."""

    def __init__(self) -> None:
        self._changes: list[tuple[dict[Any, Any], Any, Any]] = []
        self._dropped: list[tuple[list[Any], Any]] = []
        self.is_read_only = False

    def put(self, table: dict[K, V], key: K, value: V) -> None:
        """Store a value under a key.

        Raises:
            TransactionError: the unit of work is read-only.
        """
        self._note(table, key)
        table[key] = value

    def remove(self, table: dict[K, V], key: K) -> None:
        """Remove a key, if it is there.

        Raises:
            TransactionError: the unit of work is read-only.
        """
        self._note(table, key)
        table.pop(key, None)

    def drop(self, queue: list[Sortable]) -> Sortable:
        """Take the first entry off a heap, until the transaction is undone."""
        entry = heapq.heappop(queue)
        if not self.is_read_only:
            self._dropped.append((queue, entry))
        return entry

    def keep(self) -> None:
        """Make the changes last."""
        self._changes.clear()
        self._dropped.clear()

    def undo(self) -> None:
        """Bring everything back to how it was."""
        for table, key, before in reversed(self._changes):
            if before is _MISSING:
                table.pop(key, None)
            else:
                table[key] = before
        for queue, entry in self._dropped:
            heapq.heappush(queue, entry)
        self.keep()

    def _note(self, table: dict[Any, Any], key: object) -> None:
        if self.is_read_only:
            raise TransactionError("unit of work: expected no change in a read-only one, found one")
        self._changes.append((table, key, table.get(key, _MISSING)))


class Partial:
    """A repository of which a scenario reaches a part."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever is asked for
        raise OutOfReachError(f"{type(self).__name__}: expected what a scenario reaches, found {name}")


class Unreached(Partial):
    """A repository of which a scenario reaches nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    @override
    def __getattr__(self, name: str) -> Any:
        raise OutOfReachError(f"{self._name}: expected what a scenario reaches, found {name}")
