"""What a core's runtime does before the model: it makes input tensors of what the sensor took.

A model without state gets one tensor of a window. One that keeps state gets the window in steps of as many frames as
its input has, and goes on where the last window ended; `reset` is what a reset of the core does.
"""

import math
from collections.abc import Sequence

import numpy as np

from protocol.model import InputContract
from protocol.sensing import SignalContract
from tinyml.errors import InputMismatchError
from tinyml.preprocess import photo_tensor, signal_tensor
from tinyml.signals import FeatureStream, window_rows

_MANY_AXES = 2  # dimensions of a window of an accelerometer


class FrontEnd:
    """Makes the input tensors of one model on one core.

    Args:
        contract: the card's input.
        is_stateful: whether the model keeps something from one inference to the next.
    """

    def __init__(self, contract: InputContract, *, is_stateful: bool) -> None:
        self._contract = contract
        self._is_stateful = is_stateful
        self.reset()

    @property
    def steps(self) -> int:
        """Inferences that a window takes."""
        signal = self._contract.signal
        if not self._is_stateful or signal is None or signal.features is None:
            return 1
        return max(1, signal.window_samples // (signal.features.step_samples * self._contract.shape[1]))

    def reset(self) -> None:
        """Forget what came before."""
        signal = self._contract.signal
        self._stream = FeatureStream(signal) if signal is not None else None
        self._waiting = np.zeros((0, 0), np.float32)  # frames that do not fill a step yet

    def tensors(self, sample: np.ndarray) -> Sequence[np.ndarray]:
        """Return the input of each inference on a sample.

        Args:
            sample: what `sensors.ports.Sensors.take` returned; an input tensor that is ready stays as it is.

        Raises:
            InputMismatchError: the sample is not what the contract calls for.
        """
        if sample.shape == self._contract.shape and sample.dtype == self._contract.dtype:
            return [sample]
        signal = self._contract.signal
        if signal is None:
            return [photo_tensor(sample, self._contract)]
        samples = self._samples(sample, signal)
        if signal.features is None:
            return [signal_tensor(samples, self._contract)]
        if self._is_stateful:
            return self._steps(samples)
        rows = window_rows(samples, signal, self._contract.shape[1])
        return [signal_tensor(rows, self._contract)]

    def _samples(self, sample: np.ndarray, signal: SignalContract) -> np.ndarray:
        """Return the axes that the input has room for: all, or the first, across the shaft."""
        if sample.ndim == 0 or len(sample) != signal.window_samples:
            raise InputMismatchError(
                f"{self._contract.sensor}: expected {signal.window_samples} samples, found shape {sample.shape}"
            )
        takes_all = signal.features is None and math.prod(self._contract.shape) == sample.size
        return sample if takes_all or sample.ndim < _MANY_AXES else sample[:, 0]

    def _steps(self, samples: np.ndarray) -> Sequence[np.ndarray]:
        if self._stream is None:
            raise InputMismatchError("sample: expected a signal, found a photo")
        rows = self._stream.rows(samples)
        if self._waiting.size:
            rows = np.concatenate([self._waiting, rows])
        height = self._contract.shape[1]
        count = len(rows) // height
        self._waiting = rows[count * height :]
        return [signal_tensor(rows[step * height : (step + 1) * height], self._contract) for step in range(count)]
