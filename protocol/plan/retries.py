"""Bounded retries: which failed devices are given a release again, and how often."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, field_validator

from protocol.document import Document
from protocol.lengths import Length
from protocol.messages import Cause

MOST_RETRIES = 10
# What an image is not to blame for alone. One that did not start, or answers wrongly, does so the next time.
RETRIED_CAUSES = (Cause.DOWNLOAD, Cause.VERIFY, Cause.FLASH, Cause.SILENT, Cause.REQUIREMENT)


class Retries(Document):
    """A device that failed is given the release again; for the evidence it has failed, whatever follows.

    Attributes:
        most: further attempts of one device.
        pause: between a failure and the next attempt.
        causes: of failures that are tried again; a device that reverted never is.
    """

    most: Annotated[int, Field(ge=1, le=MOST_RETRIES)] = 2
    pause: Length = timedelta(hours=1)
    causes: Annotated[tuple[Cause, ...], Field(min_length=1, max_length=len(RETRIED_CAUSES))] = (
        Cause.DOWNLOAD,
        Cause.SILENT,
    )

    @field_validator("causes")
    @classmethod
    def _check_causes(cls, causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
        wrong = [cause for cause in causes if cause not in RETRIED_CAUSES]
        if wrong:
            raise ValueError(f"causes: expected some of {', '.join(RETRIED_CAUSES)}, found {wrong[0]}")
        return causes
