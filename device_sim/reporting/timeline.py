"""A time line of bounded length: points at even distances, which double whenever there would be too many."""

from collections.abc import Mapping

MAX_POINTS = 600


class Timeline:
    """Samples counts as time goes on.

    Args:
        interval_seconds: between two points at first.
    """

    def __init__(self, *, interval_seconds: float = 1.0) -> None:
        self._interval = interval_seconds
        self._points: list[tuple[float, dict[str, int]]] = []
        self._due = 0.0

    @property
    def points(self) -> list[tuple[float, dict[str, int]]]:
        """Pairs of seconds and counts, in the order of time."""
        return list(self._points)

    def advance(self, now: float, counts: Mapping[str, int]) -> None:
        """Take every point that is due before `now`; the counts are those that held until then."""
        while self._due <= now:
            self._points.append((self._due, dict(counts)))
            if len(self._points) > MAX_POINTS:
                self._points = self._points[::2]
                self._interval *= 2
            self._due = self._points[-1][0] + self._interval
