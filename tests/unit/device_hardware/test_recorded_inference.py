"""Inference from memory: one real run for all who ask the same."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from device_sim.cores.recorded import RecordedInference
from protocol.geometry import Core
from tests.unit.device_hardware.device_builder import ColourInference, DeviceBuilder
from tinyml.errors import InferenceCrashError, InferenceError, ModelRejectedError, PoolBusyError
from tinyml.workers import InferenceResult, ModelImage

MODEL, OTHER = ModelImage(b"model", 4096), ModelImage(b"other", 4096)


class Counting:
    """Counts what is really run; may fail."""

    def __init__(self, error: InferenceError | None = None) -> None:
        self.runs = 0
        self.error = error

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        self.runs += 1
        if self.error is not None:
            raise self.error
        return ColourInference().invoke(model, input, deadline_seconds=deadline_seconds)


def tensor(value: float) -> np.ndarray:
    return np.full((1, 3), value, np.float32)


def ask(recorded: RecordedInference, model: ModelImage, value: float) -> float:
    return float(recorded.invoke(model, tensor(value), deadline_seconds=1).output[0, 0])


def test_question_asked_before_is_answered_from_memory() -> None:
    """The same model and input; anything else is run."""
    pool = Counting()
    recorded = RecordedInference(pool)
    assert [ask(recorded, MODEL, value) for value in (-1, -1, -2, -1)] == [1, 1, 2, 1]
    assert pool.runs == 2
    assert ask(recorded, OTHER, -1) == 1
    assert ask(recorded, ModelImage(b"model", 8192), -1) == 1
    assert (pool.runs, recorded.answers) == (4, 4)


def test_recording_runs_everything_before_a_device_asks() -> None:
    """No device waits for the interpreter then."""
    pool = Counting()
    recorded = RecordedInference(pool)
    recorded.record(MODEL, [tensor(value) for value in range(5)])
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda value: ask(recorded, MODEL, value), range(5))) == [0, 1, 2, 3, 4]
    assert pool.runs == 5


def test_oldest_answers_make_room() -> None:
    """Memory is bounded; what was asked lately stays."""
    pool = Counting()
    recorded = RecordedInference(pool, kept=2)
    for value in (1, 2, 1, 3, 1):
        ask(recorded, MODEL, value)
    assert (pool.runs, recorded.answers) == (3, 2)
    ask(recorded, MODEL, 2)
    assert pool.runs == 4


@pytest.mark.parametrize("error", [InferenceCrashError("SIGSEGV"), ModelRejectedError("arena")])
def test_model_that_fails_fails_again_without_a_worker(error: InferenceError) -> None:
    """A model that kills its worker does so once, not once per device."""
    pool = Counting(error)
    recorded = RecordedInference(pool)
    recorded.record(MODEL, [tensor(1)])
    for _ in range(3):
        with pytest.raises(type(error), match=str(error)):
            ask(recorded, MODEL, 1)
    assert pool.runs == 1


def test_busy_host_is_asked_again() -> None:
    """That it had no time is no answer of the model."""
    pool = Counting(PoolBusyError("expected a free worker, found none"))
    recorded = RecordedInference(pool)
    with pytest.raises(PoolBusyError, match="free worker"):
        ask(recorded, MODEL, 1)
    pool.error = None
    assert ask(recorded, MODEL, 1) == 1


def test_inputs_that_cannot_change_are_told_apart_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arrays are two inputs, however often the checksums make room."""
    monkeypatch.setattr("device_sim.cores.recorded.CHECKSUMS_KEPT", 2)
    pool, shared = Counting(), [tensor(value) for value in range(5)]
    for each in shared:
        each.flags.writeable = False
    recorded = RecordedInference(pool)
    for _ in range(3):
        answers = [float(recorded.invoke(MODEL, each, deadline_seconds=1).output[0, 0]) for each in shared]
        assert answers == [0, 1, 2, 3, 4]
    assert pool.runs == 5


def test_model_that_keeps_state_is_run_every_time() -> None:
    """The same input may have another answer."""
    pool = Counting()
    recorded = RecordedInference(pool)
    for _ in range(3):
        ask(recorded, ModelImage(b"model", 4096, "one core"), 1)
    assert (pool.runs, recorded.answers) == (3, 0)


def test_core_runs_on_recorded_inference(builder: DeviceBuilder) -> None:
    """Where the pool would stand; a frame seen twice is inferred once."""
    pool = Counting()
    machine = builder.ready(pool=RecordedInference(pool))
    machine.boot()
    frame = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    labels = [core.infer(frame).label for core in machine.cores.values() for _ in range(3)]
    assert (labels, pool.runs) == (["green"] * 6, 1)
    assert machine.cores[Core.M4_0].resets == 0
