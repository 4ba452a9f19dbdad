"""A model in shadow: what a device is asked to compare, and the counts that come home.

The candidate runs unheard beside the model that it is to replace, on the same frames. Two answers agree when their best
labels are the same text, whatever other labels the models have; where both models have one label alone, as a regression
has, when their scores differ by `SCORE_TOLERANCE` at most. Frames and answers never leave the device: counts do.
"""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document

SCORE_TOLERANCE = 0.05
MAX_FRAMES = 1_000_000
MAX_PAIRS = 32  # of labels that are told apart; what differs beyond them is counted as `OTHERS`
MAX_LABEL_CHARACTERS = 40
OTHERS = "*"
SEPARATOR = " > "

Frames = Annotated[int, Field(ge=0, le=MAX_FRAMES)]
Pair = Annotated[str, Field(max_length=2 * MAX_LABEL_CHARACTERS + len(SEPARATOR), pattern=r"^[^\x00]*$")]
"""`from > to`: labels of the incumbent's and of the candidate's answer, or `OTHERS`."""


class ShadowTask(Document):
    """How long a candidate is to be compared.

    Attributes:
        frames: compared; then the device reports.
        longest_seconds: after which it reports what it has, on its own time line.
    """

    frames: Annotated[int, Field(gt=0, le=MAX_FRAMES)]
    longest_seconds: Annotated[int, Field(gt=0, le=366 * 86_400)]


class ShadowCounts(Document):
    """What a comparison came to on one device.

    Attributes:
        frames: that both models answered.
        agreements: of these, with the same answer.
        differing: of the others, how often by pair of labels.
        score_gap: mean of the difference between the two best scores, candidate less incumbent.
        m4_ms: modelled latency of the candidate on the core; 0 if it never answered.
        arena_bytes: of the candidate.
        every: each so many of the incumbent's frames was compared, because both do not fit into one period.
        failure: what ended the comparison before its time, expected and found: a crash, a hang or no start; else empty.
    """

    frames: Frames
    agreements: Frames
    differing: Annotated[Mapping[Pair, Frames], Field(max_length=MAX_PAIRS + 1)] = {}
    score_gap: Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)] = 0.0
    m4_ms: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    arena_bytes: Annotated[int, Field(ge=0, lt=1 << 40)] = 0
    every: Annotated[int, Field(ge=1, le=MAX_FRAMES)] = 1
    failure: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        if self.agreements > self.frames:
            raise ValueError(f"agreements: expected at most {self.frames} frames, found {self.agreements}")
        return self

    @property
    def differs(self) -> float:
        """Share of the compared frames on which the two answered differently; 1 where none was compared."""
        return 1.0 if self.frames == 0 else 1 - self.agreements / self.frames


def pair(incumbent: str, candidate: str) -> str:
    """Return how two different labels are counted."""
    return SEPARATOR.join(label[:MAX_LABEL_CHARACTERS].replace("\0", "\ufffd") for label in (incumbent, candidate))
