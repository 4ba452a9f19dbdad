"""A real-time core: a Cortex-M4 that runs one model in TFLM, under a memory budget and a watchdog.

The kernels really run, in the shared inference pool; what is modelled is time. A scenario's kernel faults sit
between the pool and the core: a hang lets the watchdog bite in device time, so no thread waits for it. Whatever a
kernel does stays in its core: `infer` reports it in the outcome, the core is reset, and its sibling knows nothing.
A watchdog reset re-vectors the core and leaves its memory as it is, so a fault that struck strikes again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from protocol.geometry import Core
from protocol.image import VerifiedImage
from protocol.messages import Cause
from protocol.model import ModelCard
from protocol.scenario import KernelFault
from tinyml.latency import Profile
from tinyml.workers import InferenceResult, ModelImage

WATCHDOG_MS = 2_000.0  # of device time; the slowest demo model takes 0.4 s in the slowest profile
HOST_DEADLINE_SECONDS = 15.0  # for the pool's worker; a loaded host is no hanging kernel


class Inference(Protocol):
    """What a core needs of the inference pool."""

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Run a model once; see `tinyml.workers.InferencePool.invoke`."""


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


class M4Core:
    """One real-time core.

    Args:
        core: which of the two.
        pool: runs the kernels.
        profile: software stack that the latency is modelled for.
        faults: the scenario's kernel faults that this device has.
    """

    def __init__(self, core: Core, *, pool: Inference, profile: Profile, faults: Sequence[KernelFault] = ()) -> None:
        raise NotImplementedError

    @property
    def firmware(self) -> VerifiedImage | None:
        """The runtime that the core runs, or None while it is stopped."""
        raise NotImplementedError

    @property
    def card(self) -> ModelCard | None:
        """The card of the model that the core runs, or None."""
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        """Whether the core runs a model."""
        raise NotImplementedError

    @property
    def resets(self) -> int:
        """Watchdog and fault resets since the core was started."""
        raise NotImplementedError

    def start(self, firmware: VerifiedImage, model: VerifiedImage | None) -> None:
        """Start the core, from its beginning, with images that the boot has verified.

        Args:
            firmware: the runtime.
            model: what it runs; None leaves the core idle.

        Raises:
            CoreLoadError: the model is for another core, malformed, or over the memory budget; the core is stopped.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the core; it forgets what it ran."""
        raise NotImplementedError

    def infer(self, frame: np.ndarray) -> InferenceOutcome:
        """Run the model on what a camera sees.

        Args:
            frame: RGB, uint8, shape (height, width, 3).

        Raises:
            CoreStoppedError: the core runs no model.
            PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
        """
        raise NotImplementedError

    def receive(self, message: bytes) -> bytes | None:
        """Take an intercore message of a test input; the last one of an input is answered with the output values.

        Returns:
            The reply, float32 values, or None while the input is incomplete.

        Raises:
            CoreFaultError: stands for the reply that never comes, and what the reset status says afterwards.
            CoreStoppedError: the core runs no model.
            IntercoreMessageError: too long, or more bytes than the model's input has.
            PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
        """
        raise NotImplementedError
