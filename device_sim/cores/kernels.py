"""The model as a core runs it: TFLM in the inference pool, its modelled latency, and a scenario's faults on top."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from device_sim.cores.faults import strikes
from device_sim.errors import CoreFaultError, CoreLoadError
from protocol.errors import ProtocolError
from protocol.geometry import M4_CLOCK_HZ, TCM_BYTES, Core
from protocol.image import VerifiedImage
from protocol.messages import Cause
from protocol.model import ModelCard, parse_model_payload
from protocol.scenario import FaultKind, KernelFault
from tinyml.errors import (
    InferenceCrashError,
    InferenceTimeoutError,
    InvokeFailedError,
    ModelFormatError,
    ModelRejectedError,
)
from tinyml.flatbuffer import ModelFacts, Quantisation, read_model_facts
from tinyml.latency import Profile, predict
from tinyml.preprocess import dequantise
from tinyml.workers import InferenceResult, ModelImage

WATCHDOG_MS = 2_000.0  # of device time; the slowest demo model takes 0.4 s in the slowest profile
HOST_DEADLINE_SECONDS = 15.0  # for the pool's worker; a loaded host is no hanging kernel
_MODELS_KEPT = 32  # shared by the devices of a process that run the same image


class Inference(Protocol):
    """What a core needs of the inference pool."""

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Run a model once; see `tinyml.workers.InferencePool.invoke`."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that fits a core.

    Attributes:
        card: its facts.
        digest: SHA-256 of the image package, 64 hex digits.
        image: what the pool runs, with the arena that the card asks for.
        facts: what the FlatBuffer says of itself.
    """

    card: ModelCard
    digest: str
    image: ModelImage
    facts: ModelFacts

    @property
    def output_quantisation(self) -> Quantisation | None:
        """How the first output's integers stand for real numbers."""
        return self.facts.outputs[0].quantisation

    def latency_ms(self, profile: Profile) -> float:
        """Return the modelled latency of one inference."""
        return predict(self.facts.macs, profile, clock_hz=M4_CLOCK_HZ).ms


@dataclass(frozen=True, slots=True)
class Answer:
    """Dequantised output values of one inference, and the host's milliseconds."""

    values: np.ndarray
    host_ms: float


@functools.lru_cache(maxsize=_MODELS_KEPT)
def load_model(image: VerifiedImage, core: Core) -> LoadedModel:
    """Take a model out of its verified image and check that the core can run it.

    Raises:
        CoreLoadError: malformed, for another core, or its arena is larger than the TCM.
    """
    try:
        package = parse_model_payload(image.payload)
        facts = read_model_facts(package.model)
    except (ProtocolError, ModelFormatError) as error:
        raise CoreLoadError(f"{core}: expected a model package, found {error}") from error
    card = package.card
    if card.core != core:
        raise CoreLoadError(f"{core}: expected a model for this core, found one for {card.core}")
    # TCM and SYSRAM are not contiguous, so the arena lies in the larger of them.
    if not 0 < card.measured.arena_bytes <= TCM_BYTES:
        raise CoreLoadError(
            f"{core}: expected an arena of 1 to {TCM_BYTES} bytes, found {card.measured.arena_bytes} bytes"
        )
    if len(facts.inputs) != 1 or len(facts.outputs) != 1:
        raise CoreLoadError(
            f"{core}: expected one input and one output, found {len(facts.inputs)} and {len(facts.outputs)}"
        )
    return LoadedModel(card, image.digest, ModelImage(package.model, card.measured.arena_bytes), facts)


class Kernels:
    """Runs one loaded model on one core.

    Args:
        model: what runs.
        pool: where it runs.
        profile: software stack that the latency is modelled for.
        faults: those that the core's device has; only those of the model strike.
    """

    def __init__(self, model: LoadedModel, pool: Inference, *, profile: Profile, faults: Sequence[KernelFault]) -> None:
        self.model = model
        self.latency_ms = model.latency_ms(profile)
        self._pool = pool
        self._faults = [fault for fault in faults if strikes(fault, model.card)]
        self._inferences = 0

    def run(self, tensor: np.ndarray) -> Answer:
        """Run the model once.

        Args:
            tensor: in the shape and type of the card's input.

        Raises:
            CoreFaultError: no answer before the watchdog bit, a crash, or a model that TFLM refuses.
            InputMismatchError: the model wants another input than its card says.
            PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
        """
        fault = self._due_fault()
        if fault == FaultKind.HANG or self.latency_ms > WATCHDOG_MS:
            raise CoreFaultError(Cause.HANG, f"watchdog: expected an answer in {WATCHDOG_MS:g} ms, found none")
        if fault == FaultKind.CRASH:
            raise CoreFaultError(Cause.CRASH, "kernel: expected an answer, found a fault of the core")
        result = self._invoke(tensor)
        self._inferences += 1
        values = dequantise(result.output, self.model.output_quantisation).ravel()
        if fault == FaultKind.GARBAGE:
            values = np.roll(values, 1) if values.size > 1 else -values
        return Answer(values, result.host_seconds * 1000)

    def _due_fault(self) -> FaultKind | None:
        due = (fault.kind for fault in self._faults if self._inferences >= fault.after_inferences)
        return next(due, None)

    def _invoke(self, tensor: np.ndarray) -> InferenceResult:
        try:
            return self._pool.invoke(self.model.image, tensor, deadline_seconds=HOST_DEADLINE_SECONDS)
        except InferenceTimeoutError as error:
            raise CoreFaultError(Cause.HANG, f"watchdog: {error}") from error
        except (InferenceCrashError, InvokeFailedError) as error:
            raise CoreFaultError(Cause.CRASH, f"kernel: {error}") from error
        except ModelRejectedError as error:
            raise CoreFaultError(Cause.BOOT, f"runtime: {error}") from error
