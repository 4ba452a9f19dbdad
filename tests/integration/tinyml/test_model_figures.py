"""The figures of the real models: arena, MACs, shapes, latency, answers on photos."""

import base64

import numpy as np
import pytest

from protocol.model import GoldenVector
from tests.integration.tinyml.tinyml_models import DemoModel
from tinyml.errors import ModelRejectedError
from tinyml.fetch import DEMO_MODELS, fetch_model
from tinyml.flatbuffer import read_model_facts
from tinyml.golden import pool_inference, run_golden_vectors
from tinyml.latency import Profile, predict
from tinyml.photos import load_photo
from tinyml.preprocess import LabelScore, Window, label_scores, photo_tensor
from tinyml.workers import InferencePool, ModelImage

# MLPerf Tiny, ms: L4R5 at 120 MHz for all but ONNC, M467 at 200 MHz.
_MEASURED_MS = {
    ("person-detection", Profile.REFERENCE): 600.6,
    ("person-detection", Profile.MICROTVM_CMSIS_NN): 300.8,
    ("person-detection", Profile.X_CUBE_AI): 88.9,
    ("person-detection", Profile.ONNC): 98.7,
    ("image-classification", Profile.REFERENCE): 704.2,
    ("image-classification", Profile.MICROTVM_CMSIS_NN): 389.6,
    ("image-classification", Profile.X_CUBE_AI): 165.1,
    ("image-classification", Profile.ONNC): 171.4,
    ("keyword-spotting", Profile.REFERENCE): 181.9,
    ("keyword-spotting", Profile.MICROTVM_CMSIS_NN): 99.8,
    ("keyword-spotting", Profile.X_CUBE_AI): 43.2,
    ("keyword-spotting", Profile.ONNC): 46.2,
    ("anomaly-detection", Profile.REFERENCE): 10.1,
    ("anomaly-detection", Profile.MICROTVM_CMSIS_NN): 8.6,
    ("anomaly-detection", Profile.X_CUBE_AI): 5.3,
    ("anomaly-detection", Profile.ONNC): 4.9,
}


def test_facts_of_real_model_are_read(demo_model: DemoModel) -> None:
    """Shapes, types and MACs come out of the file alone."""
    facts = read_model_facts(demo_model.content)
    assert facts.inputs[0].shape == demo_model.contract.shape
    assert facts.inputs[0].dtype == demo_model.contract.dtype
    assert facts.outputs[0].shape == (1, len(demo_model.labels))
    assert facts.macs.total == demo_model.macs
    assert "SOFTMAX" in facts.operators


def test_smallest_arena_of_real_model_is_found(demo_model: DemoModel, pool: InferencePool) -> None:
    """The known figure is found; the model runs in it, and is refused 16 bytes below."""
    assert pool.smallest_arena(demo_model.content) == demo_model.arena_bytes
    pool.invoke(demo_model.image, demo_model.blank, deadline_seconds=10)
    smaller = ModelImage(demo_model.content, demo_model.arena_bytes - 16)
    with pytest.raises(ModelRejectedError, match=r"Failed to (resize buffer|allocate)"):
        pool.invoke(smaller, demo_model.blank, deadline_seconds=10)


def test_arena_above_the_limit_is_refused_with_tflm_words(demo_model: DemoModel, pool: InferencePool) -> None:
    """A model that does not fit the limit is refused, and TFLM's own text says what is missing."""
    with pytest.raises(ModelRejectedError, match="missing"):
        pool.smallest_arena(demo_model.content, limit_bytes=32 * 1024)


@pytest.mark.parametrize("name", DEMO_MODELS)
@pytest.mark.parametrize("profile", Profile)
def test_modelled_latency_agrees_with_mlperf_tiny(name: str, profile: Profile) -> None:
    """The measured latency of every model and stack lies in the stated band."""
    facts = read_model_facts(fetch_model(name).read_bytes())
    clock_hz = 200_000_000 if profile is Profile.ONNC else 120_000_000
    estimate = predict(facts.macs, profile, clock_hz=clock_hz)
    assert estimate.low_ms <= _MEASURED_MS[name, profile] <= estimate.high_ms


@pytest.mark.parametrize(
    ("photo", "label", "score"),
    [
        ("astronaut", "person", 0.94),
        ("camera-man", "person", 0.80),
        ("cat", "no person", 0.92),
        ("coffee", "no person", 0.99),
    ],
)
def test_person_model_judges_photo(
    person_model: DemoModel, pool: InferencePool, photo: str, label: str, score: float
) -> None:
    """The person model gives the known answer on a real photo."""
    best = _best_label(person_model, pool, photo)
    assert best.label == label
    assert best.score == pytest.approx(score, abs=0.02)


@pytest.mark.parametrize(
    ("photo", "label", "score"), [("horse", "horse", 0.996), ("cat", "cat", 0.70), ("rocket", "ship", 0.81)]
)
def test_image_model_judges_photo(
    image_model: DemoModel, pool: InferencePool, photo: str, label: str, score: float
) -> None:
    """The image model gives the known answer on a real photo."""
    best = _best_label(image_model, pool, photo)
    assert best.label == label
    assert best.score == pytest.approx(score, abs=0.02)


def test_golden_vector_passes_on_its_own_model_and_fails_on_another_answer(
    demo_model: DemoModel, pool: InferencePool
) -> None:
    """A recorded answer passes; one moved by more than its tolerance does not."""
    tensor = photo_tensor(load_photo("cat").pixels, demo_model.contract, window=Window(20, 10, 250, 250))
    answer = _infer(demo_model, pool, tensor)
    vector = GoldenVector.model_validate(
        {"name": "cat", "input": _base64(tensor), "expected": answer.ravel().tolist(), "tolerance": 0.01}
    )
    report = run_golden_vectors([vector], demo_model.contract, infer=lambda x: _infer(demo_model, pool, x))
    assert report.passed
    moved = run_golden_vectors([vector], demo_model.contract, infer=lambda x: _infer(demo_model, pool, x) + 0.02)
    assert not moved.passed
    assert moved.failures[0].max_difference == pytest.approx(0.02, abs=1e-6)


def _best_label(model: DemoModel, pool: InferencePool, photo: str) -> LabelScore:
    tensor = photo_tensor(load_photo(photo).pixels, model.contract)
    return label_scores(_infer(model, pool, tensor), model.labels)[0]


def _infer(model: DemoModel, pool: InferencePool, tensor: np.ndarray) -> np.ndarray:
    return pool_inference(pool, model.image, read_model_facts(model.content), deadline_seconds=10)(tensor)


def _base64(tensor: np.ndarray) -> str:
    return base64.b64encode(tensor.tobytes()).decode()
