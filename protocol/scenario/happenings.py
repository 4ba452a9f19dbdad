"""What happens to a fleet at a time of the scenario."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document
from protocol.lengths import Length
from protocol.scenario.values import Label, Share


class HappeningKind(StrEnum):
    """What can happen."""

    REBOOT = "reboot"  # everybody loses power at once: a reboot storm
    OFFLINE = "offline"  # nobody reaches the service for `lasts`
    LIGHTING = "lighting"  # the light in front of the cameras goes to `level`
    VIBRATION = "vibration"  # a machine's fault grows to `level`
    CLONE = "clone"  # somebody copies a device's keys and runs them, too
    THEFT = "theft"  # somebody takes a device, off the network, and tries to get it admitted later
    LOAD = "load"  # inference `level` times as often


class Happening(Document):
    """One thing that happens.

    Attributes:
        at: from the scenario's start.
        lasts: where it ends by itself.
        fleet, region, hardware: only there.
        share: of the devices that it hits, chosen by salted hash; clones and thefts hit at least one device.
        level: see the kind; 0 to 1 for lighting and vibration, above 0 for load.
    """

    at: Length
    kind: HappeningKind
    lasts: Length = timedelta(0)
    fleet: Label | None = None
    region: Label | None = None
    hardware: Label | None = None
    share: Annotated[Share, Field(gt=0)] = 1.0
    level: Annotated[float, Field(ge=0, le=1000)] = 1.0

    @model_validator(mode="after")
    def _check_level(self) -> Self:
        if self.kind is HappeningKind.LOAD and not self.level:
            raise ValueError("level: expected a load above 0, found 0")
        if self.kind in _SHARES and self.level > 1:
            raise ValueError(f"level: expected 0 to 1 for {self.kind.value}, found {self.level:g}")
        return self


_SHARES = frozenset({HappeningKind.LIGHTING, HappeningKind.VIBRATION})
