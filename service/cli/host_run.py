"""Run a model on the host as a device will: in TFLM, in a child process with a deadline, with the arena of the card."""

from collections.abc import Callable

import numpy as np

from protocol.geometry import HOME_BYTES, SPARE_BYTES, SYSRAM_BYTES, TCM_BYTES, Core, ImageKind, Slot, slot_for
from service.cli.errors import BadArgumentError
from tinyml.fit import CoreBudget
from tinyml.flatbuffer import ModelFacts
from tinyml.preprocess import dequantise
from tinyml.workers import InferencePool, ModelImage

DEADLINE_SECONDS = 30.0


def inference(pool: InferencePool, model: ModelImage, facts: ModelFacts) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from an input tensor to the model's dequantised output values."""

    def infer(tensor: np.ndarray) -> np.ndarray:
        output = pool.invoke(model, tensor, deadline_seconds=DEADLINE_SECONDS).output
        return dequantise(output, facts.outputs[0].quantisation).ravel()

    return infer


def model_slot(core: Core) -> Slot:
    """Return the slot of a core's model.

    Raises:
        BadArgumentError: the core runs no models.
    """
    slot = slot_for(core, ImageKind.MODEL)
    if slot is None:
        raise BadArgumentError(f"core: expected one that runs models, m4-0 or m4-1, found {core}")
    return slot


def core_budget(core: Core) -> CoreBudget:
    """Return what a core has for a model.

    Raises:
        BadArgumentError: the core runs no models.
    """
    return CoreBudget(
        core=core.value,
        tcm_bytes=TCM_BYTES,
        sysram_bytes=SYSRAM_BYTES,
        home_bytes=HOME_BYTES[model_slot(core)],
        spare_bytes=SPARE_BYTES,
    )
