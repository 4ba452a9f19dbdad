"""Ids in their order, sorted when they are read; what was added is there, what was removed may still be."""

import bisect
from collections.abc import Sequence

FEW = 20  # ids that are sorted in one by one
_BEYOND_HEX = "g"  # sorts after every hex digit


class SortedIds:
    """A set that is read in order and may hold too much, so that nothing of it need be undone."""

    __slots__ = ("_added", "_sorted")

    def __init__(self) -> None:
        self._sorted: list[str] = []
        self._added: list[str] = []

    def add(self, new: str) -> None:
        """Add an id; one that is there already changes nothing."""
        self._added.append(new)

    def beginning(self, prefix: str) -> Sequence[str]:
        """Return the ids that begin with hex digits, in their order."""
        added, self._added = self._added, []
        if len(added) > FEW:
            self._sorted = sorted({*self._sorted, *added})
        else:
            for each in added:
                self._insert(each)
        first = bisect.bisect_left(self._sorted, prefix)
        return self._sorted[first : bisect.bisect_left(self._sorted, prefix + _BEYOND_HEX)]

    def _insert(self, new: str) -> None:
        place = bisect.bisect_left(self._sorted, new)
        if place == len(self._sorted) or self._sorted[place] != new:
            self._sorted.insert(place, new)
