"""Inference on an emulated core, behind the same port as the pool of TFLM workers.

A model is compiled when it is first asked for and kept. It runs in this process: Unicorn confines it as the hardware
would, and lets go of Python's lock while it emulates. Callers wait for one another; there is one emulator.
"""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from device_sim.emulation.core import WATCHDOG_INSTRUCTIONS, EmulatedCore
from device_sim.emulation.errors import HostBusyError, ProgramRefusedError
from tinyml.errors import InputMismatchError, ModelFormatError
from tinyml.flatbuffer import ModelFacts, TensorFacts, read_model_facts
from tinyml.native.errors import CompilationTimeoutError, NativeError
from tinyml.native.program import NativeProgram
from tinyml.native.source import generate_source
from tinyml.native.toolchain import DEFAULT_BUDGET, NativeBudget, compile_program
from tinyml.workers import InferenceResult, ModelImage

_PROGRAMS_KEPT = 8


@dataclass(frozen=True, slots=True)
class EmulatedResult(InferenceResult):
    """A model's answer.

    Attributes:
        instructions: that the core executed for it.
    """

    instructions: int


class EmulatedInference:
    """Runs models on one emulated core; any number of threads may share it.

    Args:
        budget: memory sizes of the core.
        instruction_limit: the watchdog.
    """

    def __init__(
        self, *, budget: NativeBudget = DEFAULT_BUDGET, instruction_limit: int = WATCHDOG_INSTRUCTIONS
    ) -> None:
        self._budget = budget
        self._core = EmulatedCore(budget, instruction_limit=instruction_limit)
        self._lock = threading.Lock()
        self._programs: OrderedDict[str, _Prepared] = OrderedDict()

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> EmulatedResult:  # noqa: A002
        """Run a model once.

        Args:
            model: compiled when it is new; its arena is planned here, so `arena_bytes` plays no part.
            input: the first input tensor, in the model's shape and type.
            deadline_seconds: longest wait for other callers. What runs is not bounded by the host's time but by
                instructions, so that a loaded host and a fast one give the same answer.

        Raises:
            InputMismatchError: the input has another shape or type than the model's.
            ProgramRefusedError: no program can be made of the model, or it does not fit the core.
            CoreAccessError: the core touched memory that is not there or not for that purpose.
            InstructionLimitError: the watchdog bit.
            HostBusyError: others had the core all the time, or the compiler took longer than its limit.
        """
        with self._turn(deadline_seconds):
            prepared = self._prepared(model)
            _require_input(input, prepared.facts.inputs[0])
            started = time.perf_counter()
            done = self._core.run(prepared.program, input.tobytes())
            seconds = time.perf_counter() - started
        expected = prepared.facts.outputs[0]
        output = np.frombuffer(done.output, expected.dtype).reshape(expected.shape)
        return EmulatedResult(output, seconds, done.instructions)

    @contextlib.contextmanager
    def _turn(self, deadline_seconds: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=deadline_seconds):
            raise HostBusyError(f"expected the emulated core to be free in {deadline_seconds:g} s, found it busy")
        try:
            yield
        finally:
            self._lock.release()

    def _prepared(self, model: ModelImage) -> "_Prepared":
        found = self._programs.get(model.digest)
        if found is None:
            found = self._programs[model.digest] = _prepare(model, self._budget)
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(model.digest)
        return found


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A model's program and what the model says of its ends."""

    program: NativeProgram
    facts: ModelFacts


def _prepare(model: ModelImage, budget: NativeBudget) -> _Prepared:
    try:
        program = compile_program(generate_source(model.content).text, budget)
        return _Prepared(program, read_model_facts(model.content))
    except CompilationTimeoutError as error:
        raise HostBusyError(str(error)) from error
    except (NativeError, ModelFormatError) as error:
        raise ProgramRefusedError(f"model {model.digest[:12]}: {error}") from error


def _require_input(found: np.ndarray, expected: TensorFacts) -> None:
    if (found.dtype.name, found.shape) != (expected.dtype, expected.shape):
        raise InputMismatchError(
            f"input: expected {expected.dtype} {expected.shape}, found {found.dtype.name} {found.shape}"
        )
