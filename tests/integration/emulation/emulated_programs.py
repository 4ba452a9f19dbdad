"""Programs for the emulated core: of the demo's models, and written to misbehave in one way each."""

import functools
import importlib.util
import shutil
from typing import TYPE_CHECKING

import pytest

from tinyml.native.program import NativeProgram
from tinyml.native.toolchain import COMPILER, DEFAULT_BUDGET, NativeBudget, compile_program

if TYPE_CHECKING:
    from device_sim.emulation.core import EmulatedCore

MISSING = [
    *(["the package unicorn"] if importlib.util.find_spec("unicorn") is None else []),
    *([COMPILER] if shutil.which(COMPILER) is None else []),
]
needs_emulation = pytest.mark.skipif(bool(MISSING), reason=f"emulated cores: {' and '.join(MISSING)} not installed")

ARENA_BYTES = 64
_TEMPLATE = """
#include "kernels.h"
#include "program.h"
static int8_t arena[{arena}] __attribute__((aligned(16), section(".arena")));
{code}
__attribute__((section(".facts"), used)) static const struct program_facts facts =
  {{PROGRAM_MAGIC, idle, arena, 16, arena + 16, 16, {arena}}};
"""


@functools.cache
def program_of(code: str, budget: NativeBudget = DEFAULT_BUDGET) -> NativeProgram:
    """A program that takes and gives 16 bytes; `code` holds its `infer`."""
    return compile_program(_TEMPLATE.format(code=code, arena=ARENA_BYTES), budget)


def new_core(instruction_limit: int | None = None) -> "EmulatedCore":
    """A core that has run nothing yet; with its own watchdog unless told otherwise."""
    from device_sim.emulation.core import WATCHDOG_INSTRUCTIONS, EmulatedCore  # noqa: PLC0415 - needs the extra

    return EmulatedCore(instruction_limit=instruction_limit or WATCHDOG_INSTRUCTIONS)
