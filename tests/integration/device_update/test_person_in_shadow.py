"""The demo's person detector in shadow on a whole device: real interpreter, real photos, both cores at work."""

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_sim.runtime.inference import CoreWatch
from device_sim.sensors.fitted import FittedSensors, Surfaces
from protocol.geometry import Core, ImageKind, Slot
from protocol.image import IMAGE_TYPE, ImageInfo, compose
from protocol.messages import ActionState, InferenceRecord
from protocol.model import Measured, ModelCard, compose_model_payload
from protocol.shadow import ShadowCounts, ShadowTask
from protocol.updates import Order
from tests.integration.tinyml.tinyml_models import alter, load_demo_model
from tests.unit.device_hardware.device_builder import BUILT_AT
from tests.unit.device_update.update_builder import Updated, ready_device
from tinyml.photos import load_photos
from tinyml.workers import InferencePool

SLOT, CORE = Slot.M4_0_MODEL, Core.M4_0
FRAMES = 12
PERIOD_SECONDS = 2.0  # room for both models
WRITTEN_SECONDS = 60.0  # the flash is through with the download, and stops the cores no more
COMPONENT = str(uuid.uuid5(uuid.NAMESPACE_URL, "person"))


@pytest.fixture(scope="module")
def pool() -> Iterator[InferencePool]:
    with InferencePool(workers=1) as shared:
        yield shared


@pytest.fixture
def device(tmp_path: Path, pool: InferencePool) -> Updated:
    """A device that left the factory with the person detector."""
    device = ready_device(tmp_path)
    device.machine.flash_factory({SLOT: package_of(device, load_demo_model("person-detection").content, "1.0.0")})
    device.restart(pool=pool)
    return device


def package_of(device: Updated, content: bytes, version: str) -> bytes:
    """Weights as the demo's, or others of the same shape, packed and signed."""
    model, name = load_demo_model("person-detection"), f"person@{version}"
    card = ModelCard(
        name="person",
        version=version,
        component_id=COMPONENT,
        core=CORE,
        input=model.contract,
        labels=model.labels,
        measured=Measured(model_bytes=len(content), arena_bytes=model.arena_bytes, macs=model.macs),
    )
    info = ImageInfo(
        image_type=IMAGE_TYPE[ImageKind.MODEL],
        component_id=COMPONENT,
        image_id=str(uuid.uuid5(uuid.NAMESPACE_URL, name)),
        name=name,
        security_version=1,
        built_at=BUILT_AT,
    )
    return compose(compose_model_payload(card, content), info, device.builder.packages.keys.package)


def invert_last_weights(model: Any) -> None:
    """Turn every bit of the classifier's weights: it loads, and sees a person where there is none."""
    graph = model.subgraphs[0]
    last = [operator.inputs[1] for operator in graph.operators if len(operator.inputs) > 2][-1]
    buffer = model.buffers[graph.tensors[last].buffer]
    buffer.data = np.asarray(buffer.data, np.uint8) ^ 0xFF


def begin_shadow(device: Updated, content: bytes) -> None:
    """Have the device compare a model with the one that it runs."""
    catalog = device.catalog
    catalog.order, catalog.shadow = Order.SHADOW, ShadowTask(frames=FRAMES, longest_seconds=3600)
    golden = catalog.add_golden(COMPONENT)  # for a trial, which does not come
    catalog.roll_out({SLOT: catalog.add_image(SLOT, package_of(device, content, "2.0.0"), golden=golden)})
    device.run()
    assert device.wire.states[-1] is ActionState.SHADOWING, device.wire.reports[-1]


def watch(device: Updated, inferences: int) -> list[InferenceRecord]:
    """Let both cores look at the photos; return what the one with the detector says."""
    machine, clock = device.machine, device.builder.clock
    clock.seconds += WRITTEN_SECONDS
    sensors = FittedSensors(machine.device_id, Surfaces(load_photos()))
    watches = [CoreWatch(core, machine, sensors, period_seconds=PERIOD_SECONDS) for core in (CORE, Core.M4_1)]
    records: list[InferenceRecord] = []
    for each in watches:
        each.run()
    while len(records) < inferences:
        clock.seconds = max(clock.seconds, min(each.due for each in watches))
        said = [each.run() for each in watches if each.due <= clock.seconds + 1e-9]
        records += [record for record in said if record is not None and record.core is CORE]
    return records


def result_of(device: Updated) -> ShadowCounts:
    shadow = device.machine.shadow
    assert shadow is not None
    assert shadow.result is not None
    return shadow.result


def require_undisturbed(device: Updated, records: list[InferenceRecord]) -> None:
    """The old model answered every frame in its period of device time, and neither core was reset."""
    ends = [record.device_seconds or 0.0 for record in records]
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    assert gaps == pytest.approx([PERIOD_SECONDS] * (len(records) - 1))
    assert {record.model for record in records} == {"person@1.0.0"}
    assert not any(record.error for record in records)
    assert [core.resets for core in device.machine.cores.values()] == [0, 0]


def test_person_detector_agrees_with_itself(device: Updated) -> None:
    """On every frame, of both kinds; its events keep their period while it is compared and after."""
    begin_shadow(device, load_demo_model("person-detection").content)
    records = watch(device, FRAMES + 3)
    result = result_of(device)
    assert (result.frames, result.agreements, result.failure) == (FRAMES, FRAMES, "")
    assert (result.score_gap, result.every) == (0.0, 1)
    assert result.m4_ms == pytest.approx(records[0].m4_ms, abs=0.001)
    assert {record.label for record in records} == {"person", "no person"}
    require_undisturbed(device, records)


def test_person_detector_with_damaged_weights_disagrees(device: Updated) -> None:
    """It loads, answers and is signed; the counts say on how many frames it saw otherwise, and nobody hears it."""
    damaged = alter(load_demo_model("person-detection").content, invert_last_weights)
    begin_shadow(device, damaged)
    records = watch(device, FRAMES + 3)
    result = result_of(device)
    assert result.frames == FRAMES
    assert result.failure == ""
    assert result.agreements < FRAMES // 2
    assert sum(result.differing.values()) == FRAMES - result.agreements
    assert set(result.differing) <= {"person > no person", "no person > person"}
    require_undisturbed(device, records)
