"""Hostile models on an emulated core: whatever they make it do stays inside its memory map.

The strongest thief of all is assumed: code that nobody checked. Weights lie in flash that executes, so a kernel that
could be made to jump would run what the model's author wrote.
"""

import importlib.util
import random
import shutil
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from device_sim.emulation.errors import CoreAccessError, InstructionLimitError
from tinyml.errors import TinymlError
from tinyml.fetch import fetch_model
from tinyml.native.program import FLASH_START, NativeProgram
from tinyml.native.source import generate_source
from tinyml.native.toolchain import COMPILER, compile_program

if TYPE_CHECKING:
    from device_sim.emulation.core import EmulatedCore

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("unicorn") is None or shutil.which(COMPILER) is None,
    reason=f"emulated cores: the package unicorn or {COMPILER} not installed",
)

_LIMIT = 3_000_000  # the autoencoder takes 1.4 million instructions, the keyword model 23
_HEADER_BYTES = 92  # vector table and facts; see tinyml/native/program.py
_TABLES_BYTES = 12_000  # flatbuffers puts them last
_NAME, _HOSTILE_NAME = b"model/dense/MatMul", b'");system("id");/*'


@pytest.fixture(scope="module")
def program() -> NativeProgram:
    return compile_program(generate_source(fetch_model("anomaly-detection").read_bytes()).text)


@pytest.fixture(scope="module")
def model() -> bytes:
    """Smaller, and its operators have more to get wrong."""
    return fetch_model("keyword-spotting").read_bytes()


@pytest.fixture(scope="module")
def core() -> "EmulatedCore":
    return _new_core(_LIMIT)


def _new_core(instruction_limit: int) -> "EmulatedCore":
    from device_sim.emulation.core import EmulatedCore  # noqa: PLC0415 - needs the extra

    return EmulatedCore(instruction_limit=instruction_limit)


def _input(program: NativeProgram) -> bytes:
    return np.random.default_rng(1).normal(0, 20, program.input.size_bytes // 4).astype("<f4").tobytes()


def _run(core: "EmulatedCore", program: NativeProgram) -> str:
    """Run a hostile program; anything but an answer or one of our two errors fails the test."""
    try:
        core.run(program, _input(program))
    except CoreAccessError as error:
        return error.fault
    except InstructionLimitError:
        return "watchdog"
    return "answer"


def _map_of(core: "EmulatedCore") -> list[tuple[int, int, int]]:
    return list(core._uc.mem_regions())


def test_random_code_stays_inside_its_memory(core: "EmulatedCore", program: NativeProgram) -> None:
    """A legitimate run, 150 programs of random bytes, then the same run again: nothing changed."""
    before, regions = core.run(program, _input(program)), _map_of(core)
    ends = Counter(_run(core, _random_code(program, seed)) for seed in range(150))
    assert ends["read"] > 0
    assert ends["write"] > 0
    assert ends["instruction"] > 0
    assert core.run(program, _input(program)) == before
    assert _map_of(core) == regions


@pytest.mark.parametrize("share", [0.001, 0.05, 1.0])
def test_corrupted_weights_are_an_answer_or_a_fault(core: "EmulatedCore", program: NativeProgram, share: float) -> None:
    """Flash that rotted, code and weights alike, cannot be written by what it made the core do."""
    before = core.run(program, _input(program))
    for seed in range(4):
        rotten = _rot(program, random.Random(seed), share=share)  # noqa: S311 - seeded damage
        assert _run(core, rotten) in {"answer", "watchdog", "read", "write", "fetch", "instruction", "stack overflow"}
        assert bytes(core._uc.mem_read(FLASH_START, len(rotten.flash))) == rotten.flash
    assert core.run(program, _input(program)) == before


def test_corrupted_models_are_refused_or_confined(model: bytes) -> None:
    """Damage in a model's tables: our error, or a program that answers or faults; then the right one again."""
    core, right = _new_core(10 * _LIMIT), compile_program(generate_source(model).text)
    before = core.run(right, _input(right))
    ends = Counter(_end_of_model(core, _damage(model, seed)) for seed in range(12))
    assert ends["refused"] > 0
    assert ends["answer"] > 0
    assert core.run(right, _input(right)) == before


def test_damaged_models_raise_only_our_errors_before_compilation(model: bytes) -> None:
    """100 damaged models, judged without a compiler: C, or an error that says what was expected."""
    for seed in range(100):
        try:
            text = generate_source(_damage(model, seed)).text
        except TinymlError as error:
            assert "expected" in str(error)  # noqa: PT017 - most of them raise, not all
        else:
            assert text.startswith('#include "kernels.h"')


def test_names_in_a_model_never_reach_the_compiler(model: bytes) -> None:
    """A tensor's name that is C is not in the C."""
    hostile = model.replace(_NAME, _HOSTILE_NAME)
    assert hostile != model
    assert generate_source(hostile) == generate_source(model)


def _end_of_model(core: "EmulatedCore", damaged: bytes) -> str:
    try:
        return _run(core, compile_program(generate_source(damaged).text))
    except TinymlError:
        return "refused"


def _damage(model: bytes, seed: int) -> bytes:
    chance = random.Random(seed)  # noqa: S311 - seeded damage
    damaged = bytearray(model)
    for _ in range(chance.choice([1, 4, 16])):
        damaged[chance.randrange(len(damaged) - _TABLES_BYTES, len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _random_code(program: NativeProgram, seed: int) -> NativeProgram:
    code = random.Random(seed).randbytes(2000)  # noqa: S311 - seeded damage
    return replace(program, flash=program.flash[:_HEADER_BYTES] + code, entry=FLASH_START + _HEADER_BYTES)


def _rot(program: NativeProgram, chance: random.Random, *, share: float) -> NativeProgram:
    flash = bytearray(program.flash)
    for _ in range(int(len(flash) * share)):
        flash[chance.randrange(_HEADER_BYTES, len(flash))] ^= 1 << chance.randrange(8)
    return replace(program, flash=bytes(flash))
