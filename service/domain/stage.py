"""A stage of a rollout: where it ends, where it stands, and what was counted of it."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from protocol.plan.targets import Target
from protocol.updates import Order
from service.domain.membership import StageCut
from service.domain.order import MAX_POSITION, NO_POSITION
from service.domain.pacing import NO_LIMIT
from service.domain.policy import Shown
from service.domain.rollout_counts import StageCounts


class StageState(StrEnum):
    """Where a stage stands."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"  # its devices fetch the release and wait with it
    SHADOWING = "shadowing"  # its devices run the model unheard beside the one that it is to replace
    RUNNING = "running"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"


UNSEEN = frozenset({StageState.WAITING, StageState.DOWNLOADING})  # none of its devices runs the release


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

    def order(self, *, downloads: bool) -> Order:
        """What its devices are to do with the release while the rollout runs.

        Args:
            downloads: devices wait with the release until an operator has them install it.
        """
        if self.state is StageState.SHADOWING:
            return Order.SHADOW
        return Order.DOWNLOAD if downloads and self.state in UNSEEN else Order.INSTALL
