"""What the conditions of a scenario do to what a sensor takes.

Light is linear and pixels are not: a tenth of the light leaves 0.1 ** (1 / 2.2) of a pixel's value (sRGB), and the
camera's own noise, which does not get less with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protocol.sensing import MechanicalFault, SensorConditions, SensorKind

_GAMMA = 2.2
_READ_NOISE = 1.5  # of a pixel, where light is missing
_BRIGHTEST = 255
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What disturbs a sensor at a moment, all conditions taken together.

    Attributes:
        lighting: share of daylight.
        noise: standard deviation, share of full scale or g.
        drift: share, or g.
        faults: of the machine, each with its severity.
    """

    lighting: float
    noise: float
    drift: float
    faults: dict[MechanicalFault, float]

    @property
    def spares_photos(self) -> bool:
        """Whether a camera takes what it would take undisturbed."""
        return self.lighting == 1.0 and not self.noise and not self.drift


def disturbance(conditions: Sequence[SensorConditions], sensor: SensorKind, at_seconds: float) -> Disturbance:
    """Take together what disturbs a sensor at a moment of device time."""
    lighting, power, drift = 1.0, 0.0, 0.0
    faults: dict[MechanicalFault, float] = {}
    for each in conditions:
        held = each.held_seconds(at_seconds)
        if held is None or each.sensor not in (None, sensor):
            continue
        lighting *= each.lighting
        power += each.noise**2
        drift += each.drift_per_hour * held / _SECONDS_PER_HOUR
        if each.fault is not None:
            faults[each.fault] = max(each.severity, faults.get(each.fault, 0.0))
    return Disturbance(lighting, power**0.5, drift, faults)


def disturb_photo(pixels: np.ndarray, found: Disturbance, chance: np.random.Generator) -> np.ndarray:
    """Return a photo as a disturbed camera takes it.

    Args:
        pixels: RGB, uint8, shape (height, width, 3).
        found: lighting, noise and drift of the brightness.
        chance: of the noise.
    """
    brightness = found.lighting ** (1 / _GAMMA) * max(0.0, 1 + found.drift)
    spread = found.noise * _BRIGHTEST + (_READ_NOISE if found.lighting < 1 else 0.0)
    seen = pixels * brightness + chance.normal(0, spread, pixels.shape)
    return np.asarray(np.clip(np.rint(seen), 0, _BRIGHTEST), np.uint8)


def disturb_sound(samples: np.ndarray, found: Disturbance, chance: np.random.Generator) -> np.ndarray:
    """Return sound, float32 with full scale ±1, as a disturbed microphone hears it."""
    heard = samples * max(0.0, 1 + found.drift)
    if found.noise:
        heard = heard + chance.normal(0, found.noise, samples.shape)
    return np.asarray(np.clip(heard, -1, 1), np.float32)


def disturb_vibration(samples: np.ndarray, found: Disturbance, chance: np.random.Generator) -> np.ndarray:
    """Return vibration, float32 in g, as an accelerometer with an offset and noise feels it."""
    return np.asarray(samples + found.drift + chance.normal(0, found.noise, samples.shape), np.float32)
