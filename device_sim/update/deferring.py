"""What the device's application says when an update is about to begin, as Azure Sphere's system events let it.

There an application hears UpdateReadyForInstall and may defer it (SysEvent_DeferEvent); the service decides whether it
still may. Here it is asked before anything is fetched.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol


class UpdateListener(Protocol):
    """The application's handler of system events about updates."""

    def on_update_pending(self, *, deferrals: int) -> timedelta | None:
        """Return for how long the update is to wait, or None to let it begin.

        Args:
            deferrals: how often this update was put off before.
        """


class LetsBegin:
    """An application that handles no system events."""

    def on_update_pending(self, *, deferrals: int) -> timedelta | None:
        """See `UpdateListener.on_update_pending`."""
        del deferrals
        return None


LETS_BEGIN = LetsBegin()


@dataclass(frozen=True, slots=True)
class PutsOff:
    """An application whose user is at work, and says so a number of times.

    Attributes:
        lasts: for which each update is put off, above 0.
        times: at most; then it may begin.
    """

    lasts: timedelta
    times: int

    def on_update_pending(self, *, deferrals: int) -> timedelta | None:
        """See `UpdateListener.on_update_pending`."""
        return self.lasts if deferrals < self.times else None
