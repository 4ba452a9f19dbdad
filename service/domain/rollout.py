"""The rollout engine: what a staged rollout decides, as a pure function of what has been counted.

A rollout brings a release to a device group in stages. `evaluate` takes the rollout and the time and returns what
it has become; the caller stores both. Nothing here knows a database, and no decision looks at a device: reports
move counters of a stage (`StageCounts.moved`), and counters decide.

Invariants:
    - Decisions depend on counts, not on their order, and are the policy's (service/domain/policy.py). A device without
      a result counts as a success until it fails: that only delays a halt.
    - A stage opens only when the one before it has passed; exposure never passes the open stages, nor the pace.
    - Where a stage has all its results and they neither halt nor pass, the rollout pauses and asks a person. The answer
      is taken for what was asked, and for nothing else that has come up since.
    - A stage whose devices have all been taken from it has shown nothing, and opens no other without a person's word.
    - `halted` and `aborted` never lead back to `running`, `finished` only by an operator's retry of what failed. Who
      wants to go on after a halt starts a new rollout; devices that already run the release are confirmed in it without
      work.
    - Every decision is stored with its reason.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from protocol.plan.targets import InstalledTest, Target, leaves_of
from service.domain.action import Action
from service.domain.errors import ConflictError, NotFoundError
from service.domain.gates.kept import AllKept
from service.domain.membership import InvalidPlanError, StageCut
from service.domain.order import MAX_POSITION, NO_POSITION, Order
from service.domain.pacing import NO_LIMIT, Pacing
from service.domain.policy import Policy, Shown, ThresholdPolicy, result
from service.domain.retries import Retries
from service.domain.rollout_counts import StageCounts
from service.domain.timing import Timing
from service.domain.verdict import Decision, Figure, Verdict

APPROVAL = "approval"


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
    """What a plan demands, apart from its stages.

    Attributes:
        policy: what halts the rollout and what a stage must show.
        soak: how long a stage is watched after that, where the stage does not say it itself.
        action_timeout: time that a device has to its next report.
        pacing: how fast devices are given the release.
        deadline: from the start; a rollout that still runs then pauses and asks. None never.
        target: devices of the group that it is for; None all.
        roll_back: after a halt, devices that were given the release are brought back.
        retries: which failures are tried again by themselves; None none.
        timing: when a device may be given it.
    """

    policy: Policy = field(default_factory=ThresholdPolicy)
    soak: timedelta = timedelta(0)
    action_timeout: timedelta = timedelta(hours=24)
    pacing: Pacing = field(default_factory=Pacing)
    deadline: timedelta | None = None
    target: Target | None = None
    roll_back: bool = False
    retries: Retries | None = None
    timing: Timing = field(default_factory=Timing)

    def __post_init__(self) -> None:
        if self.soak < timedelta(0):
            raise InvalidPlanError(f"soak: expected no negative time, found {self.soak.total_seconds()} s")
        if self.action_timeout <= timedelta(0):
            raise InvalidPlanError(f"time-out: expected above 0, found {self.action_timeout.total_seconds()} s")
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise InvalidPlanError(f"deadline: expected above 0, found {self.deadline.total_seconds()} s")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a rollout.

    Attributes:
        cut: where it ends in the group; None in a draft.
        walked: position up to which every member has its action, while it is being opened.
        is_open: every member has its action.
        soak_ends_at: UTC, aware; None before it soaks.
        reason: why it stands where it stands, for an operator.
        soak: how long it is watched, or None for what the conditions say.
        resolved: share of its devices that must have a result before evidence lets it pass.
        is_approved: a person's word stands in for what it did not show.
        where: it holds devices that match alone; None all.
        is_control: the last one, of devices that are held out until all others have shown the release.
    """

    index: int
    cut: StageCut | None = None
    state: StageState = StageState.WAITING
    walked: int = NO_POSITION
    is_open: bool = False
    counts: StageCounts = field(default_factory=StageCounts)
    soak_ends_at: datetime | None = None
    reason: str = ""
    soak: timedelta | None = None
    resolved: float = 0.0
    is_approved: bool = False
    where: Target | None = None
    is_control: bool = False

    @property
    def threshold(self) -> int:
        """Highest position of the stage."""
        return self.cut.threshold if self.cut else NO_POSITION

    @property
    def is_full(self) -> bool:
        """Whether its plan lets no further device in."""
        return self.cut is not None and self.cut.is_capped and not self.room

    @property
    def room(self) -> int:
        """How many further devices it may let in."""
        if self.cut is None:
            return 0
        if self.cut.is_settled and not self.cut.is_capped:
            return NO_LIMIT
        # One that was given the release and withdrawn keeps its place, or exposure would pass the plan.
        return max(0, self.cut.planned - self.counts.size - self.counts.withdrawn)

    @property
    def until(self) -> int:
        """Highest position that it may come to."""
        return self.cut.threshold if self.cut and self.cut.is_settled else MAX_POSITION

    def will_find(self, position: int) -> bool:
        """Whether it will come to a device by itself, because it is not open and has not come so far."""
        return self.state is not StageState.WAITING and not self.is_open and position > self.walked

    def walked_to(self, position: int, *, is_end: bool, elsewhere: int = 0) -> "Stage":
        """Return the stage once it has let in what it lets in up to a position.

        Args:
            position: of the last device that it has looked at.
            is_end: nothing of it lies beyond.
            elsewhere: devices on the way that count for its reach, and that stages of other filters have let in.
        """
        stage = replace(self, walked=position)
        if self.cut is not None and not self.cut.is_settled:
            cut = replace(self.cut, planned=max(0, self.cut.planned - elsewhere))
            is_settled = is_end or not replace(self, cut=cut).room
            cut = replace(cut, threshold=max(self.threshold, position), is_settled=is_settled)
            stage = replace(stage, cut=cut)
        # One that was set back for devices which joined has yet to come to where it was.
        is_open = is_end or stage.is_full or (stage.room > 0 and position >= stage.until)
        return replace(stage, is_open=is_open)

    def reopened(self, position: int) -> "Stage":
        """Return the stage as one that has yet to come to the device at a position."""
        return replace(self, is_open=False, walked=min(self.walked, position - 1))

    @property
    def devices(self) -> int:
        """Its devices; while it is being opened, at least as many as were planned."""
        if self.is_open or self.cut is None:
            return self.counts.size
        return max(self.counts.size, self.cut.planned)

    @property
    def shown(self) -> Shown:
        """What the policy looks at."""
        planned = self.cut.planned if self.cut else 0
        return Shown(self.index, self.counts, self.devices, self.is_open, self.resolved, planned)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A staged plan that brings a release to a device group.

    Attributes:
        halted_reason: what halted it, empty otherwise.
        resumed_at: last start or resume, UTC, aware; devices that waited through a pause get their time back.
        question: what a paused rollout asks a person; resuming it is the answer yes. Empty otherwise.
        paced_at: up to when the pace has been used, UTC, aware; None before the start.
        deadline_at: when it pauses and asks, UTC, aware; None never, or once it has been answered.
        undoes: id of the rollout whose exposed devices it brings back; None for others.
        is_undone: nothing is left to bring back: a rollback was started, or there is no way back.
        retry_cursor: last action that a retry has looked at, by number; None while an operator has asked for none.
        bucket_digits: of device ids, for its order; see service/domain/order.py.
        held_until: no held action's time comes before, UTC, aware; None where no clock ends a hold.
        verdicts: decided since it was read, oldest first; whoever stores it keeps them.
        kept: evidence that gates keep beside the counts, by name.
    """

    rollout_id: str
    release_id: str
    group_id: str
    conditions: Conditions
    stages: tuple[Stage, ...]
    state: RolloutState = RolloutState.DRAFT
    halted_reason: str = ""
    resumed_at: datetime | None = None
    question: str = ""
    paced_at: datetime | None = None
    deadline_at: datetime | None = None
    undoes: str | None = None
    is_undone: bool = False
    retry_cursor: int | None = None
    bucket_digits: int = 0
    held_until: datetime | None = None
    verdicts: tuple[Verdict, ...] = ()
    kept: AllKept = field(default_factory=dict)

    @property
    def order(self) -> Order:
        """The order in which it comes to devices."""
        return Order(self.rollout_id, self.bucket_digits)

    @property
    def filters(self) -> Sequence[Target]:
        """The filters of its stages, each once."""
        return list(dict.fromkeys(stage.where for stage in self.stages if stage.where is not None))

    @property
    def looks_at_images(self) -> bool:
        """Whether who it is for changes with what devices run."""
        filters = [*self.filters, *([self.conditions.target] if self.conditions.target is not None else [])]
        return any(isinstance(test, InstalledTest) for each in filters for test in leaves_of(each))

    @property
    def held_after(self) -> int:
        """Position of the last device that is not held out."""
        return self.stages[-2].threshold if self.stages[-1].is_control else MAX_POSITION

    @property
    def not_exposed(self) -> int:
        """Devices that it is for and that were not given the release yet: those that it can be compared with."""
        return sum(stage.devices - stage.counts.exposed + stage.counts.withdrawn for stage in self.stages)

    @property
    def opening_stage(self) -> Stage | None:
        """The stage whose members are being given their actions, if there is one."""
        if self.state is not RolloutState.RUNNING:
            return None
        return next((s for s in self.stages if s.state is not StageState.WAITING and not s.is_open), None)

    @property
    def is_retrying(self) -> bool:
        """Whether devices that failed are being given it again."""
        return self.state is RolloutState.RUNNING and self.retry_cursor is not None

    @property
    def unresolved(self) -> int:
        """Actions without a result, over all stages."""
        return sum(stage.counts.unresolved for stage in self.stages)

    @property
    def held(self) -> int:
        """Actions that wait for a window, their device's user or its place, over all stages."""
        return sum(stage.counts.held for stage in self.stages)

    @property
    def in_flight(self) -> int:
        """Devices with the release, or that may have it now, and no result yet."""
        return self.unresolved - self.held

    @property
    def is_to_be_undone(self) -> bool:
        """Whether its plan brings back by itself those that were given the release."""
        was_halted = self.state.is_over and bool(self.halted_reason)  # aborted since, its devices still go back
        return was_halted and self.conditions.roll_back and not self.is_undone

    @property
    def confirmed(self) -> int:
        """Devices that have confirmed, over all stages."""
        return sum(stage.counts.succeeded for stage in self.stages)

    @property
    def opened(self) -> list[Shown]:
        """The stages that have been opened, as the policy looks at them."""
        return [stage.shown for stage in self.stages if stage.state is not StageState.WAITING]

    @property
    def figures(self) -> dict[str, Figure]:
        """The evidence so far, by name, for people."""
        return self.conditions.policy.figures(self.opened, self.kept) if self.opened else {}

    def allowed(self, now: datetime) -> int:
        """Return how many further devices the pace lets in by now."""
        return self.conditions.pacing.allowed(
            confirmed=self.confirmed, in_flight=self.in_flight, since=self.paced_at or now, now=now
        )

    def is_release_due(self, now: datetime) -> bool:
        """Whether a held action's time has come and the pace lets it begin."""
        is_due = self.held_until is not None and self.held_until <= now
        return self.state is RolloutState.RUNNING and is_due and self.allowed(now) > 0

    def lends(self, now: datetime) -> bool:
        """Whether a newcomer may begin ahead of the pace."""
        pacing = self.conditions.pacing
        return pacing.lends(in_flight=self.in_flight, since=self.paced_at or now, now=now)

    def paced(self, devices: int, now: datetime) -> "Rollout":
        """Return the rollout once further devices were let in."""
        pacing, since = self.conditions.pacing, self.paced_at or now
        return replace(self, paced_at=pacing.used(devices, confirmed=self.confirmed, since=since, now=now))

    def stage_at(self, position: int, matching: Collection[Target] = ()) -> Stage | None:
        """Return the stage of a device that joins now, or None if the plan leaves it out.

        Args:
            position: of the device in the order.
            matching: filters of stages that match it.
        """
        mine = (stage for stage in self.stages if stage.where is None or stage.where in matching)
        return next((s for s in mine if position <= s.threshold and not s.is_full), None)

    def stage_of(self, position: int, matching: Collection[Target] = ()) -> tuple[Stage | None, bool]:
        """Return the stage that a device waits for, None if it is left out, and whether it may be a later one."""
        mine = (stage for stage in self.stages if stage.where is None or stage.where in matching)
        ahead = next((s for s in mine if s.cut and not s.cut.is_settled and position > s.threshold), None)
        known = self.stage_at(position, matching)
        if ahead is None or (known is not None and known.index < ahead.index):
            return known, False
        return ahead, True

    def offers(self, action: Action) -> bool:
        """Whether the device may be given the release now; what it has begun, it may finish."""
        if action.state.is_final or action.is_held:
            return False
        return action.is_started or self.lets_begin(action)

    def lets_begin(self, action: Action) -> bool:
        """Whether a device that has not begun the action may: the rollout runs, or heals by it and was not undone."""
        return not self.is_undone if action.heals else self.state is RolloutState.RUNNING and not action.is_held

    def has_given_up(self, action: Action) -> bool:
        """Whether a device that has not begun the action never will."""
        return self.is_undone if action.heals else self.state.is_over

    def retries(self, action: Action) -> bool:
        """Whether an action that has just ended is tried again by itself."""
        retries = self.conditions.retries
        return retries is not None and not self.state.is_over and retries.apply_to(action)

    def with_stage(self, stage: Stage) -> "Rollout":
        """Return the rollout with one stage replaced."""
        stages = (*self.stages[: stage.index], stage, *self.stages[stage.index + 1 :])
        return replace(self, stages=stages)

    def decided(self, verdict: Verdict) -> "Rollout":
        """Return the rollout with one more decision to keep."""
        return replace(self, verdicts=(*self.verdicts, verdict))

    def with_moved(self, before: Action | None, after: Action) -> "Rollout":
        """Return the rollout with one action counted; one that heals counts in no stage, for its rollout is over."""
        if after.heals:
            return self
        stage = self.stages[after.stage_index]
        moved = self.with_stage(replace(stage, counts=stage.counts.moved(before, after)))
        if not after.leaves_the_pace or after.not_before is None:
            return moved
        return replace(moved, held_until=min(self.held_until or after.not_before, after.not_before))


