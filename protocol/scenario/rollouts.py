"""Releases and rollouts that a scenario brings along, for virtual devices: they have no operator who would sign any."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, WithJsonSchema, model_validator

from protocol.document import Document, Name
from protocol.geometry import Slot
from protocol.lengths import Length
from protocol.plan import Plan
from protocol.scenario.values import MOST, Label, Whole

USUAL_LATENCY = timedelta(milliseconds=300)  # of a person detector on a Cortex-M4, by kernels without optimisation
_THRESHOLDS = {"success_percent", "error_percent", "min_reports", "action_timeout"}


class VirtualImage(Document):
    """An image of a virtual release.

    Attributes:
        name: `component@version`.
        bytes: of the package.
        latency: of one inference on its core, of a model.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,29}@[0-9A-Za-z.+-]{1,30}$")]
    bytes: Annotated[Whole, Field(gt=0, le=MOST)]
    latency: Length = USUAL_LATENCY


class VirtualRelease(Document):
    """A release: what it changes."""

    name: Label
    images: Annotated[Mapping[Slot, VirtualImage], Field(min_length=1)]


class VirtualStage(Document):
    """A stage of a virtual rollout: up to which percentage of the group, and how long it is watched."""

    percent: Annotated[float, Field(gt=0, le=100)]
    soak: Length = timedelta(0)


class VirtualRollout(Document):
    """A rollout that starts at a time of the scenario.

    Attributes:
        release: one that the scenario declares.
        at: from the scenario's start.
        plan: how it goes on; or stages and thresholds in its place.
        installs_after: from its start to the operator's word to install, where the plan only downloads.
        stages: rising to 100 percent.
        success_percent, error_percent, min_reports, action_timeout: as of a rollout started by an operator.
    """

    release: Label
    product: Name = "Camera"
    group: Name = "Production"
    at: Length = timedelta(0)
    plan: Annotated[Plan | None, WithJsonSchema({"description": "See docs/rollouts/plan.schema.json."})] = None
    installs_after: Length | None = None
    stages: Annotated[tuple[VirtualStage, ...], Field(max_length=50)] = ()
    success_percent: Annotated[float, Field(gt=0, le=100)] = 95.0
    error_percent: Annotated[float, Field(ge=0, lt=100)] = 5.0
    min_reports: Annotated[Whole, Field(ge=1, le=MOST)] = 1
    action_timeout: Length = timedelta(hours=24)

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        if (self.plan is None) != bool(self.stages):
            raise ValueError("expected either a plan or stages, found both or none")
        beside = self.model_fields_set & _THRESHOLDS
        if self.plan is not None and beside:
            raise ValueError(f"plan: expected it alone, found {', '.join(sorted(beside))} beside it")
        if self.installs_after is not None and not (self.plan is not None and self.plan.download_only):
            raise ValueError("installs_after: expected a plan with download_only, found none")
        return self
