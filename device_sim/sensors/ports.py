"""What a core asks of the sensors of its device."""

from typing import Protocol

import numpy as np

from protocol.geometry import Core
from protocol.model import InputContract


class Sensors(Protocol):
    """The sensors of one device; used by one thread at a time."""

    def take(self, core: Core, contract: InputContract, *, at_seconds: float) -> np.ndarray:
        """Return what the sensor that a model listens to senses.

        Args:
            core: that asks; a signal goes on for each core where its last window ended.
            contract: the card's input, which names the sensor and how much of its signal the model takes.
            at_seconds: device time, at the end of what is sensed.

        Returns:
            A photo: RGB, uint8, shape (height, width, 3). Sound: float32, shape (samples,), full scale ±1. Vibration:
            float32, shape (samples, 3), in g.
        """