def start(rollout: Rollout, cuts: Sequence[StageCut], *, now: datetime) -> Rollout:
    """Start a draft; a running rollout stays as it is.

    Raises:
        RolloutStateError: it is neither draft nor running.
    """
    if rollout.state is RolloutState.RUNNING:
        return rollout
    _expect(rollout, RolloutState.DRAFT)
    stages = tuple(replace(stage, cut=cut) for stage, cut in zip(rollout.stages, cuts, strict=True))
    conditions = rollout.conditions
    begun = replace(
        rollout,
        state=RolloutState.RUNNING,
        stages=stages,
        resumed_at=now,
        paced_at=conditions.pacing.first(now),
        deadline_at=None if conditions.deadline is None else now + conditions.deadline,
    )
    return evaluate(begun, now)


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
    """Let a paused rollout run again; what it asked is answered with yes, and a deadline that is over asks no more.

    Raises:
        RolloutStateError: it is neither paused nor running.
    """
    if rollout.state is RolloutState.RUNNING:
        return rollout
    _expect(rollout, RolloutState.PAUSED)
    is_late = rollout.deadline_at is not None and rollout.deadline_at <= now
    resumed = replace(
        _answered(rollout),
        state=RolloutState.RUNNING,
        question="",
        resumed_at=now,
        paced_at=now,
        deadline_at=None if is_late else rollout.deadline_at,
    )
    return evaluate(resumed, now)


