"""The detector: what it finds on made-up machines, each with its own normal, and what its interface promises."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from protocol.learned_state import LearnedPrototype, encode_state, parse_state
from protocol.learning import Prototype, TemplateError
from tests.learning_template import COMPONENT, LAYOUT, learning_template
from tests.unit.tinyml.synthetic_vibration import synthetic_machine
from tinyml.anomaly.detector import AnomalyDetector, verdict
from tinyml.anomaly.features import MAX_SAMPLE, FeatureExtractor
from tinyml.errors import InputMismatchError

MACHINES = 12
WARM_UP = 100
HEALTHY, FAULTY = 500, 100
UNDECIDED = 50.0  # percent


def trained(seed: int, *, windows: int = WARM_UP) -> AnomalyDetector:
    detector = AnomalyDetector(learning_template(warm_up=windows), component_id=COMPONENT)
    for window in synthetic_machine(seed).windows(np.random.default_rng(seed), windows):
        detector.learn(window)
    return detector


def similarities(detector: AnomalyDetector, seed: int, count: int, fault: str = "") -> np.ndarray:
    rng = np.random.default_rng(1000 + seed)
    return np.array([detector.detect(window) for window in synthetic_machine(seed).windows(rng, count, fault=fault)])


def area_under_curve(healthy: np.ndarray, faulty: np.ndarray) -> float:
    """How often a healthy window is more similar than a faulty one (Mann-Whitney); ties count half."""
    difference = healthy[:, np.newaxis] - faulty[np.newaxis, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


@pytest.mark.parametrize("seed", range(MACHINES))
def test_faults_are_told_from_each_machines_own_normal(seed: int) -> None:
    """After 100 windows: AUC at least 0.97 for both faults, at most one false alarm in 500, most faults found."""
    detector = trained(seed)
    healthy = similarities(detector, seed, HEALTHY)
    assert int((healthy < UNDECIDED).sum()) <= 1
    for fault in ("bearing", "imbalance"):
        faulty = similarities(detector, seed, FAULTY, fault)
        assert area_under_curve(healthy, faulty) >= 0.97
        assert float((faulty < UNDECIDED).mean()) >= 0.9


def test_another_machines_normal_is_no_normal_here() -> None:
    """Each device has learned its own: one detector for all would not do."""
    alien = np.concatenate([similarities(trained(seed), seed + 1, 50) for seed in range(6)])
    assert float((alien < UNDECIDED).mean()) > 0.9


def test_machine_of_two_speeds_has_two_kinds_of_normal() -> None:
    """Both are normal, in any order; a fault at either speed is none."""
    slow, fast = synthetic_machine(1), synthetic_machine(7)
    rng = np.random.default_rng(1)
    detector = AnomalyDetector(learning_template(warm_up=200), component_id=COMPONENT)
    for first, second in zip(slow.windows(rng, 100), fast.windows(rng, 100), strict=True):
        detector.learn(first)
        detector.learn(second)
    assert 2 <= len(detector.state().prototypes) <= 4
    for machine in (slow, fast):
        healthy = [detector.detect(window) for window in machine.windows(rng, 100)]
        faulty = [detector.detect(window) for window in machine.windows(rng, 50, fault="bearing")]
        assert sum(similarity < UNDECIDED for similarity in healthy) <= 1
        assert sum(similarity < UNDECIDED for similarity in faulty) >= 45


def test_state_never_outgrows_its_place() -> None:
    """More kinds of normal than there is room for: the nearest takes them in, and the state stays below 4 KiB."""
    detector = AnomalyDetector(learning_template(warm_up=1000), component_id=COMPONENT)
    for power in range(20):
        for window in synthetic_machine(power).windows(np.random.default_rng(power), 3):
            detector.learn(window * np.float32(20.0 ** (power % 10 - 5)))
    packed = encode_state(detector.state())
    assert len(detector.state().prototypes) == 8
    assert len(packed) == 1312
    assert sum(each.windows for each in detector.state().prototypes) == detector.windows == 60


def test_learning_and_judging_need_no_memory_that_grows() -> None:
    """What a window allocates is gone after it."""
    detector = trained(2)
    window = synthetic_machine(2).windows(np.random.default_rng(2), 1)[0]
    detector.detect(window)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(50):
        detector.learn(window)
        detector.detect(window)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 4096


def test_same_windows_give_the_same_bytes() -> None:
    """Deterministic, and a state that went over a wire is gone on with as if nothing had been."""
    rng = np.random.default_rng(3)
    windows = synthetic_machine(3).windows(rng, 60)
    whole = AnomalyDetector(learning_template(warm_up=60), component_id=COMPONENT)
    half = AnomalyDetector(learning_template(warm_up=60), component_id=COMPONENT)
    for window in windows[:30]:
        whole.learn(window)
        half.learn(window)
    learned = parse_state(encode_state(half.state()))
    resumed = AnomalyDetector(learning_template(warm_up=60), component_id=COMPONENT, learned=learned)
    for window in windows[30:]:
        whole.learn(window)
        resumed.learn(window)
    assert encode_state(whole.state()) == encode_state(resumed.state())


def test_sensitivity_is_read_set_and_kept_for_its_template() -> None:
    """More finds smaller deviations; a new template's word counts, the same template's does not undo the device's."""
    detector = trained(5)
    window = synthetic_machine(5).windows(np.random.default_rng(50), 1)[0]
    plain = detector.detect(window)
    detector.sensitivity = 4.0
    assert (detector.sensitivity, detector.detect(window) < plain) == (4.0, True)
    detector.sensitivity = 1e9
    assert detector.sensitivity == 100.0
    detector.sensitivity = 2.0
    again = AnomalyDetector(learning_template(warm_up=WARM_UP), component_id=COMPONENT, learned=detector.state())
    assert again.sensitivity == 2.0
    other = learning_template(warm_up=WARM_UP, sensitivity=0.5)
    assert AnomalyDetector(other, component_id=COMPONENT, learned=detector.state()).sensitivity == 0.5


