"""What halts a rollout and what lets a stage pass: evidence that is valid at every look, or raw thresholds.

Thresholds are there because people know them, and to compare with; they halt healthy rollouts
(docs/rollouts/gates.md).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from protocol.attributes import AttributeName
from protocol.document import Document
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


class EvidenceGates(Document):
    """Gates that stand on e-processes.

    Attributes:
        alpha: the error budget of the whole rollout: chance that a release as good as demanded is halted.
        beta: chance that a stage passes although the release is as bad as a gate's worst.
        failures: the gates; alpha is split over them by their weights.
        small_stage_rule: in a stage below 55 devices, which no test can decide, one revert or one failure of boot or
            golden vectors halts. It stands outside alpha.
    """

    kind: Literal["evidence"] = "evidence"
    alpha: Probability = 0.01
    beta: Probability = 0.05
    failures: Annotated[tuple[FailureGate, ...], Field(min_length=1, max_length=16)] = (FailureGate(),)
    small_stage_rule: bool = True

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [gate.name for gate in self.failures]
        if len(set(names)) != len(names):
            raise ValueError(f"failures: expected each name once, found {names}")
        return self


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
