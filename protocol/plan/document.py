"""The plan as a whole."""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from protocol.document import Document, Name
from protocol.lengths import Length
from protocol.plan.gates import EvidenceGates, Gates
from protocol.plan.hold_out import HoldOut
from protocol.plan.pace import Pace
from protocol.plan.retries import Retries
from protocol.plan.shadow import Shadow
from protocol.plan.stages import MAX_STAGES, PlanStage
from protocol.plan.targets import BoundedTarget, Target
from protocol.plan.timing import MAX_WINDOWS, Deferral, Disruption, TimeZone, Window

WHOLE_PERCENT = 100

SHADOW_GATE = "shadow"  # the name by which shadow has its part of alpha


class Plan(Document):
    """How a release is brought to a group, and what stops it.

    Attributes:
        version: of this form.
        target: devices of the group that it is for; None all.
        stages: each reaches further than the one before of the same devices; a count and a percentage compare only by
            the group.
        hold_out: devices that get the release when all others have shown it; None none.
        pace: how fast.
        gates: what halts it, and what lets a stage pass.
        device_timeout: time that a device has to its next report.
        retries: which failed devices are given the release again; None none.
        approval: whether another operator than its creator must agree to the start, and to a yes to what it asks.
        deadline: after which a rollout that still runs pauses and asks; None never.
        roll_back: after a halt, devices that were given the release are brought back by its signed way back.
        maintenance: when devices may be given the release, by their own clocks; none means at any time.
        time_zone: of devices that have no attribute `time-zone`.
        disruption: how many devices that belong together may be at an update at once; None sets no limit.
        deferral: how far a device's user may put it off; None: not at all.
        forced: windows and deferral do not hold. The disruption budget does.
        download_only: devices fetch and verify the release and wait with it, until an operator has them install it.
        shadow: what the release, whose only image is a model, must show on the first stage before it is run; or None.
    """

    version: Literal[1] = 1
    name: Name = "plan"
    description: Annotated[str, Field(max_length=2000)] = ""
    target: BoundedTarget = None
    stages: Annotated[tuple[PlanStage, ...], Field(min_length=1, max_length=MAX_STAGES)]
    hold_out: HoldOut | None = None
    pace: Pace = Pace()
    gates: Gates = EvidenceGates()
    device_timeout: Length = timedelta(hours=24)
    retries: Retries | None = None
    approval: Literal["none", "required"] = "none"
    deadline: Length | None = None
    roll_back: bool = False
    maintenance: Annotated[tuple[Window, ...], Field(max_length=MAX_WINDOWS)] = ()
    time_zone: TimeZone = "UTC"
    disruption: Disruption | None = None
    deferral: Deferral | None = None
    forced: bool = False
    download_only: bool = False
    shadow: Shadow | None = None

    @property
    def filters(self) -> tuple[Target, ...]:
        """Its target and its stages' filters."""
        return tuple(each for each in (self.target, *(stage.where for stage in self.stages)) if each is not None)

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        for number, stage in enumerate(self.stages):
            alike = [before for before in self.stages[:number] if before.where == stage.where]
            if alike and _reaches_no_further(alike[-1], stage):
                raise ValueError(f"stages.{number}: expected one that reaches further than the one before it")
        if self.device_timeout <= timedelta(0):
            raise ValueError("device_timeout: expected above 0")
        last = self.stages[-1]
        if self.hold_out is not None and (last.percent != WHOLE_PERCENT or last.where is not None):
            raise ValueError("hold_out: expected a last stage of 100 percent before it, found another")
        return self

    @model_validator(mode="after")
    def _check_shadow(self) -> Self:
        if self.shadow is None:
            return self
        if self.gates.kind == "thresholds":
            raise ValueError("shadow: expected evidence gates, whose alpha it shares, found raw thresholds")
        if SHADOW_GATE in self.gates.names:
            raise ValueError(f"gates: expected no gate {SHADOW_GATE} beside shadow, found one")
        return self

    @model_validator(mode="after")
    def _check_waiting(self) -> Self:
        beside = {"maintenance": self.maintenance, "disruption": self.disruption, "deferral": self.deferral}
        found = ", ".join(key for key, value in beside.items() if value)
        if self.download_only and found:  # they hold when a device is given the release, and not when it is to run it
            raise ValueError(
                f"download_only: expected it without {found}, found both; leave out download_only, so that devices "
                f"fetch and install when {found} let them, or {found}, and say `rollout install` when they may install"
            )
        if self.shadow is not None and found:
            raise ValueError(
                f"shadow: expected it without {found}, found both; have a few devices compare, and run it, by a plan "
                f"with shadow whose target are these alone, then bring it to all by one with {found}"
            )
        return self


def _reaches_no_further(before: PlanStage, stage: PlanStage) -> bool:
    if before.count is not None and stage.count is not None:
        return stage.count <= before.count
    if before.percent is not None and stage.percent is not None:
        return stage.percent <= before.percent
    return False
