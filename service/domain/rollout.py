"""The rollout engine: what a staged rollout decides, as a pure function of what has been counted.

A rollout brings a release to a device group in stages. `evaluate` takes the rollout and the time and returns what
it has become; the caller stores both. Nothing here knows a database, and no decision looks at a device: reports
move counters of a stage (`StageCounts.moved`), and counters decide.

Invariants:
    - Decisions depend on counts, not on their order. The failure share is of all devices of the stage, so an
      unresolved device counts as a success until it fails: that only delays a halt (rollout-gates, gate 1, Delay).
    - A stage opens only when the one before it has passed; exposure never passes the open stages.
    - `halted`, `finished` and `aborted` never lead back to `running`. Who wants to go on after a halt starts a new
      rollout; devices that already run the release are confirmed in it without work.
    - Every decision is stored with its reason.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

from protocol.messages import ActionState
from service.domain.action import Action, Bucket
from service.domain.errors import ConflictError, NotFoundError
from service.domain.membership import NO_POSITION, InvalidPlanError, StageCut

SMALL_STAGE_DEVICES = 55  # below it no test decides (rollout-gates, rule 3)


class RolloutStateError(ConflictError):
    """The rollout is in a state that does not allow the step."""


class UnknownRolloutError(NotFoundError):
    """There is no rollout of this id."""


class RolloutState(StrEnum):
    """Where a rollout stands."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    FINISHED = "finished"
    ABORTED = "aborted"

    @property
    def is_over(self) -> bool:
        """Whether it will never offer its release again."""
        return self in {RolloutState.HALTED, RolloutState.FINISHED, RolloutState.ABORTED}


class StageState(StrEnum):
    """Where a stage stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What passes a stage and what halts the rollout.

    Attributes:
        success_percent: share of a stage's devices that must confirm.
        error_percent: the rollout halts when a larger share of a stage's devices has failed.
        min_reports: results of a stage before its failure share is looked at.
        soak: how long a stage is watched after its success.
        action_timeout: time that a device has to its next report.
    """

    success_percent: float = 100.0
    error_percent: float = 0.0
    min_reports: int = 1
    soak: timedelta = timedelta(0)
    action_timeout: timedelta = timedelta(hours=24)

    def __post_init__(self) -> None:
        if not 0 < self.success_percent <= 100:  # noqa: PLR2004 - percent
            raise InvalidPlanError(f"success percent: expected above 0 to 100, found {self.success_percent}")
        if not 0 <= self.error_percent < 100:  # noqa: PLR2004 - percent
            raise InvalidPlanError(f"error percent: expected 0 to below 100, found {self.error_percent}")
        if self.min_reports < 1:
            raise InvalidPlanError(f"minimum reports: expected at least 1, found {self.min_reports}")
        if self.soak < timedelta(0):
            raise InvalidPlanError(f"soak: expected no negative time, found {self.soak.total_seconds()} s")
        if self.action_timeout <= timedelta(0):
            raise InvalidPlanError(f"time-out: expected above 0, found {self.action_timeout.total_seconds()} s")


