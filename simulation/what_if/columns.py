"""The columns that devices of a stage are counted in, and the engine's counters as sums of columns.

By each ending: devices that were given the release, that have failed at first and are to try again, that something has
struck after they confirmed, and that have ended. Then those that fell silent, those that nobody reached, and those that
wait for another device of their place.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from protocol.messages import ActionState, Cause
from protocol.plan import HealthEvent
from service.domain.rollout_counts import Fate, StageCounts, Trace
from simulation.what_if.arrays import Integers
from simulation.what_if.fleet import Ending

_RULED = frozenset({Cause.BOOT, Cause.GOLDEN_VECTORS})  # failures that halt a small stage
_SUMS = 6  # given, unreached, succeeded, failed, reverted, ruled


class Columns:
    """Knows what each column counts, and what becomes of devices that end so.

    Args:
        endings: of the fleet's devices.

    Attributes:
        again, struck, ended: where these columns begin; those of devices that were given the release are the first.
        silent, unreached, waiting: the last three.
        number: of all columns.
        is_heard, earlier, is_struck, event_after: of each ending; see `Ending`.
    """

    def __init__(self, endings: Sequence[Ending]) -> None:
        number = len(endings)
        self.again, self.struck, self.ended, self.silent = number, 2 * number, 3 * number, 4 * number
        self.unreached = self.silent + 1
        self.waiting = self.silent + 2
        self.number = self.silent + 3
        self.is_heard = np.array([ending.state is not ActionState.TIMED_OUT for ending in endings])
        self.earlier = np.array([ending.earlier for ending in endings])
        self.is_struck = np.array([ending.event is not None for ending in endings])
        self.event_after = np.array([ending.event_after for ending in endings])
        self.is_any_tried_again, self.is_any_struck = bool(self.earlier.any()), bool(self.is_struck.any())
        self._endings = endings
        signs = self._trace_signs()
        self._traces = list(signs)
        self._sums = np.column_stack([self._count_signs(), *signs.values()])

    def counts(self, totals: Integers, *, let_in: int, held: int = 0) -> StageCounts:
        """Return the engine's counters.

        Args:
            totals: devices by column.
            let_in: devices of the stage so far.
            held: further ones, whose window has yet to open.
        """
        found = (totals @ self._sums).tolist()
        given, unreached, succeeded, failed, reverted, ruled = found[:_SUMS]
        return StageCounts(
            scheduled=let_in - given - unreached + held,
            held=held + int(totals[self.waiting]),
            in_progress=given + unreached - succeeded - failed,
            succeeded=succeeded,
            failed=failed,
            reverted=reverted,
            ruled=ruled,
            exposed=given,
            proved=succeeded,
            causes={trace: count for trace, count in zip(self._traces, found[_SUMS:], strict=True) if count},
        )

    def harmed(self, totals: Integers) -> int:
        """Return how many devices were given a release that is bad for them."""
        return sum(int(totals[place]) for place, ending in enumerate(self._endings) if ending.is_harmed)

    def struck_by(self, totals: Integers) -> Mapping[HealthEvent, int]:
        """Return how many devices something has struck after they confirmed, by what."""
        found: dict[HealthEvent, int] = {}
        for place, ending in enumerate(self._endings, start=self.struck):
            if ending.event is not None:
                found[ending.event] = found.get(ending.event, 0) + int(totals[place])
        return found

    def _count_signs(self) -> Integers:
        """Return which columns each of the sums adds."""
        signs = np.zeros((self.number, _SUMS), dtype=np.int64)
        signs[: self.again, 0] = 1
        signs[self.unreached, 1] = 1
        signs[self.silent : self.waiting, 3] = 1
        for place, ending in enumerate(self._endings, start=self.ended):
            is_confirmed, is_reverted = ending.state is ActionState.CONFIRMED, ending.state is ActionState.REVERTED
            is_ruled = is_reverted or ending.cause in _RULED
            signs[place, 2:] = is_confirmed, not is_confirmed, is_reverted, is_ruled
        return signs

    def _trace_signs(self) -> Mapping[Trace, Integers]:
        """Return which columns are added, and which taken away, for what devices have failed for and how they stand."""
        signs: dict[Trace, Integers] = {}

        def count(trace: Trace, place: int, sign: int = 1) -> None:
            signs.setdefault(trace, np.zeros(self.number, dtype=np.int64))[place] += sign

        count(Trace(frozenset({Cause.SILENT})), self.silent)
        for place, ending in enumerate(self._endings):
            if not ending.causes:
                continue
            is_confirmed = ending.state is ActionState.CONFIRMED
            count(Trace(ending.causes, Fate.CONFIRMED if is_confirmed else Fate.FAILED), self.ended + place)
            if ending.earlier:
                count(Trace(ending.causes, Fate.OPEN), self.again + place)
                count(Trace(ending.causes, Fate.OPEN), self.ended + place, -1)
        return signs


@lru_cache
def columns_of(endings: tuple[Ending, ...]) -> Columns:
    """Return the columns of a fleet; many rollouts share them."""
    return Columns(endings)