def test_init_with_and_without_prior_knowledge() -> None:
    """Without it nothing is similar to anything; with it a device judges before it has learned."""
    window = synthetic_machine(6).windows(np.random.default_rng(60), 1)[0]
    bare = AnomalyDetector(learning_template(), component_id=COMPONENT)
    assert (bare.detect(window), bare.is_learning, bare.state().prototypes) == (0.0, True, ())
    known = trained(6).state().prototypes
    prior = tuple(Prototype(windows=each.windows, mean=each.mean, variance=each.variance) for each in known)
    informed = AnomalyDetector(learning_template(prior=prior), component_id=COMPONENT)
    assert informed.detect(window) > UNDECIDED
    assert (informed.windows, informed.is_learning) == (0, True)


def test_template_with_less_room_keeps_what_most_windows_are_like() -> None:
    """The prototypes that stand for most windows; a counter stays at its end."""
    rows = tuple(LearnedPrototype(count, (1.0,) * 18, (1.0,) * 18) for count in (3, 2**32 - 1, 5))
    learned = replace(trained(1, windows=5).state(), prototypes=rows, windows=2**32 - 1)
    template = learning_template(max_prototypes=2)
    crowded = AnomalyDetector(template, component_id=COMPONENT, learned=learned)
    assert [each.windows for each in crowded.state().prototypes] == [2**32 - 1, 5]
    crowded.learn(synthetic_machine(1).windows(np.random.default_rng(1), 1)[0])
    assert (crowded.windows, crowded.state().prototypes[0].windows) == (2**32 - 1, 2**32 - 1)


def test_features_are_what_they_are_named() -> None:
    """A sine's band and RMS value, the kurtosis of a sine and of impacts, and nothing of a constant."""
    extractor = FeatureExtractor(LAYOUT)
    at = np.arange(256) / 3200
    sine = np.sin(2 * np.pi * 400 * at).astype(np.float32)
    features = extractor.features(sine + np.float32(9.81))
    assert features.dtype == np.float32
    lines = LAYOUT.edges()
    assert lines[int(features[:-2].argmax())] <= 400 / 12.5 < lines[int(features[:-2].argmax()) + 1]
    assert features[-2] == pytest.approx(math.log(math.sqrt(0.5)), abs=1e-3)
    assert math.exp(features[-1]) == pytest.approx(1.5, abs=1e-2)
    impact = np.zeros(256, np.float32)
    impact[100] = 1
    assert math.exp(extractor.features(impact)[-1]) > 100
    silent = extractor.features(np.full(256, 3, np.float32))
    assert np.isfinite(silent).all()
    assert np.isfinite(extractor.features(np.resize([MAX_SAMPLE, -MAX_SAMPLE], 256).astype(np.float32))).all()


@pytest.mark.parametrize(
    ("window", "text"),
    [
        (np.zeros(255, np.float32), r"shape \(256,\), found float32 of shape \(255,\)"),
        (np.zeros(256, np.float64), "found float64"),
        (np.full(256, np.nan, np.float32), "expected samples within"),
        (np.full(256, 2e6, np.float32), "expected samples within"),
    ],
)
def test_window_that_is_none_is_refused(window: np.ndarray, text: str) -> None:
    """Neither learned nor judged."""
    detector = AnomalyDetector(learning_template(), component_id=COMPONENT)
    with pytest.raises(InputMismatchError, match=text):
        detector.learn(window)
    assert detector.windows == 0


def test_detector_beyond_the_budget_is_never_made() -> None:
    """Whoever made the template."""
    large = LAYOUT.model_copy(update={"window_samples": 512})
    with pytest.raises(TemplateError, match="found 5512"):
        AnomalyDetector(learning_template(layout=large), component_id=COMPONENT)


def test_verdict_has_a_value_for_each_label() -> None:
    """Normal, anomaly, learning."""
    assert verdict(75.0).tolist() == [0.75, 0.25, 0.0]