@dataclass(frozen=True, slots=True)
class StageCounts:
    """How many of a stage's actions stand where.

    Attributes:
        failed: every failure, reverted and timed-out ones included.
        reverted: those failures that the device reverted.
        ruled: those failures that halt a small stage by rule.
        exposed: devices that were given the release.
    """

    scheduled: int = 0
    in_progress: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    reverted: int = 0
    ruled: int = 0
    exposed: int = 0

    @property
    def size(self) -> int:
        """Devices of the stage; cancelled actions do not count."""
        return self.scheduled + self.in_progress + self.succeeded + self.failed

    @property
    def unresolved(self) -> int:
        """Devices without a result."""
        return self.scheduled + self.in_progress

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
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a rollout.

    Attributes:
        cut: where it ends in the group; None in a draft.
        is_open: every member has its action.
        soak_ends_at: UTC, aware; None before it soaks.
        reason: why it stands where it stands, for an operator.
    """

    index: int
    cut: StageCut | None = None
    state: StageState = StageState.WAITING
    is_open: bool = False
    counts: StageCounts = StageCounts()
    soak_ends_at: datetime | None = None
    reason: str = ""

    @property
    def threshold(self) -> int:
        """Highest position of the stage."""
        return self.cut.threshold if self.cut else NO_POSITION

    @property
    def is_full(self) -> bool:
        """Whether its plan lets no further device in."""
        return self.cut is not None and self.cut.is_capped and self.counts.size >= self.cut.planned

    @property
    def devices(self) -> int:
        """Its devices; while it is being opened, at least as many as were planned."""
        if self.is_open or self.cut is None:
            return self.counts.size
        return max(self.counts.size, self.cut.planned)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A staged plan that brings a release to a device group.

    Attributes:
        halted_reason: what halted it, empty otherwise.
        resumed_at: last start or resume, UTC, aware; devices that waited through a pause get their time back.
    """

    rollout_id: str
    release_id: str
    group_id: str
    conditions: Conditions
    stages: tuple[Stage, ...]
    state: RolloutState = RolloutState.DRAFT
    halted_reason: str = ""
    resumed_at: datetime | None = None

    @property
    def opening_stage(self) -> Stage | None:
        """The stage whose members are being given their actions, if there is one."""
        if self.state is not RolloutState.RUNNING:
            return None
        return next((s for s in self.stages if s.state is not StageState.WAITING and not s.is_open), None)

    @property
    def unresolved(self) -> int:
        """Actions without a result, over all stages."""
        return sum(stage.counts.unresolved for stage in self.stages)

    def stage_at(self, position: int) -> Stage | None:
        """Return the stage of a device that joins now, or None if the plan leaves it out."""
        return next((s for s in self.stages if position <= s.threshold and not s.is_full), None)

    def offers(self, action: Action) -> bool:
        """Whether the device may be given the release now; what it has begun, it may finish."""
        return not action.state.is_final and (action.is_independent or self.state is RolloutState.RUNNING)

    def with_stage(self, stage: Stage) -> "Rollout":
        """Return the rollout with one stage replaced."""
        stages = (*self.stages[: stage.index], stage, *self.stages[stage.index + 1 :])
        return replace(self, stages=stages)

    def with_moved(self, before: Action | None, after: Action) -> "Rollout":
        """Return the rollout with one action counted; one that heals counts in no stage, for its rollout is over."""
        if after.heals:
            return self
        stage = self.stages[after.stage_index]
        return self.with_stage(replace(stage, counts=stage.counts.moved(before, after)))


def start(rollout: Rollout, cuts: Sequence[StageCut], *, now: datetime) -> Rollout:
    """Start a draft; a running rollout stays as it is.

    Raises:
        RolloutStateError: it is neither draft nor running.
    """
    if rollout.state is RolloutState.RUNNING:
        return rollout
    _expect(rollout, RolloutState.DRAFT)
    stages = tuple(replace(stage, cut=cut) for stage, cut in zip(rollout.stages, cuts, strict=True))
    return evaluate(replace(rollout, state=RolloutState.RUNNING, stages=stages, resumed_at=now), now)


def pause(rollout: Rollout) -> Rollout:
    """Pause a running rollout: nothing new is offered, what has begun may end.

    Raises:
        RolloutStateError: it is neither running nor paused.
    """
    if rollout.state is RolloutState.PAUSED:
        return rollout
    _expect(rollout, RolloutState.RUNNING)
    return replace(rollout, state=RolloutState.PAUSED)


def resume(rollout: Rollout, now: datetime) -> Rollout:
    """Let a paused rollout run again.

    Raises:
        RolloutStateError: it is neither paused nor running.
    """
    if rollout.state is RolloutState.RUNNING:
        return rollout
    _expect(rollout, RolloutState.PAUSED)
    return evaluate(replace(rollout, state=RolloutState.RUNNING, resumed_at=now), now)


def abort(rollout: Rollout) -> Rollout:
    """End a rollout for good; its unstarted actions are then cancelled in batches.

    Raises:
        RolloutStateError: it has finished.
    """
    if rollout.state is RolloutState.ABORTED:
        return rollout
    _expect(rollout, RolloutState.DRAFT, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED)
    return replace(rollout, state=RolloutState.ABORTED)


def _expect(rollout: Rollout, *states: RolloutState) -> None:
    if rollout.state not in states:
        expected = " or ".join(states)
        reason = f" ({rollout.halted_reason})" if rollout.halted_reason else ""
        raise RolloutStateError(f"rollout: expected {expected}, found {rollout.state}{reason}")


def evaluate(rollout: Rollout, now: datetime) -> Rollout:
    """Return what the rollout has become; equal to the argument if nothing changes.

    Args:
        rollout: as it is stored, with what has been counted since.
        now: UTC, aware.
    """
    if rollout.state not in {RolloutState.RUNNING, RolloutState.PAUSED}:
        return rollout
    for stage in rollout.stages:
        reason = _halt_reason(stage, rollout.conditions)
        if reason:
            return _halted(rollout, stage, reason)
    if rollout.state is RolloutState.RUNNING:
        for index in range(len(rollout.stages)):
            rollout = _advanced(rollout, index, now)
    return _finished(rollout)


