"""The real-time cores in real TFLM: answers, golden vectors over intercore messages, faults and their containment."""

import base64

import numpy as np
import pytest

from device_sim.cores.a7 import run_golden
from device_sim.cores.faults import faults_of
from device_sim.cores.intercore import HEADER_BYTES, MAX_MESSAGE_BYTES, data_of, split
from device_sim.cores.kernels import WATCHDOG_MS
from device_sim.cores.m4 import M4Core
from device_sim.errors import CoreFaultError, IntercoreMessageError
from device_sim.hardware.machine import Machine
from protocol.geometry import Core, Slot
from protocol.identity import DeviceId
from protocol.messages import Cause
from protocol.model import GoldenVector, GoldenVectors
from protocol.scenario import FaultKind, KernelFault, Scenario
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial
from tinyml.errors import (
    InferenceCrashError,
    InferenceError,
    InferenceTimeoutError,
    InvokeFailedError,
    ModelRejectedError,
    PoolBusyError,
)
from tinyml.latency import Profile
from tinyml.workers import InferencePool, InferenceResult, ModelImage

COMPONENT = "22222222-2222-4222-8222-222222222222"
GREEN = np.full((8, 8, 3), (10, 200, 30), np.uint8)


def vectors(*expected: float, given: tuple[float, ...] = (1, 5, 2)) -> GoldenVectors:
    data = base64.b64encode(np.array(given, np.float32).tobytes()).decode()
    vector = GoldenVector(name="one", input=data, expected=expected, tolerance=0.01)
    return GoldenVectors(component_id=COMPONENT, vectors=(vector,))


def booted(builder: DeviceBuilder, pool: InferencePool, *faults: KernelFault) -> Machine:
    machine = builder.ready(pool=pool, scenario=Scenario(kernel_faults=faults))
    machine.boot()
    return machine


def test_core_answers_with_label_latency_and_arena(builder: DeviceBuilder, pool: InferencePool) -> None:
    """The real interpreter runs; the mean colour of the frame is the best label."""
    outcome = booted(builder, pool).cores[Core.M4_0].infer(GREEN)
    assert (outcome.label, outcome.score, outcome.arena_bytes) == ("green", 200.0, 4096)
    assert (outcome.model, outcome.cause, outcome.error) == ("colour@1.0.0", None, "")
    assert outcome.host_ms > 0


def test_frame_that_is_no_photo_is_an_error_without_a_reset(builder: DeviceBuilder, pool: InferencePool) -> None:
    """Bad input is reported; the core goes on."""
    core = booted(builder, pool).cores[Core.M4_0]
    outcome = core.infer(np.zeros((8, 8), np.uint8))
    assert "expected uint8" in outcome.error
    assert (outcome.label, core.resets) == ("", 0)
    assert core.infer(GREEN).label == "green"


def test_golden_vectors_pass_or_say_by_how_much(builder: DeviceBuilder, pool: InferencePool) -> None:
    """They stream from the A7 and are judged there."""
    machine = booted(builder, pool)
    assert machine.run_golden(Core.M4_0, vectors(1, 5, 2)).passed
    failed = machine.run_golden(Core.M4_0, vectors(1, 5, 3))
    assert (failed.passed, failed.cause) == (False, Cause.GOLDEN_VECTORS)
    assert "expected a difference of at most 0.01, found 1" in failed.detail


@pytest.mark.parametrize("given", [(1.0, 5.0), (1.0, 5.0, 2.0, 4.0)])
def test_golden_vector_of_another_length_fails(
    given: tuple[float, ...], builder: DeviceBuilder, pool: InferencePool
) -> None:
    """Too short, and the model waits; too long, and the message is refused."""
    outcome = booted(builder, pool).run_golden(Core.M4_0, vectors(1, 5, 2, given=given))
    assert (outcome.passed, outcome.cause) == (False, Cause.GOLDEN_VECTORS)


def test_garbage_kernel_fails_the_golden_vectors(builder: DeviceBuilder, pool: InferencePool) -> None:
    """The model passes on the host; on this device its answers are permuted."""
    fault = KernelFault(model="colour@2.0.0", kind=FaultKind.GARBAGE)
    machine = booted(builder, pool, fault)
    assert machine.run_golden(Core.M4_0, vectors(1, 5, 2)).passed
    install_trial(machine, Slot.M4_0_MODEL, builder.packages.model(Slot.M4_0_MODEL, version="2.0.0"))
    assert machine.run_golden(Core.M4_0, vectors(1, 5, 2)).cause == Cause.GOLDEN_VECTORS
    machine.revert(Slot.M4_0_MODEL, "golden vectors failed")
    assert machine.run_golden(Core.M4_0, vectors(1, 5, 2)).passed


@pytest.mark.parametrize(
    ("kind", "cause", "text"), [(FaultKind.HANG, Cause.HANG, "watchdog"), (FaultKind.CRASH, Cause.CRASH, "fault")]
)
def test_faulty_kernel_resets_its_core_and_no_other(
    kind: FaultKind, cause: Cause, text: str, builder: DeviceBuilder, pool: InferencePool
) -> None:
    """It strikes after the declared number of inferences, again and again; the sibling answers."""
    machine = booted(builder, pool, KernelFault(model="colour@*", kind=kind, core=Core.M4_0, after_inferences=2))
    faulty, sibling = machine.cores[Core.M4_0], machine.cores[Core.M4_1]
    assert [faulty.infer(GREEN).cause for _ in range(4)] == [None, None, cause, cause]
    outcome = faulty.infer(GREEN)
    assert text in outcome.error
    assert outcome.m4_ms == (WATCHDOG_MS if kind == FaultKind.HANG else 0.0)
    assert (faulty.resets, sibling.resets) == (3, 0)
    assert sibling.infer(GREEN).label == "green"
    golden = run_golden(faulty, vectors(1, 5, 2))
    assert (golden.passed, golden.cause) == (False, cause)
    machine.restart(Core.M4_0)
    assert faulty.infer(GREEN).label == "green"


