"""What a plan demands of a rollout, apart from its stages."""

from dataclasses import dataclass, field
from datetime import timedelta

from protocol.plan.targets import Target
from service.domain.membership import InvalidPlanError
from service.domain.pacing import Pacing
from service.domain.policy import Policy, ThresholdPolicy
from service.domain.retries import Retries
from service.domain.shadowing import ShadowGate
from service.domain.timing import Timing


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
        download_only: devices wait with the release until an operator has them install it.
        shadow: what the first stage must show before it runs the release; None: nothing.
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
    download_only: bool = False
    shadow: ShadowGate | None = None

    def __post_init__(self) -> None:
        if self.soak < timedelta(0):
            raise InvalidPlanError(f"soak: expected no negative time, found {self.soak.total_seconds()} s")
        if self.action_timeout <= timedelta(0):
            raise InvalidPlanError(f"time-out: expected above 0, found {self.action_timeout.total_seconds()} s")
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise InvalidPlanError(f"deadline: expected above 0, found {self.deadline.total_seconds()} s")