def retry(rollout: Rollout, now: datetime) -> Rollout:
    """Give the release again to the devices that failed or were shut out, inside the pace.

    One that has finished runs again until they have a result. A question about a stage is answered by it: neither yes
    nor no, but once more. A rollout that a person has paused goes on when it is resumed.

    Args:
        rollout: as it is stored.
        now: UTC, aware.

    Raises:
        RolloutStateError: it is a draft, halted or aborted, or was rolled back.
    """
    if rollout.is_undone:
        raise RolloutStateError("rollout: expected one that was not rolled back, found one that was")
    _expect(rollout, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FINISHED)
    again = replace(rollout, retry_cursor=0)
    asked = any(rollout.question and stage.reason == rollout.question for stage in rollout.stages)
    if rollout.state is RolloutState.FINISHED or asked:
        again = replace(again, state=RolloutState.RUNNING, question="", resumed_at=now, paced_at=now)
    return evaluate(again, now)


def abort(rollout: Rollout) -> Rollout:
    """End a rollout for good; its unstarted actions are then cancelled in batches.

    Raises:
        RolloutStateError: it has finished.
    """
    if rollout.state is RolloutState.ABORTED:
        return rollout
    _expect(rollout, RolloutState.DRAFT, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED)
    return replace(rollout, state=RolloutState.ABORTED, question="")


