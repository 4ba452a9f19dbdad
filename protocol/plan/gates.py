"""What halts a rollout and what lets a stage pass: evidence that is valid at every look, or raw thresholds.

Thresholds are there because people know them, and to compare with; they halt healthy rollouts
(docs/rollouts/gates.md).
"""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from protocol.attributes import AttributeName
from protocol.document import Document
from protocol.learned_backup import LearningCore
from protocol.messages import Cause

Probability = Annotated[float, Field(gt=0, lt=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
GateName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class FailureGate(Document):
    """How many devices may fail, for some causes or all.

    Attributes:
        name: for people and for decisions.
        causes: that it counts; none means all but silence. A cause that no gate counts halts nothing. Devices that fell
            silent never let a stage pass, whatever is counted.
        acceptable: a release that fails no more often is halted with the gate's part of alpha at most.
        worst: one that fails as often or more passes with probability beta at most.
        weight: of its part of alpha; only the proportions between gates count.
        group_by: attribute whose values are sites: devices of one may fail together, and are one draw. None: each
            device is a draw of its own.
    """

    name: GateName = "failures"
    causes: tuple[Cause, ...] = ()
    acceptable: Probability = 0.02
    worst: Probability = 0.05
    weight: Annotated[float, Field(gt=0)] = 1.0
    group_by: AttributeName | None = None

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        if self.worst <= self.acceptable:
            raise ValueError(f"worst: expected above the acceptable {self.acceptable:g}, found {self.worst:g}")
        return self


class HealthEvent(StrEnum):
    """What may happen to a device that runs a release, and as well to one that does not."""

    CRASH = "crash"  # a core was reset in a window
    DRIFT = "drift"  # classes or confidence are far from the device's own past
    SLOW = "slow"  # the mean inference of a window takes longer than stated
    FAULTS = (
        "faults"  # more frames of a window had no answer than stated: the core hung or crashed, or the input was wrong
    )
    OFFLINE = "offline"  # nothing was heard of it for the plan's device_timeout


class ControlGate(Document):
    """Events of devices that run the release against those of devices that do not have it yet.

    Attributes:
        name: for people and for decisions.
        events: that it counts, of each device the first one.
        tolerated: ratio of the rates up to which a release is as good as demanded.
        slow_ms: an inference that takes longer is slow; for the event `slow`.
        class_shift: distance of the classes' shares from the device's own past that is drift, 0 to 1.
        confidence_shift: distance of the mean confidence from the device's own past that is drift, 0 to 1.
        fault_share: of a window's frames, without an answer, above which they are faults, 0 to 1.
        weight: of its part of alpha; only the proportions between gates count.
    """

    name: GateName = "control"
    events: Annotated[tuple[HealthEvent, ...], Field(min_length=1, max_length=5)]
    tolerated: Annotated[float, Field(gt=1, le=100)] = 1.5
    slow_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    class_shift: Probability = 0.3
    confidence_shift: Probability = 0.15
    fault_share: Probability = 0.05
    weight: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _check_slow(self) -> Self:
        if (HealthEvent.SLOW in self.events) != (self.slow_ms is not None):
            found = "none" if self.slow_ms is None else "one without it"
            raise ValueError(f"slow_ms: expected one beside the event slow, found {found}")
        return self


class Metric(StrEnum):
    """What a device tells of a model as a mean."""

    LATENCY = "latency"  # milliseconds of an inference on the core
    CONFIDENCE = "confidence"  # of the best label, 0 to 1
    ARENA = "arena"  # bytes, the high-water mark of the model's memory


class MeanGate(Document):
    """How far a mean may move from the devices' own past, beyond how far it moves without the release.

    Attributes:
        name: for people and for decisions.
        metric: of what.
        core: that runs the model.
        margin: beyond the expected change that is tolerated, in the metric's unit.
        expected_change: that the release is meant to bring, in the metric's unit; below 0 where it falls.
        bound: what one device tells counts as at most so much from what is allowed, in the metric's unit; none: four
            margins.
        higher_is_worse: or lower; None: as usual of the metric, lower only of confidence.
        weight: of its part of alpha; only the proportions between gates count.
    """

    name: GateName
    metric: Metric
    core: LearningCore
    margin: Annotated[float, Field(gt=0, le=1e9)]
    expected_change: Annotated[float, Field(ge=-1e9, le=1e9)] = 0.0
    bound: Annotated[float, Field(gt=0, le=1e9)] | None = None
    higher_is_worse: bool | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0


class EvidenceGates(Document):
    """Gates that stand on e-processes.

    Attributes:
        alpha: the error budget of the whole rollout: chance that a release as good as demanded is halted.
        beta: chance that a stage passes although the release is as bad as a gate's worst.
        failures: on devices that fail the update; alpha is split over all gates by their weights.
        control: on what happens to devices afterwards, against those that do not have the release yet.
        means: on how models do afterwards.
        small_stage_rule: in a stage below 55 devices, which no test can decide, one revert or one failure of boot or
            golden vectors halts. It stands outside alpha.
    """

    kind: Literal["evidence"] = "evidence"
    alpha: Probability = 0.01
    beta: Probability = 0.05
    failures: Annotated[tuple[FailureGate, ...], Field(min_length=1, max_length=16)] = (FailureGate(),)
    control: Annotated[tuple[ControlGate, ...], Field(max_length=8)] = ()
    means: Annotated[tuple[MeanGate, ...], Field(max_length=8)] = ()
    small_stage_rule: bool = True

    @field_validator("control", "means", mode="before")
    @classmethod
    def _check_sites(cls, gates: object) -> object:
        if isinstance(gates, list) and any(isinstance(gate, dict) and "group_by" in gate for gate in gates):
            raise ValueError("group_by: expected in failures alone, as each device counts by itself here, found it")
        return gates

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        gates: tuple[FailureGate | ControlGate | MeanGate, ...] = (*self.failures, *self.control, *self.means)
        names = [gate.name for gate in gates]
        if len(set(names)) != len(names):
            raise ValueError(f"gates: expected each name once, found {names}")
        return self

    @property
    def names(self) -> frozenset[str]:
        """The names by which gates have their parts of alpha."""
        gates: tuple[FailureGate | ControlGate | MeanGate, ...] = (*self.failures, *self.control, *self.means)
        return frozenset(gate.name for gate in gates)


class ThresholdGates(Document):
    """Raw shares, looked at after every report, as other update servers have them.

    Attributes:
        success_percent: share of a stage's devices that must confirm.
        error_percent: the rollout halts when a larger share of a stage's devices has failed.
        min_reports: results of a stage before its failure share is looked at.
        of_results: the share is of the results so far, as AWS IoT Jobs has it, not of the stage's devices.
        small_stage_rule: as for evidence.
    """

    kind: Literal["thresholds"] = "thresholds"
    success_percent: Annotated[Percent, Field(gt=0)] = 100.0
    error_percent: Annotated[Percent, Field(lt=100)] = 0.0
    min_reports: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    of_results: bool = False
    small_stage_rule: bool = True


Gates = Annotated[EvidenceGates | ThresholdGates, Field(discriminator="kind")]
