"""Revisions of the board: how much flash it has, how fast its software stack is, what is wrong with it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.document import Document
from protocol.flash_geometry import FlashDocument
from protocol.scenario.values import MOST, Share, Version, Whole


class DefectKind(StrEnum):
    """What a board can have from the factory."""

    WEAK_FLASH = "weak-flash"  # a sector stops taking erases after `every` of them
    FLAKY_CORE = "flaky-core"  # a real-time core faults in one of `every` inferences
    SLOW_CLOCK = "slow-clock"  # both M4 cores run at `factor` of their clock
    BROWN_OUT = "brown-out"  # loses power in one of `every` flash operations


class Defect(Document):
    """A defect of a share of the boards of a revision, chosen by salted hash of the device id.

    Attributes:
        every: erases, inferences or flash operations between two strikes; see the kind.
        factor: of the clock, for slow-clock.
    """

    kind: DefectKind
    share: Share = 1.0
    every: Annotated[Whole, Field(gt=0, le=MOST)] = 1000
    factor: Annotated[float, Field(gt=0, le=1)] = 1.0


class HardwareRevision(Document):
    """A revision of the board.

    Attributes:
        os_version: of the operating system that its devices are made with, or None for the factory's.
        geometry: of its flash and what lies where in it, or None for the MT3620's.
        profile: software stack that the M4 latency is modelled for (tinyml.latency).
        defects: what is wrong with some of them.
    """

    os_version: Version | None = None
    geometry: FlashDocument | None = None
    profile: str = "reference"
    defects: tuple[Defect, ...] = ()
