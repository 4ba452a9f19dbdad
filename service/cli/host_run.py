"""Run a model on the host as a device will: in TFLM, in a child process with a deadline, with the arena of the card."""

from collections.abc import Callable

import numpy as np

from protocol.geometry import Core, ImageKind, Slot, slot_for
from service.cli.errors import BadArgumentError
from tinyml.flatbuffer import ModelFacts
from tinyml.golden import pool_inference
from tinyml.workers import InferencePool, ModelImage

DEADLINE_SECONDS = 30.0


def inference(pool: InferencePool, model: ModelImage, facts: ModelFacts) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from an input tensor to the model's dequantised output values; no input inherits a state."""
    infer = pool_inference(pool, model, facts, deadline_seconds=DEADLINE_SECONDS)
    return lambda tensor: infer(tensor).ravel()


def model_slot(core: Core) -> Slot:
    """Return the slot of a core's model.

    Raises:
        BadArgumentError: the core runs no models.
    """
    slot = slot_for(core, ImageKind.MODEL)
    if slot is None:
        raise BadArgumentError(f"core: expected one that runs models, m4-0 or m4-1, found {core}")
    return slot
