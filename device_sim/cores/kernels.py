"""The model as a core runs it: TFLM in the inference pool, its modelled latency, and a scenario's faults on top."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from device_sim.cores.faults import strikes
from device_sim.cores.front_end import FrontEnd
from device_sim.errors import CoreFaultError, CoreLoadError
from protocol.errors import ProtocolError
from protocol.geometry import Core
from protocol.image import VerifiedImage
from protocol.learning import LearningTemplate, template_of
from protocol.messages import Cause
from protocol.model import ModelCard, ModelKind, parse_model_payload
from protocol.scenario import FaultKind, KernelFault
from tinyml.anomaly.cost import detector_facts, detector_ms
from tinyml.errors import (
    InferenceCrashError,
    InferenceTimeoutError,
    InputMismatchError,
    InvokeFailedError,
    ModelFormatError,
    ModelRejectedError,
)
from tinyml.flatbuffer import ModelFacts, Quantisation, read_model_facts
from tinyml.images import lives
from tinyml.latency import Profile, predict
from tinyml.operators import stateful_operators
from tinyml.preprocess import dequantise
from tinyml.workers import InferenceResult, ModelImage

WATCHDOG_MS = 2_000.0  # of device time; the slowest demo model takes 0.4 s in the slowest profile
RESET_MS = 50.0  # from a reset to the first inference: a modelled figure, Microsoft publishes none
HOST_DEADLINE_SECONDS = 15.0  # for the pool's worker; a loaded host is no hanging kernel
_MODELS_KEPT = 32  # shared by the devices of a process that run the same image


def busy_seconds(latency_seconds: float, cause: Cause | None) -> float:
    """Return how long a core is busy with an inference, until it can run the next one.

    Args:
        latency_seconds: modelled.
        cause: why it gave no answer, or None.
    """
    if cause is None:
        return latency_seconds
    return (WATCHDOG_MS / 1000 if cause is Cause.HANG else latency_seconds) + RESET_MS / 1000


class Inference(Protocol):
    """What a core needs of the inference pool."""

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Run a model once; see `tinyml.workers.InferencePool.invoke`."""


class Strain(Protocol):
    """How much longer than modelled the cores of a device take."""

    def factor(self, model: ModelImage) -> float:
        """Return what the latency of a model is to be multiplied with now."""


class NoStrain:
    """Cores that take as long as modelled."""

    def factor(self, model: ModelImage) -> float:
        """Return 1."""
        del model
        return 1.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that fits a core.

    Attributes:
        card: its facts.
        digest: SHA-256 of the image package, 64 hex digits.
        image: what the pool runs, with the arena that the card asks for.
        facts: what the FlatBuffer says of itself.
        template: what the core learns by, where that is the model.
    """

    card: ModelCard
    digest: str
    image: ModelImage
    facts: ModelFacts
    template: LearningTemplate | None = None

    @property
    def is_stateful(self) -> bool:
        """Whether the model keeps something from one inference to the next."""
        return bool(stateful_operators(self.facts.operators))

    @property
    def output_quantisation(self) -> Quantisation | None:
        """How the first output's integers stand for real numbers."""
        return self.facts.outputs[0].quantisation

    def latency_ms(self, profile: Profile, clock_hz: int) -> float:
        """Return the modelled latency of one inference."""
        if self.template is not None:
            return detector_ms(self.template.layout, clock_hz=clock_hz)
        return predict(self.facts.macs, profile, clock_hz=clock_hz).ms


@dataclass(frozen=True, slots=True)
class Answer:
    """Dequantised output values of one inference, and the host's milliseconds."""

    values: np.ndarray
    host_ms: float


@functools.lru_cache(maxsize=_MODELS_KEPT)
def load_model(image: VerifiedImage, core: Core) -> LoadedModel:
    """Take a model out of its verified image and check that the core can run it.

    Raises:
        CoreLoadError: malformed, or for another core.
    """
    try:
        package = parse_model_payload(image.payload)
        template = template_of(package) if package.card.kind is ModelKind.ANOMALY_TEMPLATE else None
        facts = read_model_facts(package.model) if template is None else detector_facts(template.layout)
    except (ProtocolError, ModelFormatError) as error:
        raise CoreLoadError(f"{core}: expected a model package, found {error}") from error
    card = package.card
    if card.core != core:
        raise CoreLoadError(f"{core}: expected a model for this core, found one for {card.core}")
    if len(facts.inputs) != 1 or len(facts.outputs) != 1:
        raise CoreLoadError(
            f"{core}: expected one input and one output, found {len(facts.inputs)} and {len(facts.outputs)}"
        )
    return LoadedModel(card, image.digest, ModelImage(package.model, card.measured.arena_bytes), facts, template)


