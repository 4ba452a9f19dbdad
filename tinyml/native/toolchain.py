"""Compiles and links a program with arm-none-eabi-gcc.

The compiler runs in a folder of its own with relative file names, so that the same source and the same compiler give
the same bytes. What the linker cannot place is refused: flash and memory are exactly those of the core. The kernels are
compiled once per process.
"""

import contextlib
import functools
import importlib.resources
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from protocol.geometry import HOME_BYTES, SYSRAM_BYTES, TCM_BYTES, Slot
from tinyml.native.errors import CompilationError, CompilationTimeoutError, CompilerMissingError, OverBudgetError
from tinyml.native.program import NativeProgram, parse_program

COMPILER, OBJCOPY = "arm-none-eabi-gcc", "arm-none-eabi-objcopy"
STACK_BYTES = 4096
_COMPILE_SECONDS = 120.0  # a model takes about 2 s; a loaded machine may take long
_MODEL_FILE, _LINKED_FILE, _PROGRAM_FILE = "model.c", "program.elf", "program.bin"
_SOURCE_FILES, _OBJECT_FILES = ("kernels.c", "startup.c"), ("kernels.o", "startup.o")
_SHARED_FILES = ("kernels.h", "program.h", "program.ld")
_ARCHITECTURE = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
_OPTIONS = (
    *("-std=c11", "-O2", "-ffreestanding", "-nostdlib", "-ffunction-sections"),
    "-fwrapv",  # a hostile model may overflow any sum
    "-ffp-contract=off",  # a fused multiply-add rounds once where the reference kernels round twice
    "-fno-tree-loop-distribute-patterns",  # there is no memcpy to call
)
_LINK_OPTIONS = ("-Wl,--build-id=none", "-Wl,--gc-sections", "-T", "program.ld")
_OVERFLOW = re.compile(r"region `(\w+)' overflowed by (\d+) bytes")


@dataclass(frozen=True, slots=True)
class NativeBudget:
    """What a core has for a program, in bytes.

    Attributes:
        flash_bytes: code, tables and weights, executed in place.
        tcm_bytes: the arena.
        sysram_bytes: the stack, and what else the runtime needs.
        stack_bytes: the stack's share of it.
    """

    flash_bytes: int
    tcm_bytes: int = TCM_BYTES
    sysram_bytes: int = SYSRAM_BYTES
    stack_bytes: int = STACK_BYTES


# The home slots of the core with the larger ones: its firmware and its model make up what is one program here.
DEFAULT_BUDGET = NativeBudget(HOME_BYTES[Slot.M4_0_FIRMWARE] + HOME_BYTES[Slot.M4_0_MODEL])


def require_toolchain() -> None:
    """Make sure that the cross compiler is installed.

    Raises:
        CompilerMissingError: it is not on the PATH.
    """
    for tool in (COMPILER, OBJCOPY):
        _path_of(tool)


def compile_program(text: str, budget: NativeBudget = DEFAULT_BUDGET) -> NativeProgram:
    """Compile generated C and link it with the kernels.

    Args:
        text: the C of a model, from `native.source`.
        budget: what the core has.

    Raises:
        CompilerMissingError: the cross compiler is not installed.
        OverBudgetError: it does not fit; the message says which memory and by how much.
        CompilationError: the compiler refused it.
        CompilationTimeoutError: the compiler was not done in time.
    """
    compiler, objcopy = _path_of(COMPILER), _path_of(OBJCOPY)
    with _workplace() as folder:
        (folder / _MODEL_FILE).write_text(text)
        for name, content in _kernels(compiler).items():
            (folder / name).write_bytes(content)
        link = [*_LINK_OPTIONS, *_sizes(budget), _MODEL_FILE, *_OBJECT_FILES, "-lgcc", "-o", _LINKED_FILE]
        _run([compiler, *_ARCHITECTURE, *_OPTIONS, *link], folder, budget)
        # The linker itself writes no raw binary for ARM.
        _run([objcopy, "-O", "binary", "-j", ".flash", _LINKED_FILE, _PROGRAM_FILE], folder, budget)
        return parse_program((folder / _PROGRAM_FILE).read_bytes())


@functools.cache
def _kernels(compiler: str) -> Mapping[str, bytes]:
    """Compile what is the same in every program; object files by their names."""
    with _workplace() as folder:
        for name in _SOURCE_FILES:
            (folder / name).write_bytes(_firmware(name))
        _run([compiler, *_ARCHITECTURE, *_OPTIONS, "-c", *_SOURCE_FILES], folder, DEFAULT_BUDGET)
        return {name: (folder / name).read_bytes() for name in _OBJECT_FILES}


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder with the headers and the linker script, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-native-") as name:
        folder = Path(name)
        for shared in _SHARED_FILES:
            (folder / shared).write_bytes(_firmware(shared))
        yield folder


def _firmware(name: str) -> bytes:
    return (importlib.resources.files("tinyml.native") / "firmware" / name).read_bytes()


def _path_of(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        raise CompilerMissingError(
            f"expected {tool} on the PATH, found none; on Debian or Ubuntu: "
            "sudo apt-get install --no-install-recommends gcc-arm-none-eabi"
        )
    return found


def _sizes(budget: NativeBudget) -> list[str]:
    sizes = {
        "flash_bytes": budget.flash_bytes,
        "tcm_bytes": budget.tcm_bytes,
        "sysram_bytes": budget.sysram_bytes,
        "stack_bytes": budget.stack_bytes,
    }
    return [f"-Wl,--defsym={name}={size}" for name, size in sizes.items()]


def _run(command: list[str], folder: Path, budget: NativeBudget) -> None:
    try:
        run = subprocess.run(  # noqa: S603 - our compiler, our options, files of our names
            command, cwd=folder, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CompilationTimeoutError(f"compiler: expected a program in {_COMPILE_SECONDS:g} s, found none") from error
    except OSError as error:
        raise CompilationError(f"compiler: expected {command[0]} to run, found: {error}") from error
    if run.returncode != 0:
        raise _refusal(run.stderr, budget)


def _refusal(said: str, budget: NativeBudget) -> OverBudgetError | CompilationError:
    limits = {"FLASH": budget.flash_bytes, "TCM": budget.tcm_bytes, "SYSRAM": budget.sysram_bytes}
    overflows = [
        f"{region}: expected at most {limits[region]:,} bytes, found {limits[region] + int(excess):,}"
        for region, excess in _OVERFLOW.findall(said)
    ]
    if overflows:
        return OverBudgetError(f"the program does not fit the core: {'; '.join(overflows)}")
    lines = [line for line in said.splitlines() if "error:" in line or "undefined reference" in line]
    return CompilationError(f"compiler: expected a program, found: {(lines or [said.strip()[-200:]])[0]}")