def test_model_that_the_interpreter_refuses_is_contained(builder: DeviceBuilder, pool: InferencePool) -> None:
    """A card that lies about the arena: TFLM does not load the model, the core says so."""
    machine = booted(builder, pool)
    install_trial(machine, Slot.M4_0_MODEL, builder.packages.model(Slot.M4_0_MODEL, version="2.0.0", arena=48))
    golden = machine.run_golden(Core.M4_0, vectors(1, 5, 2))
    assert (golden.passed, golden.cause) in [(False, Cause.BOOT), (False, Cause.CRASH)]
    assert machine.cores[Core.M4_1].infer(GREEN).label == "green"


class FailingInference:
    """Raises what the pool raises; a fake of the Inference port."""

    def __init__(self, error: InferenceError) -> None:
        self.error = error

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        del model, input, deadline_seconds
        raise self.error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (InferenceTimeoutError("no answer"), Cause.HANG),
        (InferenceCrashError("SIGSEGV"), Cause.CRASH),
        (InvokeFailedError("kernel"), Cause.CRASH),
        (ModelRejectedError("arena"), Cause.BOOT),
    ],
)
def test_what_the_worker_suffers_is_the_cores_own_fault(
    error: InferenceError, cause: Cause, builder: DeviceBuilder
) -> None:
    """A model that hangs or kills its worker process is reported as one that hangs or crashes its core."""
    machine = builder.ready(pool=FailingInference(error))
    machine.boot()
    core = machine.cores[Core.M4_0]
    assert core.infer(GREEN).cause == cause
    assert machine.run_golden(Core.M4_0, vectors(1, 5, 2)).cause == cause
    assert core.resets == 2


def test_busy_pool_is_no_fault_of_the_core(builder: DeviceBuilder) -> None:
    """The host was slow: nothing is reported of the device, and the caller may ask again."""
    machine = builder.ready(pool=FailingInference(PoolBusyError("expected a free worker, found none")))
    machine.boot()
    with pytest.raises(PoolBusyError, match="free worker"):
        machine.cores[Core.M4_0].infer(GREEN)
    with pytest.raises(PoolBusyError, match="free worker"):
        machine.run_golden(Core.M4_0, vectors(1, 5, 2))
    assert machine.cores[Core.M4_0].resets == 0


def test_reset_drops_a_half_received_input(builder: DeviceBuilder, pool: InferencePool) -> None:
    """After a fault the next input starts from its beginning."""
    fault = KernelFault(model="colour@1.0.0", kind=FaultKind.CRASH)
    core = booted(builder, pool, fault).cores[Core.M4_0]
    half, whole = (b"".join(split(bytes(size), COMPONENT)) for size in (8, 12))
    assert core.receive(half) is None
    assert core.infer(GREEN).cause == Cause.CRASH
    assert core.receive(half) is None
    core.infer(GREEN)
    with pytest.raises(CoreFaultError, match="fault of the core"):
        core.receive(whole)


def test_share_of_a_fault_is_drawn_by_device_and_repeats() -> None:
    """Half of many devices, the same half each time, another half for another seed; both cores or one."""
    fault = KernelFault(model="m@1.0.0", kind=FaultKind.HANG, share=0.5)
    devices = [DeviceId(f"{number:0128x}") for number in range(400)]

    def hit(seed: int) -> list[bool]:
        scenario = Scenario(seed=seed, kernel_faults=(fault,))
        return [bool(faults_of(scenario, device, Core.M4_0)) for device in devices]

    assert hit(1) == hit(1) != hit(2)
    assert 150 < sum(hit(1)) < 250
    one_core = Scenario(kernel_faults=(fault.model_copy(update={"core": Core.M4_1, "share": 1.0}),))
    assert not faults_of(one_core, devices[0], Core.M4_0)
    assert faults_of(one_core, devices[0], Core.M4_1)


def test_intercore_messages_hold_at_most_1040_bytes() -> None:
    """A long input arrives whole, in messages that carry the sender's component id."""
    data = bytes(range(256)) * 20
    messages = list(split(data, COMPONENT))
    assert max(len(message) for message in messages) == MAX_MESSAGE_BYTES
    assert b"".join(data_of(message) for message in messages) == data
    assert messages[0][16:HEADER_BYTES] == bytes(4)
    for wrong in (bytes(HEADER_BYTES), bytes(MAX_MESSAGE_BYTES + 1)):
        with pytest.raises(IntercoreMessageError, match="expected 21 to 1040 bytes"):
            data_of(wrong)


def test_stopped_core_has_nothing_to_run(pool: InferencePool) -> None:
    """A core that was never started is idle."""
    core = M4Core(Core.M4_0, pool=pool, profile=Profile.ONNC)
    assert (core.card, core.firmware, core.is_running) == (None, None, False)
