"""Inference from memory, for devices that are too many to run it: answers that the real interpreter gave once.

What was asked before, the same model and the same input, is answered from memory; anything else is run for real and
kept, whatever release brings the model. So every answer is the model's own, golden vectors included, and costs one run
for all devices. It pays where inputs repeat: `sensors.recorded` gives light devices such.

What a model makes of an input may also be a crash, a hang or a refusal: that is kept, too. A busy host's is not.
A model that keeps state is run for real every time: its answers depend on more than the input.
"""

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from device_sim.cores.kernels import HOST_DEADLINE_SECONDS, Inference
from tinyml.errors import (
    InferenceCrashError,
    InferenceError,
    InferenceTimeoutError,
    InvokeFailedError,
    ModelRejectedError,
)
from tinyml.workers import InferenceResult, ModelImage

ANSWERS_KEPT = 100_000  # about 300 B each for a model of a few labels
CHECKSUMS_KEPT = 1_000  # of inputs that many devices share
_OF_THE_MODEL = (InferenceCrashError, InferenceTimeoutError, InvokeFailedError, ModelRejectedError)

_Key = tuple[str, int, int, tuple[int, ...]]


class RecordedInference:
    """Answers from memory; any number of threads may share it. It is an `Inference` itself.

    Args:
        pool: runs what was not asked before.
        kept: most answers; the ones that were not asked for the longest make room.
    """

    def __init__(self, pool: Inference, *, kept: int = ANSWERS_KEPT) -> None:
        self._pool = pool
        self._kept = kept
        self._answers: OrderedDict[_Key, InferenceResult | InferenceError] = OrderedDict()
        self._checksums: dict[int, tuple[np.ndarray, int]] = {}
        self._lock = threading.Lock()

    @property
    def answers(self) -> int:
        """How many are kept."""
        return len(self._answers)

    def record(self, model: ModelImage, inputs: Iterable[np.ndarray]) -> None:
        """Run a model on inputs, so that no device has to wait for it.

        Raises:
            PoolBusyError, PoolClosedError: the host gave no answer.
        """
        for tensor in inputs:
            self._answer(model, tensor, deadline_seconds=HOST_DEADLINE_SECONDS)

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Answer for a model; see `tinyml.workers.InferencePool.invoke`."""
        if model.session:
            return self._pool.invoke(model, input, deadline_seconds=deadline_seconds)
        answer = self._answer(model, input, deadline_seconds=deadline_seconds)
        if isinstance(answer, InferenceError):
            raise answer
        return answer

    def _answer(
        self, model: ModelImage, tensor: np.ndarray, *, deadline_seconds: float
    ) -> InferenceResult | InferenceError:
        key = (model.digest, model.arena_bytes, self._checksum(tensor), tensor.shape)
        with self._lock:
            if key in self._answers:
                self._answers.move_to_end(key)
                return self._answers[key]
        answer = self._run(model, tensor, deadline_seconds)
        with self._lock:
            self._answers[key] = answer
            if len(self._answers) > self._kept:
                self._answers.popitem(last=False)
        return answer

    def _checksum(self, tensor: np.ndarray) -> int:
        """Return the CRC-32 of an input; that of one that cannot change is reckoned once."""
        known = self._checksums.get(id(tensor))
        if known is not None and known[0] is tensor:
            return known[1]
        found = zlib.crc32(np.ascontiguousarray(tensor).data)
        if not tensor.flags.writeable:
            if len(self._checksums) >= CHECKSUMS_KEPT:
                self._checksums.clear()
            self._checksums[id(tensor)] = (tensor, found)
        return found

    def _run(self, model: ModelImage, tensor: np.ndarray, deadline_seconds: float) -> InferenceResult | InferenceError:
        try:
            return self._pool.invoke(model, tensor, deadline_seconds=deadline_seconds)
        except _OF_THE_MODEL as error:
            return error.with_traceback(None)
