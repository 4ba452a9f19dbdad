"""What real hardware stops, the emulated core stops, and says where."""

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from device_sim.emulation.errors import CoreAccessError, FaultCause, InstructionLimitError
from tests.integration.emulation.emulated_programs import needs_emulation, new_core, program_of
from tinyml.fetch import fetch_model
from tinyml.native.program import FLASH_START, NativeProgram
from tinyml.native.source import generate_source
from tinyml.native.toolchain import compile_program

if TYPE_CHECKING:
    from device_sim.emulation.core import EmulatedCore

pytestmark = needs_emulation

_LIMIT = 3_000_000
_STORE_WORD = bytes.fromhex("1360")  # str r3, [r2]
_LOAD_WORD = bytes.fromhex("1368")  # ldr r3, [r2]
_RECURSION = """
static int deep(volatile int n) { volatile char bytes[256]; bytes[n & 255] = n; return deep(n + 1) + bytes[3]; }
void infer(void) { deep(1); }"""
_COPY = "void infer(void) { for (int i = 0; i < 16; i++) arena[16 + i] = arena[i] + 1; }"


def _access(address: int, instruction: str) -> NativeProgram:
    """A program that does one access, with address in r2."""
    return program_of(
        f"""void infer(void) {{
          register uint32_t address __asm__("r2") = {address}u;
          register uint32_t value __asm__("r3") = 7;
          __asm__ volatile("nop; {instruction}; nop" :: "r"(address), "r"(value) : "memory");
        }}"""
    )


def _fault_of(program: NativeProgram) -> CoreAccessError:
    core = new_core(_LIMIT)
    with pytest.raises(CoreAccessError) as caught:
        core.run(program, bytes(16))
    _still_works(core)
    return caught.value


def _still_works(core: "EmulatedCore") -> None:
    done = core.run(program_of(_COPY), bytes(range(16)))
    assert done.output == bytes(range(1, 17))


@pytest.mark.parametrize(
    ("address", "instruction", "cause"),
    [
        (0x2000_0000, "str r3, [r2]", FaultCause.WRITE),
        (0x0000_0000, "str r3, [r2]", FaultCause.WRITE),
        (0x0013_0000, "str r3, [r2]", FaultCause.WRITE),  # the first byte behind TCM
        (FLASH_START + 0x100, "str r3, [r2]", FaultCause.WRITE),
        (0x4000_0000, "ldr r3, [r2]", FaultCause.READ),
        (0xE000_ED88, "ldr r3, [r2]", FaultCause.READ),  # no system control space either
    ],
)
def test_wild_access_faults_with_address_and_pc(address: int, instruction: str, cause: FaultCause) -> None:
    """The fault names the address, and the program counter is that of the very instruction."""
    program = _access(address, instruction)
    fault = _fault_of(program)
    assert (fault.fault, fault.address) == (cause, address)
    encoded = _STORE_WORD if cause is FaultCause.WRITE else _LOAD_WORD
    assert program.flash[fault.pc - FLASH_START :].startswith(encoded)
    assert f"{cause} at {address:#010x}, pc {fault.pc:#010x}" in str(fault)


@pytest.mark.parametrize("address", [0x0010_0001, 0x2200_8001, 0x3000_0001])
def test_jump_out_of_flash_faults(address: int) -> None:
    """Neither RAM nor a hole in the map executes."""
    fault = _fault_of(_access(address, "bx r2"))
    assert (fault.fault, fault.pc) == (FaultCause.FETCH, address - 1)


@pytest.mark.parametrize("instruction", ["udf #0", "svc #0", "bkpt #0"])
def test_instruction_that_the_core_does_not_handle_faults(instruction: str) -> None:
    """An undefined one, a call of a supervisor that is not there, a breakpoint."""
    assert _fault_of(_access(0, instruction)).fault is FaultCause.INSTRUCTION


def test_stack_overflow_faults_below_the_stack() -> None:
    """Endless recursion runs off the lower end of SYSRAM, where nothing is."""
    fault = _fault_of(program_of(_RECURSION))
    assert fault.fault is FaultCause.STACK_OVERFLOW
    assert "stack overflow at 0x21ff" in str(fault)


def test_endless_loop_meets_the_watchdog() -> None:
    """The instruction limit ends it, always after as many; the core is usable again."""
    core = new_core(_LIMIT)
    with pytest.raises(InstructionLimitError, match="expected an answer in 3,000,000 instructions, found none"):
        core.run(program_of('void infer(void) { for (;;) __asm__ volatile(""); }'), bytes(16))
    _still_works(core)


@pytest.mark.parametrize(
    ("field", "cause"), [("output", FaultCause.WRITE), ("input", FaultCause.READ)], ids=["output", "input"]
)
def test_op_table_with_an_offset_outside_the_arena_faults(field: str, cause: FaultCause) -> None:
    """A generated program whose planner went wrong for one operator touches what is not there."""
    text = generate_source(fetch_model("anomaly-detection").read_bytes()).text
    pattern = rf"(struct fully_connected op\d+ = \{{.*?\.{field} = \(int8_t \*\)\(arena \+ )\d+"
    broken, count = re.subn(pattern, rf"\g<1>{0x0800_0000}", text, count=1, flags=re.DOTALL)
    assert count == 1
    program = compile_program(broken)
    core = new_core()
    with pytest.raises(CoreAccessError) as caught:
        core.run(program, bytes(program.input.size_bytes))
    assert caught.value.fault is cause
    assert 0x0810_0000 <= caught.value.address < 0x0810_0000 + 1024
    _still_works(core)


def test_reset_takes_back_what_a_program_did_to_the_registers() -> None:
    """Another rounding, another stack, interrupts off: the next run begins as the first did."""
    meddle = program_of(
        """void infer(void) { __asm__ volatile(
          "cpsid i; mov r0, #0x00C00000; vmsr fpscr, r0; mov r0, #2; msr control, r0; udf #0" ::: "r0"); }"""
    )
    divide = program_of("void infer(void) { *(float *)(arena + 16) = *(float *)arena / 3.0f; }")
    core, one = new_core(_LIMIT), np.array([1, 0, 0, 0], np.float32).tobytes()
    before = core.run(divide, one)
    with pytest.raises(CoreAccessError, match="a fault: instruction at"):
        core.run(meddle, bytes(16))
    assert core.run(divide, one) == before


def test_reset_leaves_the_memory_and_another_program_clears_it() -> None:
    """As on the chip: a watchdog's reset keeps what RAM holds, new firmware starts with none of it."""
    count = program_of("void infer(void) { arena[48]++; arena[16] = arena[48]; }")
    core = new_core()
    runs = [core.run(count, bytes(16)).output[0] for _ in range(2)]
    _still_works(core)
    assert [*runs, core.run(count, bytes(16)).output[0]] == [1, 2, 1]


@pytest.mark.parametrize("stride", [7, 1009])
def test_stopping_and_going_on_changes_no_answer(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is walked in strides; wherever they end, in conditional blocks too, the answer is the same."""
    program = compile_program(generate_source(fetch_model("anomaly-detection").read_bytes()).text)
    tensor = np.random.default_rng(3).normal(0, 20, program.input.size_bytes // 4).astype("<f4").tobytes()
    whole = new_core().run(program, tensor)
    monkeypatch.setattr("device_sim.emulation.core._STRIDE", stride * 100)
    pieces = new_core().run(program, tensor)
    assert pieces.output == whole.output
    assert abs(pieces.instructions - whole.instructions) < whole.instructions // 1000
