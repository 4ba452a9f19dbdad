"""What a model must show in shadow before any device runs it."""

from datetime import timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document
from protocol.lengths import Length
from protocol.plan.gates import Probability
from protocol.shadow import MAX_FRAMES

Share = Annotated[float, Field(ge=0, lt=1)]


class Shadow(Document):
    """The first stage's devices run the model unheard beside the one that it is to replace; counts come home.

    Attributes:
        frames: that each device compares.
        expected_disagreement: stated change: share of its frames on which the new model is to answer differently.
        disagreement: a device disagrees when more than this share of its frames differ beyond the stated change.
        acceptable: a model with which no larger share of devices disagrees is halted with its part of alpha at most.
        worst: one with which so many disagree is promoted with beta at most; above `acceptable`.
        weight: of its part of alpha; only the proportions to the other gates count.
        longest: after which a device reports what it has compared.
    """

    frames: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 300
    expected_disagreement: Share = 0.0
    disagreement: Share = 0.1
    acceptable: Probability = 0.02
    worst: Probability = 0.1
    weight: Annotated[float, Field(gt=0)] = 1.0
    longest: Length = timedelta(days=1)

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.worst <= self.acceptable:
            raise ValueError(f"worst: expected above the acceptable {self.acceptable:g}, found {self.worst:g}")
        if self.tolerated >= 1:
            raise ValueError(
                f"disagreement: expected below 1 with the expected {self.expected_disagreement:g}, "
                f"found {self.tolerated:g}"
            )
        if self.longest < timedelta(seconds=1):
            raise ValueError(f"longest: expected at least 1s, found {self.longest.total_seconds():g}s")
        return self

    @property
    def tolerated(self) -> float:
        """Share of a device's frames that may differ."""
        return self.expected_disagreement + self.disagreement
