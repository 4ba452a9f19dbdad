"""How many of a stage's devices stand where; a report moves counters, and counters decide."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from protocol.messages import ActionState, Cause
from service.domain.action import Action, Bucket


@dataclass(frozen=True, slots=True)
class StageCounts:
    """How many of a stage's actions stand where.

    Attributes:
        failed: every failure, reverted and timed-out ones included.
        reverted: those failures that the device reverted.
        ruled: those failures that halt a small stage by rule.
        exposed: devices that were given the release, whatever became of them.
        proved: of these, the ones that confirmed it.
        causes: of these, the ones that failed, by cause; a device that was never reached failed nothing.
    """

    scheduled: int = 0
    in_progress: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    reverted: int = 0
    ruled: int = 0
    exposed: int = 0
    proved: int = 0
    causes: Mapping[Cause, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Devices of the stage; cancelled actions do not count."""
        return self.scheduled + self.in_progress + self.succeeded + self.failed

    @property
    def unresolved(self) -> int:
        """Devices without a result."""
        return self.scheduled + self.in_progress

    @property
    def withdrawn(self) -> int:
        """Devices that were given the release and shut out or moved before they had a result."""
        return self.exposed - self.in_progress - self.proved - sum(self.causes.values())

    def moved(self, before: Action | None, after: Action) -> "StageCounts":
        """Return the counts after one action has changed, or was made (before is None)."""
        counted = self if before is None else self.plus(before, -1)
        return counted.plus(after, 1)

    def plus(self, action: Action, times: int) -> "StageCounts":
        """Return the counts with an action counted, or with `times` −1 taken out."""
        bucket = action.bucket
        return StageCounts(
            scheduled=self.scheduled + times * (bucket is Bucket.SCHEDULED),
            in_progress=self.in_progress + times * (bucket is Bucket.IN_PROGRESS),
            succeeded=self.succeeded + times * (bucket is Bucket.SUCCEEDED),
            failed=self.failed + times * (bucket is Bucket.FAILED),
            cancelled=self.cancelled + times * (bucket is Bucket.CANCELLED),
            reverted=self.reverted + times * (action.state is ActionState.REVERTED),
            ruled=self.ruled + times * action.halts_small_stage,
            exposed=self.exposed + times * action.offered,
            proved=self.proved + times * (action.offered and bucket is Bucket.SUCCEEDED),
            causes=self._causes(action, times) if action.offered and bucket is Bucket.FAILED else self.causes,
        )

    def _causes(self, action: Action, times: int) -> Mapping[Cause, int]:
        cause = action.cause or Cause.BOOT  # a device that reverts and does not say why did not start
        counted = {**self.causes, cause: self.causes.get(cause, 0) + times}
        return {cause: count for cause, count in counted.items() if count}


@dataclass(frozen=True, slots=True)
class Exposure:
    """Devices that were given a release, over all stages of its rollout.

    Attributes:
        started: all of them.
        proved: those that confirmed.
        failures: those that failed, by cause.
    """

    started: int
    proved: int
    failures: Mapping[Cause, int]

    @classmethod
    def of(cls, stages: Iterable[StageCounts]) -> Self:
        """Return the sums over stages."""
        failures: dict[Cause, int] = {}
        started = proved = 0
        for counts in stages:
            started, proved = started + counts.exposed, proved + counts.proved
            for cause, count in counts.causes.items():
                failures[cause] = failures.get(cause, 0) + count
        return cls(started, proved, failures)

    def failed(self, causes: frozenset[Cause]) -> int:
        """Return how many failed for one of these causes; for any but silence, if there are none."""
        return sum(count for cause, count in self.failures.items() if _counts(cause, causes))

    def unproved(self, causes: frozenset[Cause]) -> int:
        """Return how many failed for these causes, or may yet: silent ones, and those without a result."""
        others = sum(
            count for cause, count in self.failures.items() if cause is not Cause.SILENT and not _counts(cause, causes)
        )
        return self.started - self.proved - others


def _counts(cause: Cause, causes: frozenset[Cause]) -> bool:
    # An outage silences healthy devices: silence delays a pass, and halts only where a gate names it.
    return cause in causes if causes else cause is not Cause.SILENT
