"""Updates that bring a learning template: its golden vectors decide, and what was learned outlives them."""

import base64
import hashlib
import uuid
from pathlib import Path

import numpy as np
import pytest

from protocol.document import sign_document
from protocol.geometry import Core, Slot
from protocol.learning import LearningTemplate, Prototype, StatePolicy
from protocol.messages import ActionState, Cause
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVector, GoldenVectors
from protocol.updates import golden_target_name
from tests.learning_template import learning_template, template_card, template_payload
from tests.unit.device_hardware.device_builder import DeviceBuilder
from tests.unit.device_update.update_builder import Updated, ready_device
from tests.unit.tinyml.synthetic_vibration import synthetic_machine
from tinyml.anomaly.detector import AnomalyDetector, verdict

SLOT = Slot.M4_1_MODEL
COMPONENT = str(uuid.uuid5(uuid.NAMESPACE_URL, SLOT))
WARM_UP = 40
PUMP = synthetic_machine(11)
WINDOWS = PUMP.windows(np.random.default_rng(11), 150)
PROBES = [WINDOWS[-1], *PUMP.windows(np.random.default_rng(12), 1, fault="bearing")]


def prior_of(windows: list[np.ndarray]) -> tuple[Prototype, ...]:
    teacher = AnomalyDetector(learning_template(), component_id=COMPONENT)
    for window in windows:
        teacher.learn(window)
    known = teacher.state().prototypes
    return tuple(Prototype(windows=each.windows, mean=each.mean, variance=each.variance) for each in known)


def golden_of(template: LearningTemplate) -> GoldenVectors:
    detector = AnomalyDetector(template, component_id=COMPONENT)
    vectors = tuple(
        GoldenVector(
            name=f"window-{number}",
            input=base64.b64encode(window.tobytes()).decode(),
            expected=tuple(float(value) for value in verdict(detector.detect(window))),
            tolerance=0.15,
        )
        for number, window in enumerate(PROBES)
    )
    return GoldenVectors(component_id=COMPONENT, vectors=vectors)


def package(builder: DeviceBuilder, template: LearningTemplate, version: str) -> bytes:
    card = template_card(template, version=version, component=COMPONENT)
    payload = template_payload(template, card)
    return builder.packages._compose(SLOT, payload, f"vibration@{version}", security=1, key=None)


def offer(device: Updated, template: LearningTemplate, version: str, *, golden: GoldenVectors, counter: int) -> None:
    envelope = sign_document(golden, GOLDEN_PAYLOAD_TYPE, device.catalog.keys.golden)
    name = golden_target_name(COMPONENT, hashlib.sha256(envelope).hexdigest())
    device.catalog.add(name, envelope)
    target = device.catalog.add_image(SLOT, package(device.builder, template, version), golden=name)
    device.catalog.action_id = str(uuid.uuid5(uuid.NAMESPACE_URL, version))
    device.catalog.roll_out({SLOT: target}, counter=counter)
    device.run()


def learned(device: Updated) -> int:
    learner = device.machine.cores[Core.M4_1].learner
    assert learner is not None
    return learner.detector.windows


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device that got its first template by an update, and has learned."""
    updated = ready_device(tmp_path)
    template = learning_template(warm_up=WARM_UP, prior=prior_of(WINDOWS[:100]))
    offer(updated, template, "1.0.0", golden=golden_of(template), counter=2)
    assert updated.wire.states[-1] is ActionState.CONFIRMED
    for window in WINDOWS[:WARM_UP]:
        updated.machine.cores[Core.M4_1].infer(window)
    assert learned(updated) == WARM_UP
    return updated


@pytest.mark.parametrize(("policy", "windows"), [(StatePolicy.KEEP, WARM_UP), (StatePolicy.RESET, 0)])
def test_next_template_is_confirmed_by_its_golden_vectors(device: Updated, policy: StatePolicy, windows: int) -> None:
    """And then keeps or resets what was learned, as it says; a restart does not change that."""
    template = learning_template(warm_up=WARM_UP, prior=prior_of(WINDOWS[:120]), policy=policy, sensitivity=1.2)
    offer(device, template, "2.0.0", golden=golden_of(template), counter=3)
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert learned(device) == windows
    device.restart()
    assert learned(device) == windows


def test_template_that_does_not_answer_is_reverted_and_nothing_is_forgotten(device: Updated) -> None:
    """The prior of another machine gives other verdicts, although it would have reset what was learned."""
    good = learning_template(warm_up=WARM_UP, prior=prior_of(WINDOWS[:100]))
    foreign = prior_of(synthetic_machine(3).windows(np.random.default_rng(3), 100))
    template = learning_template(warm_up=WARM_UP, prior=foreign, policy=StatePolicy.RESET)
    offer(device, template, "2.0.0", golden=golden_of(good), counter=3)
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.REVERTED, Cause.GOLDEN_VECTORS)
    assert learned(device) == WARM_UP
    assert device.machine.cores[Core.M4_1].infer(PROBES[1]).label == "anomaly"
    device.restart()
    assert learned(device) == WARM_UP
