"""Vibration of made-up machines, seeded: each has its own speed, harmonics, noise and resonance.

A bearing with a defect of its outer race strikes 3.58 times a turn, and each impact rings the structure; a heavy spot
makes the vibration at the shaft's frequency two and a half times as strong.
"""

from dataclasses import dataclass

import numpy as np

RATE_HZ = 3200
SAMPLES = 256
HARMONICS = 4
IMPACTS_PER_TURN = 3.58
DAMPING_PER_SECOND = 800.0
IMBALANCE = 2.5


@dataclass(frozen=True)
class SyntheticMachine:
    speed_hz: float
    amplitudes: tuple[float, ...]  # g
    noise: float  # g
    resonance_hz: float
    impact: float  # g

    def windows(self, rng: np.random.Generator, count: int, *, fault: str = "") -> list[np.ndarray]:
        return [self._window(rng, fault) for _ in range(count)]

    def _window(self, rng: np.random.Generator, fault: str) -> np.ndarray:
        seconds = np.arange(SAMPLES) / RATE_HZ
        speed = self.speed_hz * (1 + 0.01 * rng.standard_normal())
        load = 1 + 0.1 * rng.standard_normal()
        signal = self.noise * rng.standard_normal(SAMPLES)
        for order, amplitude in enumerate(self.amplitudes, start=1):
            strength = IMBALANCE if fault == "imbalance" and order == 1 else 1.0
            angle = 2 * np.pi * (speed * order * seconds + rng.uniform())
            signal += load * strength * amplitude * np.sin(angle)
        if fault == "bearing":
            signal += self._impacts(rng, seconds, speed)
        return signal.astype(np.float32)

    def _impacts(self, rng: np.random.Generator, seconds: np.ndarray, speed: float) -> np.ndarray:
        ringing = np.zeros(SAMPLES)
        period = 1 / (IMPACTS_PER_TURN * speed)
        at = rng.uniform(0, period)
        while at < seconds[-1]:
            since = np.maximum(seconds - at, 0)
            strength = self.impact * (1 + 0.2 * rng.standard_normal()) * (seconds >= at)
            ringing += strength * np.exp(-DAMPING_PER_SECOND * since) * np.sin(2 * np.pi * self.resonance_hz * since)
            at += period * (1 + 0.01 * rng.standard_normal())
        return ringing


def synthetic_machine(seed: int) -> SyntheticMachine:
    rng = np.random.default_rng(seed)
    return SyntheticMachine(
        speed_hz=rng.uniform(20, 60),
        amplitudes=tuple(rng.uniform(0.05, 0.4, HARMONICS)),
        noise=rng.uniform(0.02, 0.08),
        resonance_hz=rng.uniform(700, 1300),
        impact=rng.uniform(0.6, 1.0),
    )