class Kernels:
    """Runs one loaded model on one core.

    A model that keeps state has an interpreter of its own for each life of the core: a reset begins another.

    Args:
        model: what runs.
        pool: where it runs.
        latency_ms: modelled, of one run of the model.
        strain: makes it longer.
        faults: those that the core's device has; only those of the model strike.
        owner: names the core of a device, for a model that keeps state.
    """

    def __init__(
        self,
        model: LoadedModel,
        pool: Inference,
        *,
        latency_ms: float,
        strain: Strain,
        faults: Sequence[KernelFault],
        owner: str,
    ) -> None:
        self.model = model
        self._front_end = FrontEnd(model.card.input, is_stateful=model.is_stateful)
        self._modelled_ms = latency_ms * self._front_end.steps
        self._strain = strain
        self._pool = pool
        self._faults = [fault for fault in faults if strikes(fault, model.card)]
        self._inferences = 0
        self._lives = lives(model.image, model.facts, owner=owner)
        self._image = next(self._lives)

    @property
    def latency_ms(self) -> float:
        """What one inference takes now, in milliseconds of device time."""
        return self._modelled_ms * self._strain.factor(self.model.image)

    def infer(self, sample: np.ndarray) -> Answer:
        """Answer what the sensor took; of a window that takes several steps, with the highest value of each output.

        Args:
            sample: see `device_sim.sensors.ports.Sensors`.

        Raises:
            CoreFaultError: no answer before the watchdog bit, a crash, or a model that TFLM refuses.
            InputMismatchError: the sample, or the model, is not what the card says.
            PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
        """
        tensors = self._front_end.tensors(sample)
        if not tensors:
            raise InputMismatchError("sample: expected enough for one run of the model, found less")
        return self._run(tensors, self._image)

    def answer(self, tensor: np.ndarray) -> Answer:
        """Answer a test input, with a state of its own; raises as `infer`.

        Args:
            tensor: in the shape and type of the card's input.
        """
        return self._run([tensor], next(self._lives))

    def reset(self) -> None:
        """Forget what came before, as a reset of the core does."""
        self._front_end.reset()
        self._image = next(self._lives)

    def _run(self, tensors: Sequence[np.ndarray], image: ModelImage) -> Answer:
        fault = self._due_fault()
        if fault == FaultKind.HANG or self.latency_ms > WATCHDOG_MS:
            raise CoreFaultError(Cause.HANG, f"watchdog: expected an answer in {WATCHDOG_MS:g} ms, found none")
        if fault == FaultKind.CRASH:
            raise CoreFaultError(Cause.CRASH, "kernel: expected an answer, found a fault of the core")
        results = [self._invoke(image, tensor) for tensor in tensors]
        self._inferences += 1
        outputs = [dequantise(result.output, self.model.output_quantisation).ravel() for result in results]
        values = np.max(outputs, axis=0)
        if fault == FaultKind.GARBAGE:
            values = np.roll(values, 1) if values.size > 1 else -values
        return Answer(values, sum(result.host_seconds for result in results) * 1000)

    def _due_fault(self) -> FaultKind | None:
        due = (fault.kind for fault in self._faults if self._inferences >= fault.after_inferences)
        return next(due, None)

    def _invoke(self, image: ModelImage, tensor: np.ndarray) -> InferenceResult:
        try:
            return self._pool.invoke(image, tensor, deadline_seconds=HOST_DEADLINE_SECONDS)
        except InferenceTimeoutError as error:
            raise CoreFaultError(Cause.HANG, f"watchdog: {error}") from error
        except (InferenceCrashError, InvokeFailedError) as error:
            raise CoreFaultError(Cause.CRASH, f"kernel: {error}") from error
        except ModelRejectedError as error:
            raise CoreFaultError(Cause.BOOT, f"runtime: {error}") from error
