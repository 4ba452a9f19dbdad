"""A core that learns: warm-up, verdicts, what it keeps over restarts, updates and trials, and golden vectors."""

import uuid

import numpy as np
import pytest

from device_sim.cores.intercore import split
from device_sim.errors import CoreLoadError
from device_sim.hardware.machine import Machine
from device_sim.learning.learner import KEPT_EVERY
from device_sim.learning.states import LearnedStates
from protocol.geometry import Core, Slot
from protocol.learned_state import parse_state
from protocol.learning import LearningTemplate, Prototype, StatePolicy
from protocol.messages import Cause
from protocol.scenario import FaultKind, KernelFault, Scenario
from tests.learning_template import LAYOUT, learning_template, template_card, template_payload
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial
from tests.unit.tinyml.synthetic_vibration import synthetic_machine
from tinyml.anomaly.detector import AnomalyDetector

SLOT = Slot.M4_1_MODEL
WARM_UP = 40
COMPONENT = str(uuid.uuid5(uuid.NAMESPACE_URL, SLOT))
TEMPLATE = learning_template(warm_up=WARM_UP)
WINDOWS = synthetic_machine(1).windows(np.random.default_rng(5), WARM_UP + 10)
FAULTY = synthetic_machine(1).windows(np.random.default_rng(6), 5, fault="bearing")


def package(builder: DeviceBuilder, template: LearningTemplate, *, version: str = "1.0.0") -> bytes:
    card = template_card(template, version=version, component=COMPONENT)
    payload = template_payload(template, card)
    return builder.packages._compose(SLOT, payload, f"vibration@{version}", security=1, key=None)


@pytest.fixture
def machine(builder: DeviceBuilder) -> Machine:
    made = builder.ready()
    made.flash_factory({SLOT: package(builder, TEMPLATE)})
    made.boot()
    return made


def labels(machine: Machine, windows: list[np.ndarray]) -> list[str]:
    return [machine.cores[Core.M4_1].infer(window).label for window in windows]


def kept_windows(machine: Machine) -> int | None:
    kept = LearnedStates(machine.storage).recall(Core.M4_1)
    return None if kept is None else parse_state(kept).windows


def learned_windows(machine: Machine) -> int:
    learner = machine.cores[Core.M4_1].learner
    assert learner is not None
    return learner.detector.windows


def test_core_learns_then_judges(machine: Machine) -> None:
    """A warm-up of windows, then verdicts; an accelerometer's three axes are as good as the one that counts."""
    assert labels(machine, WINDOWS[:WARM_UP]) == ["learning"] * WARM_UP
    assert labels(machine, WINDOWS[WARM_UP:]) == ["normal"] * 10
    assert labels(machine, FAULTY) == ["anomaly"] * 5
    outcome = machine.cores[Core.M4_1].infer(np.stack([FAULTY[0]] * 3, axis=1))
    assert (outcome.label, outcome.model, outcome.arena_bytes) == ("anomaly", "vibration@1.0.0", 3464)
    assert 0.5 < outcome.score <= 1.0
    assert 0 < outcome.m4_ms < 1


def test_restart_goes_on_with_what_was_kept(machine: Machine, builder: DeviceBuilder) -> None:
    """A power cut costs what was learned since it was kept last, and nothing once the warm-up is over."""
    labels(machine, WINDOWS[: KEPT_EVERY + 3])
    machine.close()
    again = builder.open(machine.folder)
    again.boot()
    assert learned_windows(again) == KEPT_EVERY
    labels(again, WINDOWS[KEPT_EVERY:WARM_UP])
    again.close()
    last = builder.open(machine.folder)
    last.boot()
    assert learned_windows(last) == WARM_UP
    assert labels(last, FAULTY) == ["anomaly"] * 5


def test_update_keeps_or_resets_as_the_template_says(machine: Machine, builder: DeviceBuilder) -> None:
    """The next template of the component goes on; one that resets begins anew, and then keeps its own."""
    labels(machine, WINDOWS[:WARM_UP])
    install_trial(machine, SLOT, package(builder, learning_template(warm_up=WARM_UP, sensitivity=2.0), version="2.0.0"))
    assert labels(machine, WINDOWS[WARM_UP:]) == ["normal"] * 10
    machine.confirm(SLOT)
    assert learned_windows(machine) == WARM_UP
    resetting = learning_template(warm_up=KEPT_EVERY, policy=StatePolicy.RESET)
    install_trial(machine, SLOT, package(builder, resetting, version="3.0.0"))
    machine.confirm(SLOT)
    assert learned_windows(machine) == 0
    assert kept_windows(machine) == WARM_UP
    labels(machine, WINDOWS[:KEPT_EVERY])
    machine.reboot()
    assert (learned_windows(machine), kept_windows(machine)) == (KEPT_EVERY, KEPT_EVERY)


