"""A core of the simulated device with emulated inference in place of the pool: answers, faults and their causes."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from device_sim.emulation.errors import HostBusyError, ProgramRefusedError
from device_sim.hardware.machine import Machine
from protocol.geometry import Core, Slot
from protocol.messages import Cause
from tests.integration.emulation.emulated_programs import needs_emulation
from tests.integration.emulation.operator_models import Case, Value, build
from tests.unit.device_hardware.device_builder import DeviceBuilder, colour_model
from tinyml.errors import InputMismatchError
from tinyml.fetch import fetch_model
from tinyml.native import toolchain
from tinyml.native.errors import CompilationError
from tinyml.native.source import NativeSource, generate_source
from tinyml.native.toolchain import NativeBudget, compile_program
from tinyml.workers import ModelImage

if TYPE_CHECKING:
    from device_sim.emulation.inference import EmulatedInference

pytestmark = needs_emulation

_GREEN = np.full((8, 8, 3), (10, 100, 30), np.uint8)
_PIXEL = (1, 1, 1, 3)
_GENERATE = "device_sim.emulation.inference.generate_source"


def _quantising_model() -> bytes:
    """The mean colour of a photo, by an operator that has a kernel."""
    target = Value(_PIXEL, scales=(1.0,), zero_points=(-100,))
    return build(Case("quantise", schema.BuiltinOperator.QUANTIZE, (Value(_PIXEL, "float32"), target)))


def _machine(folder: Path, emulated: "EmulatedInference", content: bytes) -> Machine:
    builder = DeviceBuilder(folder)
    device = builder.manufacture()
    builder.claim(device)
    machine = builder.open(device, pool=emulated)
    images = builder.packages.factory_set()
    models = {slot: builder.packages.model(slot, content=content) for slot in (Slot.M4_0_MODEL, Slot.M4_1_MODEL)}
    machine.flash_factory(images | models)
    machine.boot()
    return machine


def _new_inference(**options: NativeBudget | int) -> "EmulatedInference":
    from device_sim.emulation.inference import EmulatedInference  # noqa: PLC0415 - needs the extra

    return EmulatedInference(**options)  # type: ignore[arg-type] # each test gives what it needs


def test_core_of_a_device_answers_from_its_own_program(tmp_path: Path, emulated: "EmulatedInference") -> None:
    """The emulation stands where the pool of TFLM workers stands; both cores share it."""
    machine = _machine(tmp_path, emulated, _quantising_model())
    for core in (Core.M4_0, Core.M4_1):
        outcome = machine.cores[core].infer(_GREEN)
        assert (outcome.label, outcome.score, outcome.cause) == ("green", 100.0, None)


def test_wild_write_of_a_program_is_a_crash_of_its_core_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is reported with address and program counter; the core is reset, its sibling goes on."""

    def break_table(content: bytes) -> NativeSource:
        source = generate_source(content)
        broken = re.sub(r"(\.output = \(int8_t \*\)\(arena \+ )\d+", rf"\g<1>{0x0800_0000}", source.text)
        return replace(source, text=broken)

    emulated = _new_inference()
    machine = _machine(tmp_path, emulated, _quantising_model())
    monkeypatch.setattr(_GENERATE, break_table)
    broken = machine.cores[Core.M4_0]
    outcome = broken.infer(_GREEN)
    assert (outcome.cause, broken.resets) == (Cause.CRASH, 1)
    assert "a fault: write at 0x08100000, pc 0x1000" in outcome.error
    assert machine.cores[Core.M4_1].resets == 0


