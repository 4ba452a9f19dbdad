"""How fast devices are given a release: a rate that grows with success, and how many may be at it at once."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document


class Pace(Document):
    """The defaults set no limit: a stage is given the release at once.

    Attributes:
        per_minute: devices at first, or None for no limit.
        growth: factor by which the rate rises each time that `every` more devices have confirmed.
        every: confirmed devices.
        most_per_minute: the rate never rises above it; None means no limit.
        concurrency: devices that have been given the release and have no result yet, or None.
    """

    per_minute: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    growth: Annotated[float, Field(ge=1, le=10)] = 1.0
    every: Annotated[int, Field(ge=1)] = 100
    most_per_minute: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    concurrency: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_limit(self) -> Self:
        if self.per_minute is None and (self.growth > 1 or self.most_per_minute is not None):
            raise ValueError("growth and most_per_minute: expected per_minute beside them, found none")
        if self.per_minute and self.most_per_minute and self.most_per_minute < self.per_minute:
            raise ValueError(
                f"most_per_minute: expected at least per_minute, {self.per_minute:g}, found {self.most_per_minute:g}"
            )
        return self
