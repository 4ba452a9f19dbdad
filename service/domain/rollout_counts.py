"""How many of a stage's devices stand where; a report moves counters, and counters decide.

Devices are counted, never attempts. What a device has failed for at any attempt is kept beside how it stands now
(`Trace`), so that a retry neither counts it twice nor erases its failure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from typing_extensions import override

from protocol.messages import ActionState, Cause
from service.domain.action import Action, Bucket

_SILENCE = frozenset({Cause.SILENT})


class Fate(StrEnum):
    """How a device stands that has failed at least once."""

    FAILED = "failed"  # for good
    CONFIRMED = "confirmed"  # at a later attempt
    OPEN = "open"  # it is to try again or does, or was shut out before its result


@dataclass(frozen=True, slots=True)
class Trace:
    """What a device has failed for, at any of its attempts, and how it stands now."""

    causes: frozenset[Cause]
    fate: Fate = Fate.FAILED

    @override
    def __str__(self) -> str:
        causes = "+".join(sorted(self.causes))
        return causes if self.fate is Fate.FAILED else f"{causes}:{self.fate}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the trace that a text stands for, as `str` gives it."""
        causes, _, fate = text.partition(":")
        return cls(frozenset(map(Cause, causes.split("+"))), Fate(fate or Fate.FAILED))


@dataclass(frozen=True, slots=True)
class StageCounts:
    """How many of a stage's actions stand where.

    Attributes:
        held: of those that are scheduled, the ones that may not be given the release yet.
        failed: every failure, reverted and timed-out ones included.
        reverted: those failures that the device reverted.
        ruled: those failures that halt a small stage by rule.
        exposed: devices that were given the release, whatever became of them.
        proved: of these, the ones that confirmed it.
        again: of those that are scheduled, the ones that were given it before.
        causes: of the exposed, the ones that failed at any attempt; a device that was never reached failed nothing.
        downloaded: devices that wait with the release for the next word.
        compared: devices without a result that have said whether a model in shadow agrees.
        agreed: devices on which a model in shadow answered as it is to at every attempt that compared.
        disagreed: devices on which it did not at any attempt, those where it failed included.
        broke: of these, the ones where it crashed, hung or did not start.
    """

    scheduled: int = 0
    held: int = 0
    in_progress: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    reverted: int = 0
    ruled: int = 0
    exposed: int = 0
    proved: int = 0
    again: int = 0
    causes: Mapping[Trace, int] = field(default_factory=dict)
    downloaded: int = 0
    compared: int = 0
    agreed: int = 0
    disagreed: int = 0
    broke: int = 0

    @property
    def size(self) -> int:
        """Devices of the stage; cancelled actions do not count."""
        return self.scheduled + self.in_progress + self.succeeded + self.failed

    @property
    def unresolved(self) -> int:
        """Devices without a result."""
        return self.scheduled + self.in_progress

    @property
    def waiting(self) -> int:
        """Devices without a result that have done what they were told and wait for the next word."""
        return self.downloaded + self.compared

    @property
    def busy(self) -> int:
        """Devices without a result that are at it, or are to begin."""
        return self.unresolved - self.waiting

    @property
    def withdrawn(self) -> int:
        """Devices that were given the release and shut out or moved before they had a result."""
        failed = sum(count for trace, count in self.causes.items() if trace.fate is Fate.FAILED)
        return self.exposed - self.in_progress - self.proved - self.again - failed

    def moved(self, before: Action | None, after: Action) -> "StageCounts":
        """Return the counts after one action has changed, or was made (before is None); the same if they stay."""
        was, now = {} if before is None else _counted(before), _counted(after)
        steps = {name: holds - was.get(name, False) for name, holds in now.items()}
        changes: dict[str, Any] = {name: getattr(self, name) + step for name, step in steps.items() if step}
        failed, fails = None if before is None else trace_of(before), trace_of(after)
        if failed == fails:
            return replace(self, **changes) if changes else self
        return replace(self, **changes, causes=_moved(self.causes, failed, fails))


def _counted(action: Action) -> dict[str, bool]:
    """Return by which counts of a stage an action is counted."""
    bucket, state = action.bucket, action.state
    return {
        "scheduled": bucket is Bucket.SCHEDULED,
        "held": action.leaves_the_pace,
        "in_progress": bucket is Bucket.IN_PROGRESS,
        "succeeded": bucket is Bucket.SUCCEEDED,
        "failed": bucket is Bucket.FAILED,
        "cancelled": bucket is Bucket.CANCELLED,
        "reverted": state is ActionState.REVERTED,
        "ruled": action.halts_small_stage,
        "exposed": action.offered,
        "proved": action.offered and bucket is Bucket.SUCCEEDED,
        "again": action.offered and bucket is Bucket.SCHEDULED,
        "downloaded": state is ActionState.DOWNLOADED,
        "compared": action.is_waiting and state is ActionState.SHADOWING,
        "agreed": action.has_agreed,
        "disagreed": action.has_disagreed,
        "broke": action.has_broken,
    }


def _moved(causes: Mapping[Trace, int], before: Trace | None, after: Trace | None) -> Mapping[Trace, int]:
    """Return how many failed for what, once a device that was counted for one trace is counted for another."""
    counted = dict(causes)
    for trace, step in ((before, -1), (after, 1)):
        if trace is not None:
            counted[trace] = counted.get(trace, 0) + step
    return {trace: count for trace, count in counted.items() if count}


def trace_of(action: Action) -> Trace | None:
    """Return what an action's device has failed for, and how it stands; None if it has not failed."""
    blames = action.blames
    if not blames:
        return None
    fates = {Bucket.FAILED: Fate.FAILED, Bucket.SUCCEEDED: Fate.CONFIRMED}
    return Trace(blames, fates.get(action.bucket, Fate.OPEN))


@dataclass(frozen=True, slots=True)
class Exposure:
    """Devices that were given a release, over all stages of its rollout.

    Attributes:
        started: all of them.
        proved: those that confirmed.
        failures: those that failed at any attempt.
    """

    started: int
    proved: int
    failures: Mapping[Trace, int]

    @classmethod
    def of(cls, stages: Iterable[StageCounts]) -> Self:
        """Return the sums over stages."""
        failures: dict[Trace, int] = {}
        started = proved = 0
        for counts in stages:
            started, proved = started + counts.exposed, proved + counts.proved
            for trace, count in counts.causes.items():
                failures[trace] = failures.get(trace, 0) + count
        return cls(started, proved, failures)

    def failed(self, causes: frozenset[Cause]) -> int:
        """Return how many failed for one of these causes at any attempt; for any but silence, if there are none."""
        return sum(count for trace, count in self.failures.items() if is_counted(trace.causes, causes))

    def unproved(self, causes: frozenset[Cause]) -> int:
        """Return how many failed for these causes at any attempt, or may yet: silent ones, and those without result."""
        others = mended = 0
        for trace, count in self.failures.items():
            if trace.fate is Fate.FAILED and Cause.SILENT not in trace.causes and not is_counted(trace.causes, causes):
                others += count
            if trace.fate is Fate.CONFIRMED and is_counted(trace.causes, causes):
                mended += count
        return self.started - (self.proved - mended) - others


def is_counted(found: frozenset[Cause], causes: frozenset[Cause]) -> bool:
    """Whether a gate on some causes, or without any on all but silence, counts what a device has failed for."""
    # An outage silences healthy devices: silence delays a pass, and halts only where a gate names it.
    return bool(found & causes) if causes else bool(found - _SILENCE)