def next_look(rollout: Rollout, now: datetime) -> datetime | None:
    """Return when the worker must look at the rollout again, or None if only reports move it."""
    if rollout.state.is_over:
        return now if any(stage.counts.scheduled for stage in rollout.stages) else None
    if rollout.state is not RolloutState.RUNNING:
        return None
    if rollout.opening_stage:
        return now
    ends = [s.soak_ends_at for s in rollout.stages if s.state is StageState.SOAKING and s.soak_ends_at]
    return min((end for end in ends if end > now), default=None)


def _halt_reason(stage: Stage, conditions: Conditions) -> str:
    if stage.state is StageState.WAITING:
        return ""
    counts, devices = stage.counts, stage.devices
    if counts.ruled and devices < SMALL_STAGE_DEVICES:
        return (
            f"stage {stage.index + 1}: expected no revert and no failure of boot or golden vectors among "
            f"{devices} devices, found {counts.ruled}"
        )
    results = counts.succeeded + counts.failed
    if results >= min(conditions.min_reports, devices) and counts.failed * 100 > conditions.error_percent * devices:
        return (
            f"stage {stage.index + 1}: expected at most {conditions.error_percent:g} % of {devices} devices to fail, "
            f"found {counts.failed}"
        )
    return _undecided_reason(stage, conditions)


def _undecided_reason(stage: Stage, conditions: Conditions) -> str:
    if not stage.is_open or stage.counts.unresolved or _has_success(stage, conditions):
        return ""
    return (
        f"stage {stage.index + 1}: expected {conditions.success_percent:g} % of {stage.counts.size} devices to "
        f"confirm, found {stage.counts.succeeded} and no result outstanding"
    )


def _has_success(stage: Stage, conditions: Conditions) -> bool:
    return stage.is_open and stage.counts.succeeded >= _part(conditions.success_percent, stage.counts.size)


@functools.lru_cache
def _exact(percent: float) -> Fraction:
    """Return a share as it was written: 0.1 % is a thousandth."""
    return Fraction(str(percent)) / 100


def _part(percent: float, devices: int) -> int:
    """Return how many of some devices a share is, rounded up."""
    share = _exact(percent)
    return -(-devices * share.numerator // share.denominator)


def _halted(rollout: Rollout, stage: Stage, reason: str) -> Rollout:
    failed = replace(stage, state=StageState.FAILED, reason=reason, soak_ends_at=None)
    return replace(rollout.with_stage(failed), state=RolloutState.HALTED, halted_reason=reason)


def _advanced(rollout: Rollout, index: int, now: datetime) -> Rollout:
    """Move one stage as far as it goes now, after the stages before it."""
    stage = rollout.stages[index]
    before = rollout.stages[index - 1].state if index else StageState.PASSED
    if stage.state is StageState.WAITING and before is StageState.PASSED:
        stage = replace(stage, state=StageState.RUNNING, reason=f"opened {now:%FT%TZ}")
    if stage.state is StageState.RUNNING and _has_success(stage, rollout.conditions):
        # Nobody to watch: an empty stage does not soak.
        ends = now + rollout.conditions.soak if stage.counts.size else now
        stage = replace(
            stage, state=StageState.SOAKING, soak_ends_at=ends, reason=f"{_result(stage)}; soaks to {ends:%FT%TZ}"
        )
    if _has_soaked(stage, now) and _has_success(stage, rollout.conditions):
        stage = replace(stage, state=StageState.PASSED, reason=f"{_result(stage)}; passed {now:%FT%TZ}")
    return rollout.with_stage(stage)


def _has_soaked(stage: Stage, now: datetime) -> bool:
    return stage.state is StageState.SOAKING and stage.soak_ends_at is not None and now >= stage.soak_ends_at


def _result(stage: Stage) -> str:
    return f"{stage.counts.succeeded} of {stage.counts.size} confirmed, {stage.counts.failed} failed"


def _finished(rollout: Rollout) -> Rollout:
    passed = all(stage.state is StageState.PASSED for stage in rollout.stages)
    if rollout.state is RolloutState.RUNNING and passed and not rollout.unresolved:
        return replace(rollout, state=RolloutState.FINISHED)
    return rollout
