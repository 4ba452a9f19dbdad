"""What was decided about a rollout, and on which evidence; kept, so that every decision can be explained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

Figure = int | float | str

APPROVAL = "approval"  # stands for the gate where a person decided


class Decision(StrEnum):
    """What can be decided."""

    OPENED = "opened"  # a stage
    PROMOTED = "promoted"  # the stage's devices may run the model that they had in shadow
    SHOWN = "shown"  # the stage has shown what it must, and is watched for its soak
    PASSED = "passed"  # the stage
    HALTED = "halted"  # the rollout, for good
    ASKED = "asked"  # the rollout waits for a person's word
    ROLLED_BACK = "rolled-back"  # devices that were given the release are brought back
    FINISHED = "finished"  # the rollout
    ENDED_EMPTY = (
        "ended-empty"  # the rollout, which has no device any more: it counts as aborted, and a retry leads back
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """One decision.

    Attributes:
        stage_index: from 0; None where it is about the rollout as a whole.
        gate: which gate or rule decided; empty for time and order.
        reason: expected and found, for an operator.
        figures: the evidence, by name; ln E and its threshold among them.
    """

    decision: Decision
    reason: str
    stage_index: int | None = None
    gate: str = ""
    figures: Mapping[str, Figure] = field(default_factory=dict)
