"""When the service could hear devices, and so from when on one that says nothing is silent.

An outage of the service is nobody's silence. A device is silent once one of these is so:
    1. the service has been up without a gap for the whole time that the device has, and it said nothing in it;
    2. the times in which the service was up add up to that time. After an outage, as long again as it lasted counts as
       little as the outage itself, but never more than the whole time: so long devices may take to find back.

So a long outage gives devices their whole time again, and short ones that come often delay a judgement by twice what
they took, where waiting for a gap-free time alone would never come to one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

MOST_OUTAGES = 100  # that are remembered; what was before them counts as one


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no device could be heard, UTC, aware."""

    began: datetime
    ended: datetime

    def found_back(self, after: timedelta) -> datetime:
        """Return by when devices have found back, which have so much time before they are silent."""
        return self.ended + min(self.ended - self.began, after)


@dataclass(frozen=True, slots=True)
class Listening:
    """When the service was up.

    Attributes:
        since: nothing is known of the time before, UTC, aware.
        outages: since then, oldest first.
    """

    since: datetime
    outages: tuple[Outage, ...] = ()

    @property
    def resumed_at(self) -> datetime:
        """Since when it has been up without a gap, UTC, aware."""
        return self.outages[-1].ended if self.outages else self.since

    def interrupted(self, outage: Outage) -> "Listening":
        """Return it with one more outage, the latest."""
        outages = (*self.outages, outage)
        if len(outages) <= MOST_OUTAGES:
            return replace(self, outages=outages)
        return Listening(outages[0].ended, outages[1:])

    def due(self, since: datetime, after: timedelta, *, now: datetime) -> datetime:
        """Return when a device is silent that is not heard of, if no further outage comes.

        Args:
            since: from when on its time counts, UTC, aware; at most `now`.
            after: the time that it has.
            now: UTC, aware.
        """
        spans = (end - max(begin, since) for begin, end in self._spans(after, now=now) if end > since)
        left = after - sum((span for span in spans if span > timedelta()), timedelta())
        counts_from = max([now, *(outage.found_back(after) for outage in self.outages[-1:])])
        return min(max(since, self.resumed_at) + after, now if left <= timedelta() else counts_from + left)

    def silent_since(self, after: timedelta, *, now: datetime) -> datetime | None:
        """Return up to when a device must have been heard of last to be silent now; None if none can be."""
        if now - self.resumed_at >= after:
            return now - after
        left = after
        for begin, end in self._spans(after, now=now):
            if end - begin >= left:
                return end - left
            left -= end - begin
        return None

    def _spans(self, after: timedelta, *, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Give the times that count, the latest first."""
        end = now
        for outage in reversed(self.outages):
            yield min(end, outage.found_back(after)), end
            end = outage.began
        yield min(end, self.since), end
