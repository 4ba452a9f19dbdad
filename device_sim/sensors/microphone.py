"""A microphone in a room: a fan's hum, rustling, and now and then a voice without words, made by rule.

Deterministic: the device id and the seed decide what is heard, sample by sample from the moment when the microphone was
switched on. For words, replay a recording.
"""

import hashlib

import numpy as np

from protocol.identity import DeviceId

_RUSTLE = 0.003  # standard deviation; full scale is 1
_HUM = 0.002
_HUM_HZ = 100.0
_VOICE = 0.2
_BREATH_SECONDS = 3.0  # from one utterance to the next
_SYLLABLE_SECONDS = 0.18
_FORMANTS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))  # of a, i, u, e
_BANDWIDTH_HZ = 90.0
_BLOCK_SECONDS = 0.25  # of rustling that one seed gives


class Microphone:
    """One stream of sound.

    Args:
        device_id: decides what is heard.
        stream: tells apart streams of one device.
        seed: of the scenario.
    """

    def __init__(self, device_id: DeviceId, *, stream: str, seed: int = 1) -> None:
        self._salt = f"{seed}\0{device_id}\0{stream}"
        chance = self._random("voice")
        self._pitch_hz = float(chance.uniform(90, 220))
        self._phase_seconds = float(chance.uniform(0, _BREATH_SECONDS))

    def hear(self, start: int, count: int, sample_rate_hz: int) -> np.ndarray:
        """Return samples.

        Args:
            start: number of the first one since the microphone was switched on.
            count: how many.
            sample_rate_hz: of them.

        Returns:
            float32, shape (count,), full scale ±1.
        """
        at = (start + np.arange(count)) / sample_rate_hz
        sound = _HUM * np.sin(2 * np.pi * _HUM_HZ * at) + self._voice(at) + self._rustle(start, count, sample_rate_hz)
        return np.asarray(sound, np.float32)

    def _voice(self, at: np.ndarray) -> np.ndarray:
        """Return vowels: harmonics of the pitch, as loud as the formants let them be, in syllables with a rise."""
        since = (at + self._phase_seconds) % _BREATH_SECONDS
        syllables = since // _SYLLABLE_SECONDS
        sound = np.zeros(at.size)
        for number, formants in enumerate(_FORMANTS_HZ):
            spoken = np.flatnonzero(syllables == number)
            if spoken.size:
                place = since[spoken] / _SYLLABLE_SECONDS - number
                sound[spoken] = _VOICE * np.sin(np.pi * place) ** 2 * self._vowel(at[spoken], np.array(formants, float))
        return sound

    def _vowel(self, at: np.ndarray, formants_hz: np.ndarray) -> np.ndarray:
        """Return the sum of the harmonics, by Clenshaw's recurrence: one sine and one cosine for all of them."""
        harmonics = self._pitch_hz * np.arange(1, int(4000 / self._pitch_hz))
        gains = (1 / (1 + ((harmonics[:, None] - formants_hz) / _BANDWIDTH_HZ) ** 2)).sum(axis=1)
        turn = 2 * np.pi * self._pitch_hz * at
        twice = 2 * np.cos(turn)
        latest, before = np.zeros(at.size), np.zeros(at.size)
        for gain in gains[::-1] / gains.sum():
            latest, before = gain + twice * latest - before, latest
        return np.asarray(latest * np.sin(turn))

    def _rustle(self, start: int, count: int, sample_rate_hz: int) -> np.ndarray:
        block = max(1, int(_BLOCK_SECONDS * sample_rate_hz))
        first, last = start // block, (start + count - 1) // block
        noise = [self._random(f"rustle {number}").normal(0, _RUSTLE, block) for number in range(first, last + 1)]
        return np.concatenate(noise)[start - first * block :][:count]

    def _random(self, purpose: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{self._salt}\0{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))
