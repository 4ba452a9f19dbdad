"""What the devices of one stage have come to, as the counters that reports move in the service."""

from collections.abc import Sequence

import numpy as np

from protocol.messages import ActionState, Cause
from service.domain.rollout_counts import StageCounts, Trace
from simulation.what_if.agenda import Agenda
from simulation.what_if.fleet import Ending, Floats
from simulation.what_if.sampling import Batch, Integers

_RULED = frozenset({Cause.BOOT, Cause.GOLDEN_VECTORS})  # failures that halt a small stage


class StageTally:
    """Follows the devices of one stage.

    Args:
        endings: of the fleet's devices.
        slot_seconds: results that come together.
        timeout_seconds: after which a device without a result counts as silent.
        longest_seconds: from the scenario's start; what happens later is of no interest.

    Attributes:
        let_in: devices so far.
    """

    def __init__(
        self, endings: Sequence[Ending], *, slot_seconds: float, timeout_seconds: float, longest_seconds: float
    ) -> None:
        self.let_in = 0
        self._endings = endings
        self._slot_seconds = slot_seconds
        self._timeout = timeout_seconds
        self._longest = longest_seconds
        self._is_mute = np.array([ending.state is ActionState.TIMED_OUT for ending in endings])
        self._silent = 2 * len(endings)  # columns: given by ending, ended by ending, silent, never reached
        self._totals: Integers = np.zeros(2 * len(endings) + 2, dtype=np.int64)
        self._agenda: Agenda | None = None
        self._is_changed = False

    @property
    def harmed(self) -> int:
        """Devices that were given the release and that it is bad for."""
        return sum(int(given) for ending, given in zip(self._endings, self._totals, strict=False) if ending.is_harmed)

    @property
    def counts(self) -> StageCounts:
        """The engine's counters."""
        totals = self._totals.tolist()
        number = len(self._endings)
        given, ended, silent, unreached = sum(totals[:number]), totals[number:-2], totals[-2], totals[-1]
        succeeded = reverted = ruled = 0
        causes = {Cause.SILENT: silent} if silent else {}
        for ending, count in zip(self._endings, ended, strict=True):
            is_reverted = ending.state is ActionState.REVERTED
            succeeded += count * (ending.state is ActionState.CONFIRMED)
            reverted += count * is_reverted
            ruled += count * (is_reverted or ending.cause in _RULED)
            if ending.cause is not None and count:
                causes[ending.cause] = causes.get(ending.cause, 0) + count
        return StageCounts(
            scheduled=self.let_in - given - unreached,
            in_progress=given - sum(ended) - silent,
            succeeded=succeeded,
            failed=sum(ended) - succeeded + silent + unreached,
            reverted=reverted,
            ruled=ruled,
            exposed=given,
            proved=succeeded,
            causes={Trace(frozenset({cause})): count for cause, count in causes.items()},
        )

    def let_in_batch(self, batch: Batch) -> None:
        """Follow further devices."""
        if self._agenda is None:
            start = float(batch.let_in_at[0]) // self._slot_seconds * self._slot_seconds
            self._agenda = Agenda(start, slot_seconds=self._slot_seconds, columns=self._silent + 2)
        self.let_in += int(batch.counts.sum())
        self._is_changed = True
        is_reached = batch.given_at - batch.let_in_at <= self._timeout
        is_heard = ~self._is_mute[batch.endings] & (batch.ends_at - batch.given_at <= self._timeout)
        silent_at = np.where(is_reached, batch.given_at, batch.let_in_at) + self._timeout
        column = np.where(is_heard, batch.endings + len(self._endings), self._silent)
        self._add(batch.given_at[is_reached], batch.endings[is_reached], batch.counts[is_reached])
        self._add(
            np.where(is_reached & is_heard, batch.ends_at, silent_at),
            np.where(is_reached, column, self._silent + 1),
            batch.counts,
        )

    def _add(self, at: Floats, columns: Integers, counts: Integers) -> None:
        if self._agenda is not None and at.size:
            self._agenda.add(np.minimum(at, self._longest), columns, counts)

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