def mark_undone(rollout: Rollout, by: str, *, reason: str = "") -> Rollout:
    """Record that the devices which were given the release are brought back.

    Args:
        rollout: is over.
        by: id of the rollout that does it; empty where nothing can.
        reason: why nothing can.
    """
    if rollout.is_undone:
        return rollout
    verdict = Verdict(Decision.ROLLED_BACK, f"by rollout {by}" if by else f"not rolled back: {reason}")
    return replace(rollout, is_undone=True).decided(verdict)


def _expect(rollout: Rollout, *states: RolloutState) -> None:
    if rollout.state not in states:
        expected = " or ".join(states)
        reason = f" ({rollout.halted_reason})" if rollout.halted_reason else ""
        raise RolloutStateError(f"rollout: expected {expected}, found {rollout.state}{reason}")


def _answered(rollout: Rollout) -> Rollout:
    """Take a person's yes for the stage that was asked about, if one was; its reason is the question then."""
    asked = [stage for stage in rollout.stages if rollout.question and stage.reason == rollout.question]
    return rollout.with_stage(replace(asked[0], is_approved=True)) if asked else rollout


def evaluate(rollout: Rollout, now: datetime) -> Rollout:
    """Return what the rollout has become; equal to the argument if nothing changes.

    Args:
        rollout: as it is stored, with what has been counted since.
        now: UTC, aware.
    """
    if rollout.state not in {RolloutState.RUNNING, RolloutState.PAUSED}:
        return rollout
    rollout = _on_the_clock(rollout, now)
    opened = rollout.opened
    halt = rollout.conditions.policy.halt(opened, rollout.kept) if opened else None
    if halt is not None:
        return _halted(rollout, halt)
    if rollout.state is RolloutState.RUNNING:
        for index in range(len(rollout.stages)):
            rollout = _advanced(rollout, index, now)
        rollout = _asking(rollout, now)
    return _finished(rollout, now)


