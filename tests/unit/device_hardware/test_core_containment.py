"""A core that hangs, crashes, answers garbage or runs out of memory: its cause is told, its sibling notices nothing.

Each case runs a device for some seconds of device time, once as it should be and once with the fault on m4-0, and
compares m4-1's stream event by event.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from typing_extensions import override

from device_sim.cores.kernels import RESET_MS, WATCHDOG_MS, Inference
from device_sim.hardware.machine import Machine
from device_sim.runtime.inference import CoreWatch
from device_sim.sensors.fitted import FittedSensors, Surfaces
from protocol.geometry import KIB, Core, Slot
from protocol.messages import InferenceRecord
from protocol.scenario import FaultKind, KernelFault, Scenario
from tests.unit.device_hardware.device_builder import ColourInference, DeviceBuilder
from tinyml.errors import ModelRejectedError, PoolBusyError
from tinyml.photos import load_photos
from tinyml.workers import InferenceResult, ModelImage

PERIOD = 0.5
SECONDS = 10.0
HEALTHY = Scenario()


class FullArena(ColourInference):
    """The interpreter finds the arena of one model too small; the others run."""

    @override
    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:
        if model.arena_bytes == KIB:
            raise ModelRejectedError("arena: expected at least 2048 bytes, found 1024")
        return super().invoke(model, input, deadline_seconds=deadline_seconds)


class BusyFor(ColourInference):
    """Has no worker free for some questions."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    @override
    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:
        self.left -= 1
        if self.left >= 0:
            raise PoolBusyError("expected a free worker, found none")
        return super().invoke(model, input, deadline_seconds=deadline_seconds)


def booted(builder: DeviceBuilder, scenario: Scenario, pool: Inference, packages: dict[Slot, bytes]) -> Machine:
    machine = builder.ready(pool=pool, scenario=scenario)
    machine.flash_factory(packages)
    machine.boot()
    return machine


def run(builder: DeviceBuilder, machine: Machine, *, jump: tuple[float, float] = (0.0, 0.0)) -> list[InferenceRecord]:
    """Live for some seconds of device time; `jump` is when the host stands still, and for how long."""
    clock, sensors = builder.clock, FittedSensors(machine.device_id, Surfaces(load_photos()))
    watches = {core: CoreWatch(core, machine, sensors, period_seconds=PERIOD) for core in machine.cores}
    due, records, end = dict.fromkeys(watches, clock.seconds), [], clock.seconds + SECONDS
    while (core := min(due, key=lambda core: due[core])) and due[core] < end:
        clock.seconds = max(clock.seconds, due[core])
        if 0 < jump[0] < clock.seconds:
            clock.seconds, jump = clock.seconds + jump[1], (0.0, 0.0)
        record = watches[core].run()
        records += [] if record is None else [record]
        due[core] = watches[core].due
    return records


def stream(records: Sequence[InferenceRecord], core: Core) -> list[InferenceRecord]:
    return [record.model_copy(update={"host_ms": 0.0}) for record in records if record.core is core]


@pytest.mark.parametrize(
    ("scenario", "arena", "text"),
    [
        (Scenario(kernel_faults=(KernelFault(model="colour@*", kind=FaultKind.HANG, core=Core.M4_0),)), 4096, "watch"),
        (Scenario(kernel_faults=(KernelFault(model="colour@*", kind=FaultKind.CRASH, core=Core.M4_0),)), 4096, "fault"),
        (Scenario(kernel_faults=(KernelFault(model="colour@*", kind=FaultKind.GARBAGE, core=Core.M4_0),)), 4096, ""),
        (HEALTHY, KIB, "runtime: arena: expected at least 2048 bytes, found 1024"),
        (HEALTHY, 193 * KIB, None),
    ],
    ids=["hang", "crash", "garbage", "out of memory while it runs", "out of memory at its start"],
)
def test_fault_of_a_core_leaves_its_siblings_stream_as_it_was(
    builder: DeviceBuilder, scenario: Scenario, arena: int, text: str | None
) -> None:
    """Same labels, same scores, same device times, same sequence."""
    quiet = booted(builder, HEALTHY, FullArena(), {})
    expected = run(builder, quiet)
    quiet.close()
    builder.clock.seconds = 0.0
    package = builder.packages.model(Slot.M4_0_MODEL, arena=arena)
    machine = builder.open(quiet.folder, pool=FullArena(), scenario=scenario)
    machine.flash_factory({Slot.M4_0_MODEL: package})
    machine.boot()
    found = run(builder, machine)
    own, before = stream(found, Core.M4_0), stream(expected, Core.M4_0)
    assert stream(found, Core.M4_1) == stream(expected, Core.M4_1)
    assert len(stream(found, Core.M4_1)) > 15
    if text is None:
        assert own == []
        return
    assert own
    assert all(text in record.error for record in own)
    assert [record.label for record in own] != [record.label for record in before][: len(own)]


def test_watchdog_and_reset_take_their_time(builder: DeviceBuilder) -> None:
    """A hanging core answers once per watchdog and reset, not once per period."""
    fault = KernelFault(model="colour@*", kind=FaultKind.HANG, core=Core.M4_0)
    machine = booted(builder, Scenario(kernel_faults=(fault,)), ColourInference(), {})
    moments = [record.device_seconds or 0.0 for record in stream(run(builder, machine), Core.M4_0)]
    assert np.diff(moments) == pytest.approx((WATCHDOG_MS + RESET_MS) / 1000)
    assert machine.cores[Core.M4_0].resets == len(moments)


def test_busy_host_costs_the_event_and_moves_nothing(builder: DeviceBuilder) -> None:
    """The device's line goes on; only the event that nobody computed is missing."""
    machine = booted(builder, HEALTHY, BusyFor(4), {})
    records = stream(run(builder, machine), Core.M4_1)
    assert [record.sequence for record in records] == list(range(len(records)))
    assert records[0].device_seconds == pytest.approx(2 * PERIOD)


def test_host_that_stands_still_moves_the_line(builder: DeviceBuilder) -> None:
    """After a stop of 3 s the events begin anew; nobody makes up for what was missed."""
    machine = booted(builder, HEALTHY, ColourInference(), {})
    moments = [r.device_seconds or 0.0 for r in stream(run(builder, machine, jump=(4.0, 3.0)), Core.M4_1)]
    *regular, longest = sorted(np.diff(moments))
    assert regular == pytest.approx([PERIOD] * len(regular))
    assert 3.0 <= longest <= 3.0 + 2 * PERIOD
