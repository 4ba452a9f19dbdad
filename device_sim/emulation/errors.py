"""What an emulated core may report; a leaf names a rule.

Each is at the same time the error of `tinyml` that the inference port promises, so that a core handles a fault of
the emulator as it handles one of the worker pool: a crash is a crash, a hang is a hang.
"""

from enum import StrEnum

from typing_extensions import override

from device_sim.errors import DeviceSimError
from tinyml.errors import InferenceCrashError, InferenceTimeoutError, ModelRejectedError, PoolBusyError


class EmulationMissingError(DeviceSimError):
    """The extra, or the cross compiler, is not installed on this machine."""


class ProgramRefusedError(DeviceSimError, ModelRejectedError):
    """No program can be made of the model, or it does not fit the core."""


class FaultCause(StrEnum):
    """What the core did that its hardware stops."""

    READ = "read"
    WRITE = "write"
    FETCH = "fetch"
    STACK_OVERFLOW = "stack overflow"
    INSTRUCTION = "instruction"


class CoreAccessError(DeviceSimError, InferenceCrashError):
    """The core touched memory that is not there or not for that purpose, or met an instruction that it lacks.

    Attributes:
        fault: what it did.
        pc: address of the instruction.
        address: what it touched; of an instruction, its own address.
    """

    def __init__(self, fault: FaultCause, *, pc: int, address: int) -> None:
        super().__init__(fault, pc, address)
        self.fault = fault
        self.pc = pc
        self.address = address

    @override
    def __str__(self) -> str:
        found = f"{self.fault} at {self.address:#010x}, pc {self.pc:#010x}"
        return f"expected only what the core's memory allows, found a fault: {found}"


class InstructionLimitError(DeviceSimError, InferenceTimeoutError):
    """The program executed as many instructions as fit into the watchdog's time and was not done."""


class HostBusyError(DeviceSimError, PoolBusyError):
    """The emulator was not free, or the compiler not done, in time: no fault of the core, the caller may ask again."""
