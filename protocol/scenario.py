"""Scenarios: what is declared to go wrong in a simulated fleet, read by device-sim and by plans' simulations.

A scenario is a YAML or JSON file; an unknown key is an error that says where.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.document import Document
from protocol.geometry import Core


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
    """

    model: str
    kind: FaultKind
    core: Core | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    after_inferences: Annotated[int, Field(ge=0)] = 0


class Scenario(Document):
    """What happens to a simulated fleet; the seed decides every choice in it.

    Attributes:
        inference_period_seconds: one event per core and period.
        inference_sample: how many devices run inference; 0 means all.
    """

    seed: int = 1
    inference_period_seconds: Annotated[float, Field(gt=0)] = 1.0
    inference_sample: Annotated[int, Field(ge=0)] = 0
    kernel_faults: tuple[KernelFault, ...] = ()
