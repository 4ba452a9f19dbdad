"""Damaged models on a device, in the real interpreter: contained in their core, whatever the damage does.

The signature does not save anybody here: these packages are signed, as if their author had damaged them.
"""

import base64
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_sim.errors import BootStoppedError, CoreLoadError
from device_sim.hardware.machine import Machine
from protocol.geometry import Core, Slot
from protocol.messages import Cause
from protocol.model import GoldenVector, GoldenVectors
from tests.integration.tinyml.tinyml_models import alter
from tests.unit.device_hardware.device_builder import DeviceBuilder, colour_model, install_trial
from tinyml.workers import InferencePool

SLOT = Slot.M4_0_MODEL
COMPONENT = "22222222-2222-4222-8222-222222222222"
FRAME = np.full((8, 8, 3), (10, 200, 30), np.uint8)


@pytest.fixture(scope="module")
def pool() -> Iterator[InferencePool]:
    with InferencePool(workers=1) as shared:
        yield shared


def golden() -> GoldenVectors:
    given = base64.b64encode(np.array([1, 5, 2], np.float32).tobytes()).decode()
    vector = GoldenVector(name="one", input=given, expected=(1, 5, 2), tolerance=0.01)
    return GoldenVectors(component_id=COMPONENT, vectors=(vector,))


def booted(folder: Path, pool: InferencePool) -> tuple[DeviceBuilder, Machine]:
    builder = DeviceBuilder(folder)
    machine = builder.ready(pool=pool)
    machine.boot()
    return builder, machine


def outcome_of_trial(machine: Machine, package: bytes) -> Cause | None:
    """Try a package; return why it failed, or None; the machine has reverted then."""
    try:
        install_trial(machine, SLOT, package)
    except (CoreLoadError, BootStoppedError):
        return Cause.BOOT
    outcome = machine.run_golden(Core.M4_0, golden())
    machine.revert(SLOT, outcome.detail)
    return outcome.cause


def damage(content: bytes, seed: int) -> bytes:
    """Flip one bit, or cut the end off."""
    chance = random.Random(seed)  # noqa: S311 - seeded damage
    if seed % 4 == 0:
        return content[: chance.randrange(1, len(content))]
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def test_damaged_models_leave_the_device_as_it_was(tmp_path: Path, pool: InferencePool) -> None:
    """Forty of them, one after the other: each fails or answers rightly, and both cores run as before."""
    builder, machine = booted(tmp_path, pool)
    failed = 0
    for seed in range(40):
        package = builder.packages.model(SLOT, version=f"2.0.{seed}", content=damage(colour_model(), seed))
        failed += outcome_of_trial(machine, package) is not None
        answers = [(core.infer(FRAME).label, core.resets) for core in machine.cores.values()]
        assert answers == [("green", 0), ("green", 0)], seed
    assert failed >= 10


def test_buffer_index_out_of_range_never_starts(tmp_path: Path, pool: InferencePool) -> None:
    """What would kill the interpreter is found before it runs."""
    builder, machine = booted(tmp_path, pool)

    def miss(model: Any) -> None:
        model.subgraphs[0].tensors[0].buffer = 0x3FFF_FFFF

    package = builder.packages.model(SLOT, version="2.0.0", content=alter(colour_model(), miss))
    with pytest.raises(CoreLoadError, match="buffer index: expected 0 to"):
        install_trial(machine, SLOT, package)
    assert machine.cores[Core.M4_0].infer(FRAME).model == "colour@1.0.0"
