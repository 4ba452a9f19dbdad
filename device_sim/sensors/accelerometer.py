"""An accelerometer on a machine with a rotating shaft: what a healthy one shakes with, and what faults add.

The axes are x across the shaft, y across it upwards, z along it; gravity is on y. A healthy machine shows its shaft's
frequency, a little of the second harmonic, and noise. Faults, each as strong as its severity says:

    imbalance   the shaft's frequency, a quarter turn apart on x and y
    looseness   half orders and harmonics of the shaft's frequency
    bearing     impacts at the ball pass frequency of the outer race, each of which rings the structure

Sources of the signatures: ISO 13373-1, annex; R. B. Randall, J. Antoni, "Rolling element bearing diagnostics", 2011.
The ball pass frequency is that of a 6205 bearing. Deterministic: device id and seed decide the machine and its noise.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from protocol.identity import DeviceId
from protocol.sensing import MechanicalFault

AXES = 3
_SHAFT_HZ = (24.0, 30.0)  # four poles, with slip
_SHAFT_G = 0.05
_NOISE_G = 0.02
_IMBALANCE_G = 0.8
_LOOSENESS_G = 0.35
_LOOSE_ORDERS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)
_BALL_PASS_ORDER = 3.585  # of the shaft's frequency
_IMPACT_G = 2.5
_RING_SHARE = 0.3  # of the sample rate, so that every rate shows it; at most
_RING_HZ = 3200.0
_DECAY_SECONDS = 0.0015
_BLOCK_SAMPLES = 1024  # of noise that one seed gives


class Accelerometer:
    """One stream of vibration.

    Args:
        device_id: decides the machine.
        stream: tells apart streams of one device: their noise differs, their machine does not.
        seed: of the scenario.
    """

    def __init__(self, device_id: DeviceId, *, stream: str, seed: int = 1) -> None:
        self._salt = f"{seed}\0{device_id}"
        self._stream = stream
        chance = self._random("machine")
        self.shaft_hz = float(chance.uniform(*_SHAFT_HZ))
        self._phases = chance.uniform(0, 2 * np.pi, AXES)

    def feel(
        self, start: int, count: int, sample_rate_hz: int, *, faults: Mapping[MechanicalFault, float] | None = None
    ) -> np.ndarray:
        """Return samples.

        Args:
            start: number of the first one since the sensor was switched on.
            count: how many.
            sample_rate_hz: of them.
            faults: each with its severity, 0 to 1.

        Returns:
            float32, shape (count, 3), g.
        """
        at = (start + np.arange(count)) / sample_rate_hz
        shaking = self._healthy(at) + self._noise(start, count)
        for fault, severity in (faults or {}).items():
            shaking += severity * self._faulty(fault, at, sample_rate_hz)
        shaking[:, 1] += 1.0  # gravity
        return np.asarray(shaking, np.float32)

    def _healthy(self, at: np.ndarray) -> np.ndarray:
        turn = 2 * np.pi * self.shaft_hz * at[:, None] + self._phases
        return np.asarray(_SHAFT_G * (np.sin(turn) + 0.4 * np.sin(2 * turn)) * (1.0, 1.0, 0.4))

    def _faulty(self, fault: MechanicalFault, at: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        if fault is MechanicalFault.IMBALANCE:
            return self._imbalance(at)
        if fault is MechanicalFault.LOOSENESS:
            return self._looseness(at)
        return self._bearing(at, sample_rate_hz)

    def _imbalance(self, at: np.ndarray) -> np.ndarray:
        turn = 2 * np.pi * self.shaft_hz * at
        return np.asarray(_IMBALANCE_G * np.stack([np.sin(turn), np.cos(turn), 0.1 * np.sin(turn)], axis=1))

    def _looseness(self, at: np.ndarray) -> np.ndarray:
        turn = 2 * np.pi * self.shaft_hz * at[:, None] + self._phases
        orders = sum(np.sin(order * turn) / np.sqrt(order) for order in _LOOSE_ORDERS)
        return np.asarray(_LOOSENESS_G * orders * (0.6, 1.0, 0.3))

    def _bearing(self, at: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        since = at % (1 / (_BALL_PASS_ORDER * self.shaft_hz))
        ring_hz = min(_RING_HZ, _RING_SHARE * sample_rate_hz)
        ringing = _IMPACT_G * np.exp(-since / _DECAY_SECONDS) * np.sin(2 * np.pi * ring_hz * since)
        return np.asarray(ringing[:, None] * np.array([0.7, 1.0, 0.4]))

    def _noise(self, start: int, count: int) -> np.ndarray:
        first, last = start // _BLOCK_SAMPLES, (start + count - 1) // _BLOCK_SAMPLES
        blocks = [
            self._random(f"{self._stream} {number}").normal(0, _NOISE_G, (_BLOCK_SAMPLES, AXES))
            for number in range(first, last + 1)
        ]
        return np.concatenate(blocks)[start - first * _BLOCK_SAMPLES :][:count]

    def _random(self, purpose: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self._salt}\0{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))
