"""What a device says of its models: sums over a window of time for each core, counts alone, never frames.

A device publishes a HealthReport as telemetry stream `health` at QoS 1, by default once an hour and core. A window
holds one model: another model begins another window. Reports are kept over a restart and may be sent twice; the
sequence tells them apart. Nothing of a report is proven: it is the device's own word about itself.
"""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document, Moment, Printable
from protocol.learned_backup import LearningCore
from protocol.messages import Count
from protocol.model import Sha256Hex

HEALTH_STREAM = "health"
MAX_HEALTH_BYTES = 16 * 1024  # of the JSON document
MAX_CLASSES = 64
OTHER_CLASS = "*"  # the classes beyond the most that a report names
WINDOW = timedelta(hours=1)  # that a device sums up, unless its maker sets another

Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0, le=1e9)]
ClassLabel = Annotated[Printable, Field(min_length=1, max_length=64)]


class InferenceFault(StrEnum):
    """Why a core gave no answer."""

    HANG = "hang"  # the watchdog bit
    CRASH = "crash"  # the core faulted
    INPUT = "input"  # the sensor gave something else than the model takes


class HealthReport(Document):
    """One window of one model on one core.

    Attributes:
        core: a real-time core.
        model_sha256: of the image package.
        sequence: rises with each report of a device.
        since, until: first and last frame, by the device's clock.
        frames: inferences, also failed ones.
        errors: those without an answer, by fault.
        resets: of the core, by watchdog or fault.
        confidence_mean, confidence_square_mean: of the best labels' scores, and of their squares; 0 without answers.
        classes: answers by best label; `*` holds what is beyond 63 labels.
        latency_mean_ms, latency_max_ms: on the core, of answers; 0 without any.
        arena_bytes: high-water mark of the model's memory.
    """

    core: LearningCore
    model_sha256: Sha256Hex
    sequence: Count
    since: Moment
    until: Moment
    frames: Annotated[Count, Field(ge=1)]
    errors: Mapping[InferenceFault, Count] = {}
    resets: Count = 0
    confidence_mean: Share = 0.0
    confidence_square_mean: Share = 0.0
    classes: Annotated[Mapping[ClassLabel, Count], Field(max_length=MAX_CLASSES)] = {}
    latency_mean_ms: Milliseconds = 0.0
    latency_max_ms: Milliseconds = 0.0
    arena_bytes: Count = 0

    @property
    def answers(self) -> int:
        """Inferences that were answered."""
        return sum(self.classes.values())

    @model_validator(mode="after")
    def _check_sums(self) -> Self:
        if self.until < self.since:
            raise ValueError(f"until: expected no time before {self.since}, found {self.until}")
        told = self.answers + sum(self.errors.values())
        if told != self.frames:
            raise ValueError(f"frames: expected as many as answers and errors, {told}, found {self.frames}")
        return self


def shares_of(classes: Mapping[str, int]) -> dict[str, float]:
    """Return the share of each class; empty without answers."""
    answers = sum(classes.values())
    return {label: count / answers for label, count in classes.items()} if answers else {}