def test_template_with_other_features_begins_anew(machine: Machine, builder: DeviceBuilder) -> None:
    """What was learned from other features says nothing; the core says why it began anew."""
    labels(machine, WINDOWS[:WARM_UP])
    other = learning_template(layout=LAYOUT.model_copy(update={"bands": 12}), warm_up=WARM_UP)
    install_trial(machine, SLOT, package(builder, other, version="2.0.0"))
    learner = machine.cores[Core.M4_1].learner
    assert learner is not None
    assert learner.detector.windows == 0
    assert "expected features by layout" in learner.origin


def test_trial_keeps_nothing_and_a_revert_finds_what_was(machine: Machine, builder: DeviceBuilder) -> None:
    """What a template learns on trial is lost with it."""
    labels(machine, WINDOWS[:WARM_UP])
    resetting = learning_template(warm_up=WARM_UP, policy=StatePolicy.RESET)
    install_trial(machine, SLOT, package(builder, resetting, version="2.0.0"))
    assert labels(machine, WINDOWS[:WARM_UP]) == ["learning"] * WARM_UP
    machine.revert(SLOT, "test")
    assert (learned_windows(machine), kept_windows(machine)) == (WARM_UP, WARM_UP)


def test_golden_vectors_are_answered_by_the_prior_alone(builder: DeviceBuilder) -> None:
    """The same answer before and after the device has learned, and none of them is learned."""
    teacher = AnomalyDetector(learning_template(warm_up=WARM_UP), component_id=COMPONENT)
    for window in WINDOWS[:WARM_UP]:
        teacher.learn(window)
    prior = tuple(
        Prototype(windows=each.windows, mean=each.mean, variance=each.variance) for each in teacher.state().prototypes
    )
    machine = builder.ready()
    machine.flash_factory({SLOT: package(builder, learning_template(warm_up=KEPT_EVERY, prior=prior))})
    machine.boot()
    core = machine.cores[Core.M4_1]

    def answers(window: np.ndarray) -> list[float]:
        replies = [core.receive(message) for message in split(window.tobytes(), COMPONENT)]
        assert not any(replies[:-1])
        return [float(value) for value in np.frombuffer(replies[-1] or b"", "<f4")]

    before = [answers(WINDOWS[0]), answers(FAULTY[0])]
    assert before[0][0] > 0.9
    assert before[1][1] > 0.9
    assert learned_windows(machine) == 0
    other = synthetic_machine(2).windows(np.random.default_rng(7), KEPT_EVERY)
    assert labels(machine, other) == ["learning"] * KEPT_EVERY
    assert [answers(WINDOWS[0]), answers(FAULTY[0])] == before


def test_spoiled_state_begins_anew(machine: Machine) -> None:
    """Whatever is in its place: the device learns again and says why."""
    labels(machine, WINDOWS[:WARM_UP])
    states = LearnedStates(machine.storage)
    kept = states.recall(Core.M4_1) or b""
    states.keep(Core.M4_1, kept[:-1] + bytes([kept[-1] ^ 1]))
    machine.reboot()
    learner = machine.cores[Core.M4_1].learner
    assert learner is not None
    assert (learner.detector.windows, learner.origin) == (
        0,
        "learned state: expected the SHA-256 of its bytes at its end, found another",
    )


def test_faults_of_a_scenario_strike_the_detector_too(builder: DeviceBuilder) -> None:
    """A hang is a watchdog's reset, and what was learned before it stays."""
    fault = KernelFault(model="vibration@*", kind=FaultKind.HANG, after_inferences=2)
    machine = builder.ready(scenario=Scenario(kernel_faults=(fault,)))
    machine.flash_factory({SLOT: package(builder, TEMPLATE)})
    machine.boot()
    outcomes = [machine.cores[Core.M4_1].infer(window) for window in WINDOWS[:3]]
    assert [outcome.cause for outcome in outcomes] == [None, None, Cause.HANG]
    assert learned_windows(machine) == 2


def test_template_that_a_core_cannot_run_is_refused(builder: DeviceBuilder) -> None:
    """Over the RAM budget, or a card that describes something else: on trial it is reverted at once."""
    machine = builder.ready()
    machine.boot()
    large = learning_template(layout=LAYOUT.model_copy(update={"window_samples": 512}))
    with pytest.raises(CoreLoadError, match=r"expected at most 4096 bytes of RAM, found 5512"):
        install_trial(machine, SLOT, package(builder, large))
    assert machine.cores[Core.M4_1].learner is None
    assert machine.cores[Core.M4_1].is_running
