"""Which stage of a rollout a device belongs to: decided by its salted position, never by a scan or a vote.

The members of the group in the order of their positions (service/domain/order.py) are cut into stages. How many devices
a stage holds is planned when the rollout starts; where it ends is settled when it opens: its threshold is the position
of the last device that it let in. A device that joins later has a position too and so falls into a stage by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from types import MappingProxyType

from typing_extensions import override

from protocol.plan.targets import Target
from service.domain.device import DeviceState
from service.domain.errors import InvalidError
from service.domain.order import MAX_POSITION, NO_POSITION

# Devices that have attested: those that may update alone, as they are the ones that must (ADR 0005), and those that
# were refused since, as an update in trial may be why, which the rollout has to count.
ENROLLED_STATES = frozenset({DeviceState.ACTIVE, DeviceState.QUARANTINED, DeviceState.REFUSED})
MAX_STAGES = 32


class InvalidPlanError(InvalidError):
    """A plan's stages or conditions make no rollout."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """How far a stage reaches into the group, counted from the rollout's start: cumulative.

    Attributes:
        count: number of devices, or None.
        percent: share of the group, above 0 to 100, or None.
        where: counted among devices that match alone, as those of other stages with the same filter; None all.
    """

    count: int | None = None
    percent: float | None = None
    where: Target | None = None

    @override
    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.count is None else str(self.count)

    def __post_init__(self) -> None:
        if (self.count is None) == (self.percent is None):
            raise InvalidPlanError("stage: expected either a count or a percent, found both or none")
        if self.count is not None and self.count < 1:
            raise InvalidPlanError(f"stage count: expected at least 1, found {self.count}")
        if self.percent is not None and not 0 < self.percent <= 100:  # noqa: PLR2004 - percent
            raise InvalidPlanError(f"stage percent: expected above 0 to 100, found {self.percent}")

    def reaches_beyond(self, before: "StagePlan") -> bool:
        """Whether it adds devices to those of a stage before it, as far as both count alike."""
        if self.count and before.count:
            return self.count > before.count
        return not (self.percent and before.percent) or self.percent > before.percent

    def reach(self, members: int) -> int:
        """Return how many of the group's members the stage and those before it hold."""
        if self.count is not None:
            return min(self.count, members)
        return ceil(Fraction(str(self.percent)) * members / 100)


@dataclass(frozen=True, slots=True)
class StageCut:
    """Where a stage ends.

    Attributes:
        threshold: highest position of the stage; of one that is not settled, the highest that it has come to.
        planned: devices that it is to let in by itself.
        is_capped: planned by count, so that devices which join later do not enlarge it.
        is_settled: whether it goes no further than its threshold.
    """

    threshold: int
    planned: int
    is_capped: bool
    is_settled: bool = True


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The last devices in a rollout's order, which are kept without its release until all others have shown it.

    Attributes:
        devices: how many.
        after: position of the last device before them.
    """

    devices: int
    after: int


def held_out(percent: float, members: int) -> int:
    """Return how many of a rollout's devices are held out, rounded up; never all."""
    return min(ceil(Fraction(str(percent)) * members / 100), max(members - 1, 0))


def check_plans(plans: Sequence[StagePlan]) -> None:
    """Refuse stages that add nobody: each must reach further than the one before it.

    A count and a percent compare only by the group, which changes; such neighbours are taken as they are.

    Raises:
        InvalidPlanError: no stage, too many, or one that reaches no further.
    """
    if not 1 <= len(plans) <= MAX_STAGES:
        raise InvalidPlanError(f"stages: expected 1 to {MAX_STAGES}, found {len(plans)}")
    for number, plan in enumerate(plans):
        before = next((each for each in reversed(plans[:number]) if each.where == plan.where), None)
        if before is not None and not plan.reaches_beyond(before):
            raise InvalidPlanError(f"stages: expected one that reaches further than {before}, found {plan}")


def cut_stages(
    plans: Sequence[StagePlan],
    members: int,
    *,
    held_out: HeldOut | None = None,
    matching: Mapping[Target, int] = MappingProxyType({}),
) -> tuple[StageCut, ...]:
    """Plan how many devices each stage holds.

    Args:
        plans: cumulative, in the order of the stages.
        members: devices that the rollout is for.
        held_out: some of them, which a further stage holds.
        matching: how many of them match each filter of a stage.

    Raises:
        InvalidPlanError: no stage or too many.
    """
    if not 1 <= len(plans) <= MAX_STAGES:
        raise InvalidPlanError(f"stages: expected 1 to {MAX_STAGES}, found {len(plans)}")
    held = held_out or HeldOut(0, MAX_POSITION)
    cuts: list[StageCut] = []
    reached: dict[Target | None, int] = {}
    for plan in plans:
        counted = members if plan.where is None else matching[plan.where]
        before = reached.get(plan.where, 0)
        reach = max(before, min(plan.reach(counted), members - held.devices))
        planned, is_capped = reach - before, plan.count is not None
        takes_all = plan.percent == 100  # noqa: PLR2004 - percent
        cuts.append(StageCut(held.after if takes_all else NO_POSITION, planned, is_capped, is_settled=takes_all))
        reached[plan.where] = reach
    if held_out is not None:
        cuts.append(StageCut(MAX_POSITION, held_out.devices, is_capped=False))
    return tuple(cuts)