def next_look(rollout: Rollout, now: datetime) -> datetime | None:
    """Return when the worker must look at the rollout again, or None if only reports move it."""
    if rollout.state.is_over:
        is_left = rollout.is_to_be_undone or any(stage.counts.scheduled for stage in rollout.stages)
        return now if is_left else None
    kept_look = rollout.conditions.policy.next_look(rollout.kept) if rollout.opened else None
    if rollout.state is not RolloutState.RUNNING:
        return None if kept_look is None else max(kept_look, now)
    ends = [s.soak_ends_at for s in rollout.stages if s.state is StageState.SOAKING and s.soak_ends_at]
    looks = [*ends, *([rollout.deadline_at] if rollout.deadline_at else [])]
    looks = [look for look in looks if look > now]
    if rollout.opening_stage or rollout.is_retrying or rollout.held_until:
        pace = rollout.conditions.pacing.look_at(
            confirmed=rollout.confirmed, in_flight=rollout.in_flight, since=rollout.paced_at or now, now=now
        )
        begins = now if rollout.opening_stage or rollout.is_retrying else rollout.held_until or now
        looks += [max(pace, begins)] if pace is not None else []
    looks += [] if kept_look is None else [max(kept_look, now)]
    return min(looks, default=None)


def _on_the_clock(rollout: Rollout, now: datetime) -> Rollout:
    """Return the rollout with a pace that a clock which went back does not stop."""
    if rollout.paced_at is None:
        return rollout
    since = rollout.conditions.pacing.corrected(rollout.paced_at, confirmed=rollout.confirmed, now=now)
    return replace(rollout, paced_at=since)


def _halted(rollout: Rollout, verdict: Verdict) -> Rollout:
    if verdict.stage_index is not None:
        stage = rollout.stages[verdict.stage_index]
        failed = replace(stage, state=StageState.FAILED, reason=verdict.reason, soak_ends_at=None)
        rollout = rollout.with_stage(failed)
    halted = replace(rollout, state=RolloutState.HALTED, halted_reason=verdict.reason, question="")
    return halted.decided(verdict)


