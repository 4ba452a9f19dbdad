"""When the service could hear devices, and so from when on one that says nothing is silent.

An outage of the service is nobody's silence. A device is silent once one of these is so:
    1. the service has been up without a gap for the whole time that the device has, and it said nothing in it;
    2. the times in which the service was up add up to that time. After an outage, as long again as it lasted counts as
       little as the outage itself, but never more than the whole time: so long devices may take to find back. Of the
       time between two outages at least half counts, whatever they took.

So a long outage gives devices their whole time again, and short ones that come often delay a judgement by twice what
they took, where waiting for a gap-free time alone would never come to one.

Outages are in order and do not overlap. Of a clock that was ahead and is set back, what lies after the new time is
forgotten; so is when exactly the service was up long ago, but not for how long.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

MOST_OUTAGES = 100  # that are remembered; of more, two count as one


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no device could be heard, UTC, aware."""

    began: datetime
    ended: datetime

    @property
    def took(self) -> timedelta:
        """How long it lasted."""
        return self.ended - self.began

    def found_back(self, after: timedelta) -> datetime:
        """Return by when devices have found back, which have so much time before they are silent."""
        return self.ended + min(self.took, after)

    def with_later(self, later: "Outage") -> "Outage":
        """Return it and a later one as one: the time in which the service was up between is put before them.

        That time is no less for who was silent before it, and less for who was heard in it: nobody is silent too early.
        """
        return Outage(self.began + (later.began - self.ended), later.ended)


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
        known = self.until(outage.began)
        outages = (*known.outages, outage)
        return replace(known, outages=outages if len(outages) <= MOST_OUTAGES else _with_one_less(outages))

    def until(self, now: datetime) -> "Listening":
        """Return what is left of it at a time; what lies after it was written by a clock that was ahead."""
        if self.resumed_at <= now:
            return self
        outages = (Outage(min(each.began, now), min(each.ended, now)) for each in self.outages)
        return Listening(min(self.since, now), tuple(dict.fromkeys(outages)))

    def at(self, now: datetime, *, held_until: datetime, largest_gap: timedelta) -> "Listening":
        """Return it at a time, with the outage that ends then, if there is one.

        Args:
            now: UTC, aware.
            held_until: up to when the service was up for certain, UTC, aware; after `now` if the clock was set back.
            largest_gap: time after it that does not count as an outage.
        """
        if now - held_until > largest_gap:
            return self.interrupted(Outage(held_until, now))
        return self.until(now)

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
            half = outage.ended + (end - outage.ended) / 2
            begin = min(end if outage is self.outages[-1] else half, outage.found_back(after))
            yield begin, end
            end = min(end, outage.began)
        yield min(end, self.since), end


def _with_one_less(outages: tuple[Outage, ...]) -> tuple[Outage, ...]:
    """Return outages with two neighbours as one: those that took the least share of the time since they began.

    So what is not known exactly is a small share of the time ago that it was, however many outages there are.
    """
    now = outages[-1].ended

    def share(pair: tuple[Outage, Outage]) -> float:
        return (pair[0].took + pair[1].took) / max(now - pair[0].began, timedelta.resolution)

    at, (earlier, later) = min(enumerate(pairwise(outages[:-1])), key=lambda found: share(found[1]))
    return (*outages[:at], earlier.with_later(later), *outages[at + 2 :])
