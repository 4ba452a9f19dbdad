"""A staged rollout of a release to a device group, and what follows from its counters.

Nothing here knows a database, and no decision looks at a device: reports move counters of a stage
(`StageCounts.moved`), and counters decide. What a person says of a rollout is `rollout_commands`, what it becomes by
its evidence and by the clock is `rollout_evaluation`; the caller stores what both return.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from protocol.messages import ActionState
from protocol.plan.targets import ImageTest, Target, leaves_of
from protocol.updates import Order as DeviceOrder
from service.domain.action import Action
from service.domain.conditions import Conditions
from service.domain.errors import ConflictError, NotFoundError
from service.domain.gates.kept import AllKept
from service.domain.order import MAX_POSITION, Order
from service.domain.policy import Shown
from service.domain.stage import UNSEEN, Stage, StageState
from service.domain.verdict import Figure, Verdict


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
        return any(isinstance(test, ImageTest) for each in filters for test in leaves_of(each))

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
    def has_ended_empty(self) -> bool:
        """Whether it was aborted because nobody was left to have its release, and not by a person."""
        is_through = all(stage.state is StageState.PASSED and not stage.counts.size for stage in self.stages)
        return self.state is RolloutState.ABORTED and is_through and self.retry_cursor is None

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
    def has_opened(self) -> bool:
        """Whether any stage's devices may run the release, or have it in shadow."""
        return any(stage.state not in UNSEEN for stage in self.stages)

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

    def promoted(self, verdict: Verdict, now: datetime) -> "Rollout":
        """Let the first stage run what it had in shadow; its devices have their whole time from now on."""
        running = replace(self.stages[0], state=StageState.RUNNING, reason=verdict.reason)
        return replace(self.with_stage(running), resumed_at=now).decided(verdict)

    def with_moved(self, before: Action | None, after: Action) -> "Rollout":
        """Return the rollout with one action counted; one that heals counts in no stage, for its rollout is over."""
        if after.heals:
            return self
        stage = self.stages[after.stage_index]
        counts = stage.counts.moved(before, after)
        moved = self if counts is stage.counts else self.with_stage(replace(stage, counts=counts))
        if not after.leaves_the_pace or after.not_before is None:
            return moved
        return replace(moved, held_until=min(self.held_until or after.not_before, after.not_before))