def _advanced(rollout: Rollout, index: int, now: datetime) -> Rollout:
    """Move one stage as far as it goes now, after the stages before it."""
    stage = rollout.stages[index]
    before = rollout.stages[index - 1].state if index else StageState.PASSED
    if stage.state is StageState.WAITING and before is StageState.PASSED:
        walked = _all_in([before for before in rollout.stages[:index] if before.where == stage.where])
        stage = replace(stage, state=StageState.RUNNING, walked=walked, reason=f"opened {now:%FT%TZ}")
        rollout = rollout.with_stage(stage).decided(Verdict(Decision.OPENED, stage.reason, index))
    shown = _what_it_shows(rollout, stage)
    if shown is not None and stage.state is StageState.RUNNING:
        soak = rollout.conditions.soak if stage.soak is None else stage.soak
        ends = now + soak if stage.counts.size else now  # nobody to watch: an empty stage does not soak
        stage = replace(
            stage, state=StageState.SOAKING, soak_ends_at=ends, reason=f"{shown.reason}; soaks to {ends:%FT%TZ}"
        )
        rollout = rollout.with_stage(stage).decided(replace(shown, reason=stage.reason))
    if shown is not None and _has_soaked(stage, now):
        stage = replace(stage, state=StageState.PASSED, reason=f"{shown.reason}; passed {now:%FT%TZ}")
        passed = replace(shown, decision=Decision.PASSED, reason=stage.reason)
        rollout = rollout.with_stage(stage).decided(passed)
    return rollout


def _all_in(stages: Sequence[Stage]) -> int:
    """Return up to which position every device is in a stage; one by count leaves devices that join to the next."""
    return next((stage.threshold for stage in reversed(stages) if stage.cut and not stage.cut.is_capped), NO_POSITION)


def _what_it_shows(rollout: Rollout, stage: Stage) -> Verdict | None:
    """Return why a stage may pass after its soak, or None."""
    if stage.state not in {StageState.RUNNING, StageState.SOAKING}:
        return None
    opened = rollout.opened[: stage.index + 1]
    if stage.is_approved:
        figures = rollout.conditions.policy.figures(opened, rollout.kept)
        return Verdict(Decision.SHOWN, f"{result(stage.shown)}; approved by a person", stage.index, APPROVAL, figures)
    is_last = stage.index == len(rollout.stages) - 1
    if stage.counts.cancelled and not stage.counts.size and not is_last:
        return None
    return rollout.conditions.policy.passes(opened, rollout.kept)


def _has_soaked(stage: Stage, now: datetime) -> bool:
    return stage.state is StageState.SOAKING and stage.soak_ends_at is not None and now >= stage.soak_ends_at


def _is_stuck(rollout: Rollout, stage: Stage) -> bool:
    """Whether a stage has every result that it will have, and neither halts nor passes."""
    is_watched = stage.state in {StageState.RUNNING, StageState.SOAKING}
    return is_watched and stage.is_open and not stage.counts.unresolved and _what_it_shows(rollout, stage) is None


def _asking(rollout: Rollout, now: datetime) -> Rollout:
    """Pause and ask a person, where neither evidence nor time will decide."""
    stuck = next((stage for stage in rollout.stages if _is_stuck(rollout, stage)), None)
    if stuck is not None and rollout.is_retrying:
        return rollout
    if stuck is not None:
        question = (
            f"stage {stuck.index + 1}: {result(stuck.shown)} and no result outstanding, which neither halts nor passes"
        )
        rollout = rollout.with_stage(replace(stuck, reason=question))
    elif rollout.deadline_at is not None and rollout.deadline_at <= now:
        question = f"deadline {rollout.deadline_at:%FT%TZ}: expected the rollout to be over, found it running"
    else:
        return rollout
    asked = Verdict(Decision.ASKED, question, stuck.index if stuck else None, "", rollout.figures)
    return replace(rollout, state=RolloutState.PAUSED, question=question).decided(asked)


def _finished(rollout: Rollout, now: datetime) -> Rollout:
    passed = all(stage.state is StageState.PASSED and stage.is_open for stage in rollout.stages)
    if rollout.state is not RolloutState.RUNNING or not passed or rollout.unresolved or rollout.is_retrying:
        return rollout
    finished = replace(rollout, state=RolloutState.FINISHED, deadline_at=None)
    return finished.decided(Verdict(Decision.FINISHED, f"{rollout.confirmed} devices confirmed; ended {now:%FT%TZ}"))
