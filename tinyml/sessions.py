"""What models that keep state heard last, so that a new interpreter can be brought to where a lost one was.

A streaming model's state is what its ring buffers hold, and these hold a bounded time: those of microWakeWord's models
at most 46 steps of 30 ms (found by trying: two interpreters with different pasts agree after so many). So the latest
inputs give the whole state, and a session that was lost answers as if nothing had happened.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinyml.images import ModelImage

STEPS_KEPT = 64  # of a session, 120 B each for a wake word
SESSIONS_KEPT = 4096  # those that were not heard for the longest make room


@dataclass(frozen=True, slots=True)
class Heard:
    """What a session has heard.

    Attributes:
        count: how many inputs.
        latest: the last of them.
    """

    count: int
    latest: Sequence[np.ndarray]


NOTHING_HEARD = Heard(0, ())


class Sessions:
    """What every session has heard; any number of threads may share it, but each session has one."""

    def __init__(self) -> None:
        self._heard: OrderedDict[tuple[str, str], tuple[int, deque[np.ndarray]]] = OrderedDict()
        self._lock = threading.Lock()

    def heard(self, model: ModelImage) -> Heard:
        """Return what the session of a model has heard."""
        with self._lock:
            count, latest = self._heard.get((model.digest, model.session), (0, deque()))
            return Heard(count, tuple(latest))

    def add(self, model: ModelImage, tensor: np.ndarray) -> None:
        """Take note of an input that was answered."""
        key = (model.digest, model.session)
        with self._lock:
            count, latest = self._heard.pop(key, (0, deque(maxlen=STEPS_KEPT)))
            latest.append(tensor.copy())
            self._heard[key] = (count + 1, latest)
            if len(self._heard) > SESSIONS_KEPT:
                self._heard.popitem(last=False)
