"""Stages of a plan: how far each reaches into the group, and what it must have shown before the next one opens."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document
from protocol.lengths import Length
from protocol.plan.targets import BoundedTarget

MAX_STAGES = 32


class PlanStage(Document):
    """A stage; reaches are cumulative and counted from the rollout's start.

    Attributes:
        count: of devices, or None.
        percent: of the group, or None.
        soak: how long it is watched after it has shown what it must.
        resolved: share of its devices that must have a result before it may pass.
        where: it holds devices that match alone, and its reach counts among these; None all.
    """

    count: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    percent: Annotated[float, Field(gt=0, le=100)] | None = None
    soak: Length = timedelta(0)
    resolved: Annotated[float, Field(ge=0, le=1)] = 0.5
    where: BoundedTarget = None

    @model_validator(mode="after")
    def _check_reach(self) -> Self:
        if (self.count is None) == (self.percent is None):
            raise ValueError("expected either a count or a percent, found both or none")
        return self
