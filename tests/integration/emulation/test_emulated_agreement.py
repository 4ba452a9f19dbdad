"""The emulated core gives TFLM's answers on the demo's photos and models."""

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.integration.emulation.emulated_programs import needs_emulation
from tests.integration.tinyml.tinyml_models import load_demo_model
from tinyml.fetch import fetch_model
from tinyml.flatbuffer import read_model_facts
from tinyml.photos import load_photos
from tinyml.preprocess import photo_tensor
from tinyml.workers import InferencePool, ModelImage

if TYPE_CHECKING:
    from device_sim.emulation.inference import EmulatedInference

pytestmark = needs_emulation

_DEADLINE_SECONDS = 60.0  # a loaded host is no wrong answer
_ARENA_BYTES = 192 * 1024


@pytest.mark.parametrize("name", ["person-detection", "image-classification"])
def test_every_photo_gets_the_answer_that_tflm_gives(
    name: str, emulated: "EmulatedInference", pool: InferencePool
) -> None:
    """14 of 14 photos, with both models: the same label, and not one stored value differs."""
    model = load_demo_model(name)
    for photo in load_photos():
        tensor = photo_tensor(photo.pixels, model.contract)
        expected = pool.invoke(model.image, tensor, deadline_seconds=_DEADLINE_SECONDS).output
        found = emulated.invoke(model.image, tensor, deadline_seconds=_DEADLINE_SECONDS)
        assert found.output.argmax() == expected.argmax(), photo.name
        np.testing.assert_array_equal(found.output, expected, err_msg=photo.name)
        assert found.instructions > model.macs  # the kernels are scalar: more than one instruction for each


@pytest.mark.parametrize(("name", "seed"), [*product(["keyword-spotting", "anomaly-detection"], [1, 2])])
def test_models_of_other_senses_agree_on_random_input(
    name: str, seed: int, emulated: "EmulatedInference", pool: InferencePool
) -> None:
    """The keyword model and the autoencoder, too, give TFLM's values."""
    image = ModelImage(fetch_model(name).read_bytes(), _ARENA_BYTES)
    facts = read_model_facts(image.content)
    tensor = np.random.default_rng(seed).normal(0, 20, facts.inputs[0].shape).astype(np.float32)
    expected = pool.invoke(image, tensor, deadline_seconds=_DEADLINE_SECONDS).output
    found = emulated.invoke(image, tensor, deadline_seconds=_DEADLINE_SECONDS).output
    np.testing.assert_array_equal(found, expected)


def test_same_input_takes_the_same_instructions(emulated: "EmulatedInference") -> None:
    """Nothing of one inference reaches the next, not even its length."""
    image = ModelImage(fetch_model("anomaly-detection").read_bytes(), _ARENA_BYTES)
    shape = read_model_facts(image.content).inputs[0].shape
    quiet, loud = np.zeros(shape, np.float32), np.full(shape, 90, np.float32)
    runs = [emulated.invoke(image, tensor, deadline_seconds=_DEADLINE_SECONDS) for tensor in (quiet, loud, quiet)]
    assert runs[0].instructions == runs[2].instructions
    np.testing.assert_array_equal(runs[0].output, runs[2].output)
    assert not np.array_equal(runs[0].output, runs[1].output)
