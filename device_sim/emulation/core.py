"""A Cortex-M4 in Unicorn with the memory of one real-time core of the MT3620.

    0x00100000  192 KiB  TCM     read, write            arena
    0x10000000           flash   read, execute          code, tables, weights; size of the budget
    0x22000000  64 KiB   SYSRAM  read, write            stack at the bottom

Nothing else is mapped: no peripherals, no system control space. Any other access faults, and so does a write to
flash or a jump into RAM. Below the stack there is nothing, so an overflow faults at once. Instructions are counted,
and their limit is the watchdog, so the same program and input always end in the same way.

What is not modelled: cycles, wait states of flash, interrupts, exceptions (a fault ends the run instead).
"""

from dataclasses import dataclass, field

from unicorn.arm_const import UC_ARM_REG_PC, UC_ARM_REG_SP, UC_CPU_ARM_CORTEX_M4
from unicorn.unicorn_const import (
    UC_ARCH_ARM,
    UC_HOOK_MEM_INVALID,
    UC_MEM_FETCH_PROT,
    UC_MEM_FETCH_UNMAPPED,
    UC_MEM_WRITE_PROT,
    UC_MEM_WRITE_UNMAPPED,
    UC_MODE_MCLASS,
    UC_MODE_THUMB,
    UC_PROT_EXEC,
    UC_PROT_READ,
    UC_PROT_WRITE,
)
from unicorn.unicorn_py3 import Uc, UcContext, UcError

from device_sim.cores.kernels import WATCHDOG_MS
from device_sim.emulation.errors import CoreAccessError, FaultCause, InstructionLimitError
from protocol.geometry import M4_CLOCK_HZ
from tinyml.native.program import FLASH_START, SYSRAM_START, TCM_START, NativeProgram
from tinyml.native.toolchain import DEFAULT_BUDGET, NativeBudget

# A Cortex-M4 executes at most one instruction per cycle, so no program gets further before the watchdog bites.
WATCHDOG_INSTRUCTIONS = int(M4_CLOCK_HZ * WATCHDOG_MS / 1000)
STACK_GUARD_BYTES = 64 * 1024  # an access so far below the stack is an overflow, not a wild one
_PAGE_BYTES = 4096
_ERASED = 0xFF
_THUMB = 1
_STRIDE = 1 << 20  # instructions at a time, about 10 ms: a Ctrl-C gets through in between
_SHORTER = 32  # by how much the strides shorten to count the last instructions
_FAULTS = {
    UC_MEM_WRITE_UNMAPPED: FaultCause.WRITE,
    UC_MEM_WRITE_PROT: FaultCause.WRITE,
    UC_MEM_FETCH_UNMAPPED: FaultCause.FETCH,
    UC_MEM_FETCH_PROT: FaultCause.FETCH,
}


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a program.

    Attributes:
        output: bytes of the output tensor.
        instructions: executed from reset to idle.
    """

    output: bytes = field(repr=False)
    instructions: int


@dataclass(frozen=True, slots=True)
class _State:
    """Registers, and what the RAM holds."""

    registers: UcContext
    memory: tuple[bytes, ...] = field(repr=False)


class EmulatedCore:
    """One core; not for several threads at once.

    Args:
        budget: memory sizes.
        instruction_limit: the watchdog.
    """

    def __init__(
        self, budget: NativeBudget = DEFAULT_BUDGET, *, instruction_limit: int = WATCHDOG_INSTRUCTIONS
    ) -> None:
        self._ram = ((TCM_START, budget.tcm_bytes), (SYSRAM_START, budget.sysram_bytes))
        self._flash_bytes = -(-budget.flash_bytes // _PAGE_BYTES) * _PAGE_BYTES
        self._instruction_limit = instruction_limit
        self._fault: CoreAccessError | None = None
        self._program: NativeProgram | None = None
        self._uc = self._power_on()
        self._registers_at_reset = self._uc.context_save()

    def run(self, program: NativeProgram, tensor: bytes) -> Execution:
        """Reset the core and let it run once; as on hardware, a reset leaves the memory as it is.

        Args:
            program: written to flash first, and the memory cleared, unless it is the one that lies there.
            tensor: bytes of the input tensor, as many as the program takes.

        Raises:
            CoreAccessError: the core faulted.
            InstructionLimitError: the watchdog bit.
        """
        if program is not self._program:
            self._load(program)
        self._fault = None
        self._uc.context_restore(self._registers_at_reset)
        self._uc.mem_write(program.input.address, tensor)
        self._uc.reg_write(UC_ARM_REG_SP, program.stack_top)
        self._uc.reg_write(UC_ARM_REG_PC, program.entry | _THUMB)
        instructions = self._execute(program.idle)
        output = self._uc.mem_read(program.output.address, program.output.size_bytes)
        return Execution(bytes(output), instructions)

    def _power_on(self) -> Uc:
        core = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        core.ctl_set_cpu_model(UC_CPU_ARM_CORTEX_M4)
        core.mem_map(FLASH_START, self._flash_bytes, UC_PROT_READ | UC_PROT_EXEC)
        for start, size in self._ram:
            core.mem_map(start, size, UC_PROT_READ | UC_PROT_WRITE)
        core.hook_add(UC_HOOK_MEM_INVALID, self._note_access)
        return core

    def _load(self, program: NativeProgram) -> None:
        erased = bytes([_ERASED]) * (self._flash_bytes - len(program.flash))
        self._uc.mem_write(FLASH_START, program.flash + erased)
        self._uc.ctl_flush_tb()  # code of the program before
        for start, size in self._ram:
            self._uc.mem_write(start, bytes(size))
        self._program = program

    def _execute(self, idle: int) -> int:
        """Run to idle and return how many instructions that took.

        Unicorn does not say after how many instructions it stopped, so the stride in which idle is reached is walked
        again in ever shorter ones.
        """
        executed, stride = 0, _STRIDE
        while executed < self._instruction_limit:
            before = self._snapshot()
            count = min(stride, self._instruction_limit - executed)
            if not self._reaches(idle, count):
                executed += count
            elif count == 1:
                return executed + 1
            else:
                self._restore(before)
                stride = max(count // _SHORTER, 1)
        raise InstructionLimitError(f"expected an answer in {self._instruction_limit:,} instructions, found none")

    def _reaches(self, idle: int, count: int) -> bool:
        """Execute so many instructions; return whether the core got to idle."""
        try:
            self._uc.emu_start(self._uc.reg_read(UC_ARM_REG_PC) | _THUMB, idle, count=count)
        except UcError as error:
            pc = self._uc.reg_read(UC_ARM_REG_PC)
            raise self._fault or CoreAccessError(FaultCause.INSTRUCTION, pc=pc, address=pc) from error
        return bool(self._uc.reg_read(UC_ARM_REG_PC) == idle)

    def _note_access(self, core: Uc, access: int, address: int, *_: object) -> bool:
        """Take down what the core did; False lets Unicorn stop."""
        overflow = SYSRAM_START - STACK_GUARD_BYTES <= address < SYSRAM_START
        fault = FaultCause.STACK_OVERFLOW if overflow else _FAULTS.get(access, FaultCause.READ)
        self._fault = CoreAccessError(fault, pc=core.reg_read(UC_ARM_REG_PC), address=address)
        return False

    def _snapshot(self) -> _State:
        return _State(self._uc.context_save(), tuple(bytes(self._uc.mem_read(*region)) for region in self._ram))

    def _restore(self, state: _State) -> None:
        self._uc.context_restore(state.registers)
        for (start, _), content in zip(self._ram, state.memory, strict=True):
            self._uc.mem_write(start, content)
