"""A real-time core: a Cortex-M4 that runs one model in TFLM, under a memory budget and a watchdog.

The kernels really run, in the shared inference pool; what is modelled is time. A scenario's kernel faults sit
between the pool and the core (`cores.kernels`): a hang lets the watchdog bite in device time, so no thread waits for
it. Whatever a kernel does stays in its core: `infer` reports it in the outcome, the core is reset, and its sibling
knows nothing. A watchdog reset re-vectors the core and leaves its memory as it is, so a fault that struck strikes
again; what was half received from the A7 is dropped.

A second model may run in shadow: unheard, after the first one, on the same samples, in the same arena. A fault of it
resets the core like any other and is reported as its own; a hang costs no more than twice its modelled time, after
which the runtime takes the core back.

The firmware image is verified, measured and named, but its code does not run: TFLM on the host stands in for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_sim.cores.intercore import Connection, data_of, sender_of, split
from device_sim.cores.kernels import (
    WATCHDOG_MS,
    Inference,
    Kernels,
    LoadedModel,
    NoStrain,
    Strain,
    busy_seconds,
    load_model,
)
from device_sim.cores.memory import RUNTIME_BYTES, SYSRAM, TCM, MemoryBudget
from device_sim.errors import (
    CoreFaultError,
    CoreLoadError,
    CoreStoppedError,
    IncomparableModelError,
    IntercoreMessageError,
)
from device_sim.learning.learner import Learner, PriorJudge
from device_sim.learning.states import LearnedStates
from protocol.geometry import M4_CLOCK_HZ, Core
from protocol.image import VerifiedImage
from protocol.messages import Cause
from protocol.model import InputContract, ModelCard
from protocol.scenario import KernelFault
from tinyml.errors import InputMismatchError
from tinyml.latency import Profile
from tinyml.preprocess import label_scores

_REPLY_TYPE = "<f4"
_SLICE_FACTOR = 2  # of its modelled latency, that a model in shadow may take


@dataclass(frozen=True, slots=True)
class InferenceOutcome:
    """What one inference on a core came to.

    Attributes:
        model: `name@version` of the card.
        model_sha256: digest of the image package, 64 hex digits.
        label: best label, empty when the inference failed.
        score: its score.
        m4_ms: modelled latency on the Cortex-M4; of a hang, the watchdog's.
        host_ms: what the host took.
        arena_bytes: arena in use.
        cause: why the core gave no answer, or None.
        error: what was expected and found then, or an empty string.
    """

    model: str
    model_sha256: str
    label: str
    score: float
    m4_ms: float
    host_ms: float
    arena_bytes: int
    cause: Cause | None = None
    error: str = ""

    @property
    def busy_seconds(self) -> float:
        """How long the core was busy, until it could run the next inference."""
        return busy_seconds(self.m4_ms / 1000, self.cause)


class M4Core:
    """One real-time core.

    Args:
        core: which of the two.
        pool: runs the kernels.
        profile: software stack that the latency is modelled for.
        faults: the scenario's kernel faults that this device has.
        clock_hz: of the core.
        device_id: whose it is.
        strain: makes inferences longer than modelled.
        learned: where what the core learns is kept; None: it runs no learning template.
    """

    def __init__(
        self,
        core: Core,
        *,
        pool: Inference,
        profile: Profile,
        faults: Sequence[KernelFault] = (),
        clock_hz: int = M4_CLOCK_HZ,
        device_id: str = "",
        strain: Strain | None = None,
        learned: LearnedStates | None = None,
    ) -> None:
        self._core = core
        self._owner = f"{device_id}/{core}"
        self._pool = pool
        self._profile = profile
        self._strain = strain or NoStrain()
        self._clock_hz = clock_hz
        self._memory = MemoryBudget(core)
        self._faults = tuple(faults)
        self._learned = learned
        self._learner: Learner | None = None
        self._firmware: VerifiedImage | None = None
        self._kernels: Kernels | None = None  # answer the sensors
        self._candidate: Kernels | None = None  # in shadow
        self._test_kernels: Kernels | None = None  # answer test inputs; the same ones, but for a learning template
        self._received = bytearray()
        self._resets = 0

    @property
    def firmware(self) -> VerifiedImage | None:
        """The runtime that the core runs, or None while it is stopped."""
        return self._firmware

    @property
    def component_id(self) -> str:
        """Component id of the runtime.

        Raises:
            CoreStoppedError: the core is stopped.
        """
        if self._firmware is None:
            raise CoreStoppedError(f"{self._core}: expected a runtime, found the core stopped")
        return self._firmware.info.component_id

    @property
    def card(self) -> ModelCard | None:
        """The card of the model that the core runs, or None."""
        return None if self._kernels is None else self._kernels.model.card

    @property
    def is_running(self) -> bool:
        """Whether the core runs a model."""
        return self._kernels is not None

    @property
    def learner(self) -> Learner | None:
        """What learns on the core, or None: it runs no learning template."""
        return self._learner

    @property
    def latency_seconds(self) -> float:
        """What one inference of the model that the core runs takes, until the watchdog bites; 0 without a model."""
        return 0.0 if self._kernels is None else min(self._kernels.latency_ms, WATCHDOG_MS) / 1000

    @property
    def has_candidate(self) -> bool:
        """Whether a model is ready to run in shadow."""
        return self._candidate is not None

    @property
    def candidate_seconds(self) -> float:
        """Modelled latency of one inference of the model in shadow; 0 without one."""
        return 0.0 if self._candidate is None else self._candidate.latency_ms / 1000

    @property
    def memory(self) -> MemoryBudget:
        """What the core's data memory is given to; a start of the core gives it anew."""
        return self._memory

    @property
    def resets(self) -> int:
        """Watchdog and fault resets since the core was started."""
        return self._resets

    def start(self, firmware: VerifiedImage, model: VerifiedImage | None, *, keeps_learned: bool = True) -> None:
        """Start the core, from its beginning, with images that the boot has verified.

        Args:
            firmware: the runtime.
            model: what it runs; None leaves the core idle.
            keeps_learned: whether what it learns is kept; not on trial.

        Raises:
            CoreLoadError: the model is for another core, or malformed; the core is stopped.
            OutOfMemoryError: of these, its arena does not fit beside the runtime.
        """
        self.stop()
        self._memory.claim("runtime", RUNTIME_BYTES, regions=(SYSRAM, TCM))
        if model is not None:
            self._load(model, keeps_learned=keeps_learned)
        self._firmware = firmware

    def stop(self) -> None:
        """Stop the core; it forgets what it ran."""
        self._firmware, self._kernels, self._candidate, self._resets = None, None, None, 0
        self._test_kernels = self._learner = None
        self._received.clear()
        self._memory.clear()

    def infer(self, sample: np.ndarray) -> InferenceOutcome:
        """Run the model on what its sensor took.

        Args:
            sample: a photo or a window of a signal, see `device_sim.sensors.ports.Sensors`.

        Raises:
            CoreStoppedError: the core runs no model.
            PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
        """
        return self._infer(self._require_kernels(), sample)

    def infer_candidate(self, sample: np.ndarray) -> InferenceOutcome:
        """Run the model in shadow on what the sensor took; raises as `infer`."""
        if self._candidate is None:
            raise CoreStoppedError(f"{self._core}: expected a model in shadow, found none")
        outcome = self._infer(self._candidate, sample)
        slice_ms = min(WATCHDOG_MS, _SLICE_FACTOR * self._candidate.latency_ms)
        return replace(outcome, m4_ms=slice_ms) if outcome.cause is Cause.HANG else outcome

    def load_candidate(self, model: VerifiedImage) -> ModelCard:
        """Have a model ready to run in shadow.

        Returns:
            Its card.

        Raises:
            IncomparableModelError: nothing to compare it with, another sensor, or a model whose state the other's
                arena would overwrite.
            CoreLoadError: it is for another core, or malformed.
            OutOfMemoryError: of these, its arena does not fit beside the runtime.
        """
        self._candidate = None
        loaded = load_model(model, self._core)
        self._require_comparable(loaded)
        alone = MemoryBudget(self._core)
        alone.claim("runtime", RUNTIME_BYTES, regions=(SYSRAM, TCM))
        alone.claim("arena", loaded.card.measured.arena_bytes)
        self._candidate = self._kernels_of(loaded, self._pool)
        return loaded.card

    def drop_candidate(self) -> None:
        """Forget the model in shadow."""
        self._candidate = None

    def _require_comparable(self, candidate: LoadedModel) -> None:
        if self._kernels is None:
            raise IncomparableModelError(f"{self._core}: expected a model to compare with, found none")
        incumbent = self._kernels.model
        for loaded in (incumbent, candidate):
            if loaded.template is not None or loaded.is_stateful:
                name = f"{loaded.card.name}@{loaded.card.version}"
                raise IncomparableModelError(f"{self._core}: expected models without a state, found {name}")
        if _senses(incumbent.card.input) != _senses(candidate.card.input):
            raise IncomparableModelError(
                f"{self._core}: expected samples as {incumbent.card.name} takes, {_senses(incumbent.card.input)}, "
                f"found {_senses(candidate.card.input)}"
            )

    def _infer(self, kernels: Kernels, sample: np.ndarray) -> InferenceOutcome:
        card = kernels.model.card
        try:
            answer = kernels.infer(sample)
            best = label_scores(answer.values, card.labels)[0]
        except CoreFaultError as error:
            self._reset()
            return self._outcome(kernels, cause=error.cause, error=str(error))
        except InputMismatchError as error:
            return self._outcome(kernels, error=str(error))
        return self._outcome(kernels, label=best.label, score=best.score, host_ms=answer.host_ms)

    def serve(self, rings: Connection) -> Iterator[bytes]:
        """Take every message that waits in a connection's ring, and let its other end read the answers.

        Yields:
            What the application reads: messages of at most 1,040 bytes.

        Raises:
            IntercoreMessageError: of these, a message of somebody whom the runtime's manifest does not list.
            As `receive`.
        """
        while (message := rings.to_core.read()) is not None:
            if sender_of(message) not in rings.runtime.allowed:
                raise IntercoreMessageError(
                    f"intercore message: expected one of {rings.application.component_id}, found {sender_of(message)}"
                )
            reply = self.receive(message)
            for answer in split(reply or b"", self.component_id):
                rings.to_application.write(answer)
                yield rings.to_application.read() or b""

    def receive(self, message: bytes) -> bytes | None:
        """Take an intercore message of a test input; the last one of an input is answered with the output values.

        Returns:
            The reply, float32 values, or None while the input is incomplete.

        Raises:
            CoreFaultError: stands for the reply that never comes, and what the reset status says afterwards.
            CoreStoppedError: the core runs no model.
            InputMismatchError: the model wants another input than its card says.
            IntercoreMessageError: too long, or more bytes than the model's input has.
            PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
        """
        kernels = self._require_kernels()
        contract = kernels.model.card.input
        self._received += data_of(message)
        expected = _input_bytes(contract)
        if len(self._received) > expected:
            found = len(self._received)
            self._received.clear()
            raise IntercoreMessageError(f"test input: expected {expected} bytes, found {found}")
        if len(self._received) < expected:
            return None
        return self._answer(self._test_kernels or kernels, contract)

    def _load(self, model: VerifiedImage, *, keeps_learned: bool) -> None:
        loaded = load_model(model, self._core)
        self._memory.claim("arena", loaded.card.measured.arena_bytes)
        if loaded.template is None:
            self._kernels = self._test_kernels = self._kernels_of(loaded, self._pool)
            return
        if self._learned is None:
            raise CoreLoadError(f"{self._core}: expected a place for what a template learns, found none")
        component_id = loaded.card.component_id
        self._learner = Learner(
            loaded.template, component_id=component_id, core=self._core, states=self._learned, keeps=keeps_learned
        )
        self._kernels = self._kernels_of(loaded, self._learner)
        self._test_kernels = self._kernels_of(loaded, PriorJudge(loaded.template, component_id=component_id))

    def _kernels_of(self, loaded: LoadedModel, runs: Inference) -> Kernels:
        latency_ms = loaded.latency_ms(self._profile, self._clock_hz)
        return Kernels(loaded, runs, latency_ms=latency_ms, strain=self._strain, faults=self._faults, owner=self._owner)

    def _answer(self, kernels: Kernels, contract: InputContract) -> bytes:
        tensor = np.frombuffer(bytes(self._received), contract.dtype).reshape(contract.shape)
        self._received.clear()
        try:
            return kernels.answer(tensor).values.astype(_REPLY_TYPE).tobytes()
        except CoreFaultError:
            self._reset()
            raise

    def _require_kernels(self) -> Kernels:
        if self._kernels is None:
            raise CoreStoppedError(f"{self._core}: expected a model, found the core stopped or idle")
        return self._kernels

    def _reset(self) -> None:
        self._received.clear()
        if self._kernels is not None:
            self._kernels.reset()
        self._resets += 1

    def _outcome(
        self,
        kernels: Kernels,
        *,
        label: str = "",
        score: float = 0.0,
        host_ms: float = 0.0,
        cause: Cause | None = None,
        error: str = "",
    ) -> InferenceOutcome:
        model = kernels.model
        return InferenceOutcome(
            model=f"{model.card.name}@{model.card.version}",
            model_sha256=model.digest,
            label=label,
            score=score,
            m4_ms=WATCHDOG_MS if cause == Cause.HANG else kernels.latency_ms,
            host_ms=host_ms,
            arena_bytes=model.card.measured.arena_bytes,
            cause=cause,
            error=error,
        )


def _senses(contract: InputContract) -> tuple[str, int, int]:
    """Return what of a sensor's signal a model takes."""
    signal = contract.signal
    rate, window = (0, 0) if signal is None else (signal.sample_rate_hz, signal.window_samples)
    return contract.sensor.value, rate, window


def _input_bytes(contract: InputContract) -> int:
    return int(np.prod(contract.shape)) * np.dtype(contract.dtype).itemsize
