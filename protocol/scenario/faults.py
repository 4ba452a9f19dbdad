"""What goes wrong on devices: kernels of a core that misbehave, and releases that fail on a share of the fleet."""

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document, Name
from protocol.geometry import Core
from protocol.lengths import Length
from protocol.scenario.values import MOST, Label, Whole

ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}@(?:\*|[0-9A-Za-z][0-9A-Za-z.+-]{0,31})$")]
"""`name@version` of a model card, or `name@*` for every version."""


class FaultKind(StrEnum):
    """How a kernel of a simulated core misbehaves on the device although the model passes on the host."""

    HANG = "hang"  # never answers: the watchdog bites
    CRASH = "crash"  # the core faults
    GARBAGE = "garbage"  # answers are permuted, so golden vectors fail


class KernelFault(Document):
    """A fault of the simulated core for one model.

    Attributes:
        model: `name@version` as the model card says; `name@*` for every version.
        core: only on this core, or on both M4 cores.
        share: share of the devices that have it, chosen by salted hash of the device id.
        after_inferences: good inferences of a boot before it strikes.
        hardware: only on this revision, or on every.
    """

    model: ModelName
    kind: FaultKind
    core: Core | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    after_inferences: Annotated[Whole, Field(ge=0, le=MOST)] = 0
    hardware: Label | None = None


class ReleaseFaultKind(StrEnum):
    """How a release fails on a device that takes it."""

    DOWNLOAD = "download"  # the link gives up in the middle
    VERIFY = "verify"  # bytes are spoiled on the way, every time
    FLASH = "flash"  # a sector of the spare does not take the bytes
    BOOT = "boot"  # the image does not start
    GOLDEN_VECTORS = "golden-vectors"  # the model answers them wrongly
    CRASH_LOOP = "crash-loop"  # confirmed, then resets again and again
    BRICK = "brick"  # goes silent in mid update and stays so
    SLOW = "slow"  # confirmed, but inference takes longer
    DRIFT = "drift"  # confirmed, and its answers drift away
    DISAGREE = "disagree"  # in shadow, the model answers otherwise than the one that it is to replace


class ReleaseFault(Document):
    """A release that is bad for some devices.

    Attributes:
        release: its name, or `*` for every release; one of the scenario's, where it declares any.
        share: of the devices that take it, chosen by salted hash of the device id.
        hardware, region: only there.
        after: from the device's confirmed run to the moment when it strikes; for crash-loop, slow, drift and brick.
        only_in_the_dark: strikes while the lighting is low.
        factor: of latency where it is slow; of confidence where it drifts, there at most 1; share of frames where it
            disagrees, at most 1.
    """

    release: Name
    kind: ReleaseFaultKind
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    hardware: Label | None = None
    region: Label | None = None
    after: Length = timedelta(0)
    only_in_the_dark: bool = False
    factor: Annotated[float, Field(gt=0, le=1000)] | None = None

    @model_validator(mode="after")
    def _check_factor(self) -> Self:
        if self.kind is ReleaseFaultKind.DRIFT and self.strength > 1:
            raise ValueError(f"factor: expected at most 1, which is all of the confidence, found {self.strength:g}")
        if self.kind is ReleaseFaultKind.DISAGREE and self.strength > 1:
            raise ValueError(f"factor: expected at most 1, which is every frame, found {self.strength:g}")
        return self

    @property
    def strength(self) -> float:
        """The factor; where none is given, twice the latency, half the confidence or half of the frames."""
        usual = 2.0 if self.kind is ReleaseFaultKind.SLOW else 0.5
        return usual if self.factor is None else self.factor
