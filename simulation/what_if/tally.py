"""What the devices of one stage have come to, as the counters that reports move in the service."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from protocol.plan import HealthEvent
from service.domain.rollout_counts import StageCounts
from simulation.what_if.agenda import Agenda
from simulation.what_if.arrays import Floats, Integers
from simulation.what_if.columns import Columns
from simulation.what_if.sampling import Batch

_Entry = tuple[Floats, Integers, Integers]  # times, columns and counts of what happens to devices


class StageTally:
    """Follows the devices of one stage.

    Args:
        columns: of the fleet's endings.
        slot_seconds: results that come together.
        timeout_seconds: after which a device without a result counts as silent.
        longest_seconds: from the scenario's start; what happens later is of no interest.
        pause_seconds: between a failure and the next attempt.
        clocks: that devices go by.

    Attributes:
        let_in: devices so far.
        held: further ones, whose window has yet to open, by their clock.
    """

    def __init__(
        self,
        columns: Columns,
        *,
        slot_seconds: float,
        timeout_seconds: float,
        longest_seconds: float,
        pause_seconds: float = 0.0,
        clocks: int = 1,
    ) -> None:
        self.let_in = 0
        self.held = [0] * clocks
        self._slot_seconds = slot_seconds
        self._timeout = timeout_seconds
        self._longest = longest_seconds
        self._pause = pause_seconds
        self._columns = columns
        self._totals: Integers = np.zeros(columns.number, dtype=np.int64)
        self._agenda: Agenda | None = None
        self._is_changed = False

    @property
    def harmed(self) -> int:
        """Devices that were given the release and that it is bad for."""
        return self._columns.harmed(self._totals)

    @property
    def counts(self) -> StageCounts:
        """The engine's counters."""
        return self._columns.counts(self._totals, let_in=self.let_in, held=sum(self.held))

    @property
    def struck(self) -> Mapping[HealthEvent, int]:
        """Devices that something has struck after they confirmed, by what."""
        return self._columns.struck_by(self._totals)

    @property
    def taken(self) -> int:
        """Devices that the stage has come to."""
        return self.let_in + sum(self.held)

    def hold(self, clock: int, devices: int) -> None:
        """Have further devices wait for their window."""
        self.held[clock] += devices
        self._is_changed = True

    def release(self, clock: int, devices: int) -> None:
        """Have some of those wait no more; they are let in next."""
        self.held[clock] -= devices

    def let_in_batch(self, batch: Batch) -> None:
        """Follow further devices."""
        if self._agenda is None:
            start = float(batch.let_in_at[0]) // self._slot_seconds * self._slot_seconds
            self._agenda = Agenda(start, slot_seconds=self._slot_seconds, columns=self._columns.number)
        self.let_in += batch.devices
        self._is_changed = True
        at, columns, counts = map(np.concatenate, zip(*self._entries(batch), strict=True))
        self._agenda.add(np.minimum(at, self._longest), columns, counts)

    def _entries(self, batch: Batch) -> Iterator[_Entry]:
        """Yield what happens to the devices of a batch when."""
        endings, counts, columns = batch.endings, batch.counts, self._columns
        waited: Floats | float = 0.0
        if batch.waiting is not None:
            waited = batch.waiting.called_at - batch.waiting.asked_at
            waits = (waited > 0).nonzero()[0]
            column = np.full(waits.size, columns.waiting)
            yield batch.waiting.asked_at[waits], column, counts[waits]
            yield batch.waiting.called_at[waits], column, -counts[waits]
        is_reached = batch.given_at - batch.let_in_at - waited <= self._timeout
        is_heard = is_reached & columns.is_heard[endings] & (batch.ends_at - batch.given_at <= self._timeout)
        yield from _of(is_reached, batch.given_at, endings, counts)
        ends_at = batch.ends_at
        if columns.is_any_tried_again:
            earlier = columns.earlier[endings]
            of_one = ends_at - batch.let_in_at - batch.kept_waiting  # each attempt takes as long
            ends_at = ends_at + earlier * (self._pause + of_one)
            yield from _of(is_heard & (earlier > 0), batch.ends_at, endings + columns.again, counts)
        if columns.is_any_struck:
            struck_at = ends_at + columns.event_after[endings]
            yield from _of(is_heard & columns.is_struck[endings], struck_at, endings + columns.struck, counts)
        if is_heard.all():
            yield ends_at, endings + columns.ended, counts
            return
        silent_at = np.where(is_reached, batch.given_at, batch.let_in_at + waited) + self._timeout
        silent = np.where(is_reached, columns.silent, columns.unreached)
        yield np.where(is_heard, ends_at, silent_at), np.where(is_heard, endings + columns.ended, silent), counts

    def next_at(self) -> float:
        """Return when a device moves next, seconds from the scenario's start; infinity for never."""
        return np.inf if self._agenda is None else self._agenda.next_at()

    def take(self, until: float) -> bool:
        """Count what has happened by a time; says whether the counters have changed since the last call."""
        is_changed, self._is_changed = self._is_changed, False
        if self._agenda is None or self._agenda.next_at() > until:
            return is_changed
        self._totals += self._agenda.take(until)
        return True


def _of(chosen: NDArray[np.bool_], at: Floats, columns: Integers, counts: Integers) -> Iterator[_Entry]:
    """Yield what happens to the chosen ones, if there are any."""
    if chosen.all():
        yield at, columns, counts
    elif chosen.any():
        yield at[chosen], columns[chosen], counts[chosen]
