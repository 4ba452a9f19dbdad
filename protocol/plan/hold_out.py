"""Devices that are kept without a release while the others have it, to compare with."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from protocol.document import Document
from protocol.lengths import Length


class HoldOut(Document):
    """The control arm: the last devices in the rollout's order, which get the release when all others have shown it.

    Attributes:
        percent: of the devices that the rollout is for.
        soak: how long the last stage before it is watched, at least.
    """

    percent: Annotated[float, Field(gt=0, le=20)] = 5.0
    soak: Length = timedelta(days=1)
