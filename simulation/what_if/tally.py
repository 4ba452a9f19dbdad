"""What the devices of one stage have come to, as the counters that reports move in the service."""

from collections.abc import Mapping, Sequence

import numpy as np

from protocol.messages import ActionState, Cause
from protocol.plan import HealthEvent
from service.domain.rollout_counts import Fate, StageCounts, Trace
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
        pause_seconds: between a failure and the next attempt.

    Attributes:
        let_in: devices so far.
    """

    def __init__(
        self,
        endings: Sequence[Ending],
        *,
        slot_seconds: float,
        timeout_seconds: float,
        longest_seconds: float,
        pause_seconds: float = 0.0,
    ) -> None:
        self.let_in = 0
        self._endings = endings
        self._slot_seconds = slot_seconds
        self._timeout = timeout_seconds
        self._longest = longest_seconds
        self._pause = pause_seconds
        self._is_mute = np.array([ending.state is ActionState.TIMED_OUT for ending in endings])
        self._earlier = np.array([ending.earlier for ending in endings])
        self._is_struck = np.array([ending.event is not None for ending in endings])
        self._event_after = np.array([ending.event_after for ending in endings])
        # Columns: given, failed at first, struck later and ended, each by ending; silent, never reached.
        self._silent = 4 * len(endings)
        self._totals: Integers = np.zeros(4 * len(endings) + 2, dtype=np.int64)
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
        given, begun, ended = sum(totals[:number]), totals[number : 2 * number], totals[3 * number : -2]
        silent, unreached = totals[-2:]
        succeeded = reverted = ruled = 0
        for ending, count in zip(self._endings, ended, strict=True):
            is_reverted = ending.state is ActionState.REVERTED
            succeeded += count * (ending.state is ActionState.CONFIRMED)
            reverted += count * is_reverted
            ruled += count * (is_reverted or ending.cause in _RULED)
        return StageCounts(
            scheduled=self.let_in - given - unreached,
            in_progress=given - sum(ended) - silent,
            succeeded=succeeded,
            failed=sum(ended) - succeeded + silent + unreached,
            reverted=reverted,
            ruled=ruled,
            exposed=given,
            proved=succeeded,
            causes=self._traces(begun, ended, silent),
        )

    @property
    def struck(self) -> Mapping[HealthEvent, int]:
        """Devices that something has struck after they confirmed, by what."""
        found: dict[HealthEvent, int] = {}
        for place, ending in enumerate(self._endings, start=2 * len(self._endings)):
            if ending.event is not None:
                found[ending.event] = found.get(ending.event, 0) + int(self._totals[place])
        return found

    def _traces(self, begun: Sequence[int], ended: Sequence[int], silent: int) -> Mapping[Trace, int]:
        """Return what devices have failed for, how they stand and how many they are.

        Args:
            begun: devices whose first attempt has failed and that get another, by ending.
            ended: devices that have come to their end, by ending.
            silent: devices that fell silent.
        """
        found = {Trace(frozenset({Cause.SILENT})): silent}
        for ending, first, last in zip(self._endings, begun, ended, strict=True):
            if not ending.causes:
                continue
            fate = Fate.CONFIRMED if ending.state is ActionState.CONFIRMED else Fate.FAILED
            trace = Trace(ending.causes, fate)
            found[trace] = found.get(trace, 0) + last
            if ending.earlier:
                trying = Trace(ending.causes, Fate.OPEN)
                found[trying] = found.get(trying, 0) + first - last
        return {trace: count for trace, count in found.items() if count}

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
        column = np.where(is_heard, batch.endings + 3 * len(self._endings), self._silent)
        self._add(batch.given_at[is_reached], batch.endings[is_reached], batch.counts[is_reached])
        ends_at = batch.ends_at
        if self._earlier.any():
            earlier = self._earlier[batch.endings]
            ends_at = ends_at + earlier * (self._pause + ends_at - batch.let_in_at)  # each attempt takes as long
            again = is_reached & is_heard & (earlier > 0)
            self._add(batch.ends_at[again], batch.endings[again] + len(self._endings), batch.counts[again])
        if self._is_struck.any():
            struck = is_reached & is_heard & self._is_struck[batch.endings]
            self._add(
                (ends_at + self._event_after[batch.endings])[struck],
                batch.endings[struck] + 2 * len(self._endings),
                batch.counts[struck],
            )
        self._add(
            np.where(is_reached & is_heard, ends_at, silent_at),
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
