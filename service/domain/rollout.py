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
from datetime import datetime
from enum import StrEnum

from protocol.messages import ActionState
from protocol.plan.targets import InstalledTest, Target, leaves_of
from protocol.updates import Order as DeviceOrder
from service.domain.action import Action
from service.domain.conditions import Conditions
from service.domain.errors import ConflictError, NotFoundError
from service.domain.gates.kept import AllKept
from service.domain.membership import StageCut
from service.domain.order import MAX_POSITION, NO_POSITION, Order
from service.domain.policy import Shown, result
from service.domain.shadowing import agreement, has_compared
from service.domain.stage import UNSEEN, Stage, StageState
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
        is_released: an operator has had devices install what they wait with.
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
    is_released: bool = False
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
        """Devices that are at it, or may begin: who waits for a time or the next word leaves their place to others."""
        return sum(stage.counts.busy for stage in self.stages) - self.held

    @property
    def only_downloads(self) -> bool:
        """Whether devices wait with the release for an operator's word."""
        return self.conditions.download_only and not self.is_released

    @property
    def orders(self) -> tuple[DeviceOrder, ...]:
        """What devices of each stage are to do with the release while it runs."""
        return tuple(stage.order(downloads=self.conditions.download_only) for stage in self.stages)

    def order_of(self, action: Action) -> DeviceOrder:
        """Return what a device is to do with the release; nothing takes back the word to install."""
        was_given = action.state is not ActionState.SCHEDULED
        if action.heals or (was_given and action.order is DeviceOrder.INSTALL):
            return DeviceOrder.INSTALL
        if was_given and self.state is not RolloutState.RUNNING:
            return action.order
        return self.orders[action.stage_index]

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
        """The stages whose devices may run the release, or have it in shadow, as the policy looks at them."""
        return [stage.shown for stage in self.stages if stage.state not in UNSEEN]

    @property
    def figures(self) -> dict[str, Figure]:
        """The evidence so far, by name, for people; that of a shadow also after it."""
        opened, shadow = self.opened, self.conditions.shadow
        figures = self.conditions.policy.figures(opened, self.kept) if opened else {}
        return figures | (shadow.figures(opened[0]) if shadow is not None and opened else {})

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
        """Whether the device may be given the release now; what it has begun, it may finish, or keep in a pause."""
        if action.state.is_final or action.is_held:
            return False
        if action.is_kept:
            return self.state in {RolloutState.RUNNING, RolloutState.PAUSED}
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
        _answered(rollout, now),
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


def install(rollout: Rollout, now: datetime) -> Rollout:
    """Have devices install what they wait with, stage by stage; no change once that was said.

    Raises:
        RolloutStateError: it does not run, or its plan has nothing wait.
    """
    if rollout.is_released:
        return rollout
    _expect(rollout, RolloutState.RUNNING)
    if not rollout.conditions.download_only:
        raise RolloutStateError("rollout: expected one that only downloads, found one that installs by itself")
    waiting = tuple(
        replace(stage, state=StageState.WAITING, reason="") if stage.state is StageState.DOWNLOADING else stage
        for stage in rollout.stages
    )
    return evaluate(replace(rollout, stages=waiting, is_released=True, resumed_at=now), now)


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


def _answered(rollout: Rollout, now: datetime) -> Rollout:
    """Take a person's yes for the stage that was asked about, if one was; its reason is the question then."""
    asked = [stage for stage in rollout.stages if rollout.question and stage.reason == rollout.question]
    if not asked:
        return rollout
    if asked[0].state is StageState.SHADOWING:
        promoted = Verdict(Decision.PROMOTED, f"{agreement(asked[0].counts)}; approved by a person", asked[0].index)
        return _promoted(rollout, replace(promoted, gate=APPROVAL), now)
    return rollout.with_stage(replace(asked[0], is_approved=True))


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
    halt = (rollout.conditions.policy.halt(opened, rollout.kept) or _halt_in_shadow(rollout)) if opened else None
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
    if stage.state is StageState.WAITING and (first := _first_state(rollout, index)) is not None:
        alike = [before for before in rollout.stages[:index] if before.where == stage.where]
        walked = stage.walked if stage.is_open else _all_in(alike)
        stage = replace(stage, state=first, walked=walked, reason=f"opened {now:%FT%TZ}")
        rollout = replace(rollout, resumed_at=now) if rollout.is_released else rollout
        rollout = rollout.with_stage(stage).decided(Verdict(Decision.OPENED, stage.reason, index))
    if stage.state is StageState.SHADOWING and (promoted := _promotion(rollout, stage)) is not None:
        rollout = _promoted(rollout, promoted, now)
        stage = rollout.stages[index]
    if stage.state is StageState.SOAKING and not _has_soaked(stage, now):
        return rollout
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


def _first_state(rollout: Rollout, index: int) -> StageState | None:
    """Return what a stage begins with if it may open, or None; fetching harms nobody, so it asks for no evidence."""
    before = rollout.stages[index - 1] if index else None
    if rollout.only_downloads:
        return StageState.DOWNLOADING if before is None or before.is_open else None
    if before is not None and before.state is not StageState.PASSED:
        return None
    return StageState.SHADOWING if rollout.conditions.shadow is not None and before is None else StageState.RUNNING


def _halt_in_shadow(rollout: Rollout) -> Verdict | None:
    gate, stage = rollout.conditions.shadow, rollout.stages[0]
    return gate.halt(stage.shown) if gate is not None and stage.state is StageState.SHADOWING else None


def _promotion(rollout: Rollout, stage: Stage) -> Verdict | None:
    gate = rollout.conditions.shadow
    return None if gate is None else gate.promotes(stage.shown)


def _promoted(rollout: Rollout, verdict: Verdict, now: datetime) -> Rollout:
    """Let the first stage run what it had in shadow; its devices have their whole time from now on."""
    running = replace(rollout.stages[0], state=StageState.RUNNING, reason=verdict.reason)
    return replace(rollout.with_stage(running), resumed_at=now).decided(verdict)


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
    if stage.state is StageState.SHADOWING:
        return stage.is_open and has_compared(stage.counts) and _promotion(rollout, stage) is None
    is_watched = stage.state in {StageState.RUNNING, StageState.SOAKING}
    return is_watched and stage.is_open and not stage.counts.unresolved and _what_it_shows(rollout, stage) is None


def _asking(rollout: Rollout, now: datetime) -> Rollout:
    """Pause and ask a person, where neither evidence nor time will decide."""
    stuck = next((stage for stage in rollout.stages if _is_stuck(rollout, stage)), None)
    if stuck is not None and rollout.is_retrying:
        return rollout
    if stuck is not None:
        is_shadow = stuck.state is StageState.SHADOWING
        said = agreement(stuck.counts) if is_shadow else result(stuck.shown)
        question = f"stage {stuck.index + 1}: {said} and no result outstanding, which neither halts nor passes"
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