def test_endless_program_is_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog bites after as many instructions as its time holds."""

    def loop(content: bytes) -> NativeSource:
        source = generate_source(content)
        return replace(source, text=source.text.replace("void infer(void) {", "void infer(void) {\n  for (;;) {}"))

    monkeypatch.setattr(_GENERATE, loop)
    machine = _machine(tmp_path, _new_inference(instruction_limit=2_000_000), _quantising_model())
    outcome = machine.cores[Core.M4_0].infer(_GREEN)
    assert outcome.cause is Cause.HANG
    assert "expected an answer in 2,000,000 instructions, found none" in outcome.error


def test_operator_without_a_kernel_is_named(tmp_path: Path, emulated: "EmulatedInference") -> None:
    """The device reports that its runtime cannot start the model."""
    machine = _machine(tmp_path, emulated, colour_model())
    outcome = machine.cores[Core.M4_0].infer(_GREEN)
    assert outcome.cause is Cause.BOOT
    assert "operator: expected one of ADD, " in outcome.error
    assert "found ABS" in outcome.error


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (NativeBudget(flash_bytes=64 * 1024), r"FLASH: expected at most 65,536 bytes, found \d{2},?\d{3}"),
        (
            NativeBudget(flash_bytes=256 * 1024, tcm_bytes=32 * 1024),
            r"TCM: expected at most 32,768 bytes, found 49,152",
        ),
    ],
    ids=["flash", "arena"],
)
def test_program_over_its_budget_is_refused_at_link(budget: NativeBudget, message: str) -> None:
    """The linker knows the sizes of the core; the error says which memory and by how much."""
    model = ModelImage(fetch_model("image-classification").read_bytes(), 192 * 1024)
    with pytest.raises(ProgramRefusedError, match=message):
        _new_inference(budget=budget).invoke(model, np.zeros((1, 32, 32, 3), np.int8), deadline_seconds=60)


def test_input_of_wrong_shape_or_type_is_refused(emulated: "EmulatedInference") -> None:
    """The message says what the model takes."""
    model = ModelImage(_quantising_model(), 4096)
    for wrong in (np.zeros((1, 1, 1, 4), np.float32), np.zeros(_PIXEL, np.float64)):
        with pytest.raises(InputMismatchError, match=r"input: expected float32 \(1, 1, 1, 3\), found"):
            emulated.invoke(model, wrong, deadline_seconds=60)


def test_c_that_does_not_compile_is_an_error_with_the_compilers_words() -> None:
    """Generated C always compiles; altered C need not."""
    with pytest.raises(CompilationError, match=r"compiler: expected a program, found: model\.c:1:.* error:"):
        compile_program("int infer(void) { return missing; }")


def test_same_source_gives_the_same_flash() -> None:
    """Whatever folder the compiler works in; so a fault's program counter can be looked up again."""
    text = generate_source(_quantising_model()).text
    first = compile_program(text)
    toolchain._kernels.cache_clear()
    assert compile_program(text) == first


def test_slow_compiler_is_a_busy_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device asks again later; its model is not to blame."""
    monkeypatch.setattr("tinyml.native.toolchain._COMPILE_SECONDS", 0.0)
    with pytest.raises(HostBusyError, match="compiler: expected a program in 0 s, found none"):
        _new_inference().invoke(ModelImage(_quantising_model(), 4096), np.zeros(_PIXEL, np.float32), deadline_seconds=9)


def test_caller_waits_for_its_turn_until_its_deadline() -> None:
    """There is one emulator; who cannot have it in time is told that the host is busy."""
    inference = _new_inference()
    with inference._turn(1), pytest.raises(HostBusyError, match="expected the emulated core to be free in 0 s"):
        inference.invoke(ModelImage(_quantising_model(), 4096), np.zeros(_PIXEL, np.float32), deadline_seconds=0)


def test_threads_with_different_models_get_their_own_answers(emulated: "EmulatedInference") -> None:
    """They take turns on one core, whose flash and memory change hands."""
    quantising = ModelImage(_quantising_model(), 4096)
    target = Value((1, 4), "float32")
    source = Value((1, 4), scales=(0.5,), zero_points=(0,))
    dequantising = ModelImage(build(Case("dequantise", schema.BuiltinOperator.DEQUANTIZE, (source, target))), 4096)

    def ask(number: int) -> tuple[list[float], list[float]]:
        pixel = np.full(_PIXEL, number, np.float32)
        stored = np.full((1, 4), number, np.int8)
        first = emulated.invoke(quantising, pixel, deadline_seconds=120).output
        second = emulated.invoke(dequantising, stored, deadline_seconds=120).output
        return first.ravel().tolist(), second.ravel().tolist()

    with ThreadPoolExecutor(max_workers=4) as threads:
        answers = list(threads.map(ask, range(24)))
    assert answers == [([number - 100] * 3, [number / 2] * 4) for number in range(24)]


def test_programs_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was pushed out is compiled anew, one that was not is not."""
    compiled = []

    def count(content: bytes) -> NativeSource:
        compiled.append(content)
        return generate_source(content)

    monkeypatch.setattr(_GENERATE, count)
    monkeypatch.setattr("device_sim.emulation.inference._PROGRAMS_KEPT", 1)
    inference = _new_inference()
    first, second = _quantising_model(), _quantising_model() + bytes(4)
    for content in (first, first, second, first):
        inference.invoke(ModelImage(content, 4096), np.zeros(_PIXEL, np.float32), deadline_seconds=60)
    assert compiled == [first, second, first]
