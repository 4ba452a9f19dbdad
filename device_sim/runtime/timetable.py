"""What a device does when: named jobs, each with the time it is due next, on the monotonic clock."""

import math
from collections.abc import Callable

NEVER = math.inf

Job = Callable[[float], float]
"""Does what is due; takes the time, returns when it is due again."""


class Timetable:
    """Named jobs of one device; used by one thread at a time."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._due: dict[str, float] = {}

    def set(self, name: str, job: Job, *, due: float) -> None:
        """Add a job, or give it another time."""
        self._jobs[name] = job
        self._due[name] = due

    def advance(self, name: str, due: float) -> None:
        """Have a job done at the latest at a time."""
        self._due[name] = min(self._due[name], due)

    def due_apart_from(self, name: str) -> float:
        """Return when the first of all other jobs is due."""
        return min([due for other, due in self._due.items() if other != name], default=NEVER)

    def run(self, now: float) -> float:
        """Do every job that is due, in the order of their times; return when the next one is.

        A job may advance others. What becomes due meanwhile waits for the next call.
        """
        ready = sorted([(due, name) for name, due in self._due.items() if due <= now])
        for _, name in ready:
            self._due[name] = NEVER
            again = self._jobs[name](now)
            self._due[name] = min(self._due[name], again)
        return min(self._due.values(), default=NEVER)
