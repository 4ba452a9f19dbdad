"""From a window of a sampled signal to the rows of a model's input: frames, power spectrum, mel bands, logarithm.

    log-mel         natural logarithm of each band's power
    mfcc            the first cosine coefficients of these (DCT-II, orthonormal)
    micro-frontend  TensorFlow's microfrontend in floating point: square root of the band's power, a running estimate
                    of the noise taken away, gain controlled by that estimate (PCAN), logarithm. Constants are those of
                    tensorflow/lite/experimental/microfrontend (filterbank.c, noise_reduction.c, pcan_gain_control.c);
                    the scale of the result, 2.5 · ln, is that of microWakeWord

A `FeatureStream` goes on where the last window ended, as a model that keeps state needs it; a model without state has
each window to itself. Samples are float32 with full scale ±1.
"""

import functools
from dataclasses import dataclass, field

import numpy as np

from protocol.sensing import SignalContract, SpectralFeatures
from tinyml.errors import InputMismatchError

_BRIGHTEST = 255.0
_POWER_FLOOR = 1e-10  # below the quantisation of 16-bit samples
_FULL_SCALE = 32768.0  # the microfrontend takes 16-bit samples
_FILTERBANK_SCALE = 64.0  # square root of its 12 bits of fraction
_SMOOTHING = (0.025, 0.06)  # of the noise estimate, in even and odd bands
_SIGNAL_REMAINING = 0.05  # of a band, however loud the noise
_PCAN_STRENGTH, _PCAN_OFFSET = 0.95, 80.0
_PCAN_OUTPUT = 64.0  # 6 bits of fraction
_CORRECTION = 8.0  # 3 bits: what an FFT of 512 points and the filter bank leave
_FEATURE_SCALE = 2.5  # 64 of the microfrontend's logarithm × 0.0390625 of microWakeWord


@dataclass(slots=True)
class FeatureStream:
    """Makes rows of features from a signal that comes window by window.

    Args:
        signal: the contract; it has features.
    """

    signal: SignalContract
    _tail: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    _noise: np.ndarray | None = None

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Return the features of every frame that has become whole.

        Args:
            samples: float32, shape (samples,).

        Returns:
            float32, shape (frames, coefficients).
        """
        features = self._features
        stream = np.concatenate([self._tail, samples.astype(np.float32)])
        count = max(0, (stream.size - features.frame_samples) // features.step_samples + 1)
        self._tail = stream[count * features.step_samples :]
        if not count:
            return np.zeros((0, features.coefficients), np.float32)
        frames = np.lib.stride_tricks.sliding_window_view(stream, features.frame_samples)[:: features.step_samples]
        return self._of(frames[:count]).astype(np.float32)

    @property
    def _features(self) -> SpectralFeatures:
        if self.signal.features is None:
            raise InputMismatchError("signal: expected features in its contract, found none")
        return self.signal.features

    def _of(self, frames: np.ndarray) -> np.ndarray:
        features = self._features
        if features.kind == "micro-frontend":
            return self._micro_frontend(frames)[:, : features.coefficients]
        logarithms = np.log(np.maximum(self._bands(frames), _POWER_FLOOR))
        if features.kind == "mfcc":
            logarithms = logarithms @ _cosines(features.bands)
        return np.asarray(logarithms[:, : features.coefficients])

    def _bands(self, frames: np.ndarray) -> np.ndarray:
        """Return the power in each band, of a spectrum that is divided by its length."""
        features = self._features
        length = fft_length(features.frame_samples)
        spectrum = np.fft.rfft(frames * _hann(features.frame_samples), length, axis=1) / length
        power = spectrum.real**2 + spectrum.imag**2
        return np.asarray(power @ _mel_weights(features, self.signal.sample_rate_hz))

    def _micro_frontend(self, frames: np.ndarray) -> np.ndarray:
        bands = _FILTERBANK_SCALE * np.sqrt(self._bands(frames * _FULL_SCALE))
        smoothing = np.resize(np.array(_SMOOTHING), bands.shape[1])
        rows = np.empty_like(bands)
        noise = np.zeros(bands.shape[1]) if self._noise is None else self._noise
        for row, band in zip(rows, bands, strict=True):
            noise = smoothing * band + (1 - smoothing) * noise
            signal = np.maximum(band - noise, _SIGNAL_REMAINING * band)
            ratio = signal * _CORRECTION * (noise * _CORRECTION + _PCAN_OFFSET) ** -_PCAN_STRENGTH
            row[:] = np.where(ratio < 2, ratio**2 / 4, ratio - 1) * _PCAN_OUTPUT  # noqa: PLR2004 - where the two meet
        self._noise = noise
        return np.asarray(_FEATURE_SCALE * np.log(np.maximum(rows * _CORRECTION, 1.0)))


def window_rows(samples: np.ndarray, signal: SignalContract, rows: int) -> np.ndarray:
    """Return the features of one window by itself, for a model without state.

    Args:
        samples: float32, shape (samples,).
        signal: the contract; it has features.
        rows: that the input has; the last frame is repeated where there are fewer, and what is more is left out.

    Raises:
        InputMismatchError: the window is shorter than a frame.
    """
    found = FeatureStream(signal).rows(samples)
    if not len(found):
        raise InputMismatchError(f"signal: expected a whole frame, found {samples.size} samples")
    chosen = found[np.minimum(np.arange(rows), len(found) - 1)]
    return _stretch(chosen) if signal.features is not None and signal.features.stretched else chosen


def fft_length(frame_samples: int) -> int:
    """Return the length of a frame's spectrum: the next power of 2."""
    return 1 << (frame_samples - 1).bit_length()


def _stretch(rows: np.ndarray) -> np.ndarray:
    low, high = rows.min(), rows.max()
    return np.asarray((rows - low) / max(high - low, _POWER_FLOOR) * _BRIGHTEST)


@functools.cache
def _hann(length: int) -> np.ndarray:
    return np.asarray(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length))


@functools.cache
def _cosines(bands: int) -> np.ndarray:
    """Return the orthonormal DCT-II: shape (bands, coefficients)."""
    place, order = np.arange(bands)[:, None] + 0.5, np.arange(bands)[None, :]
    basis = np.cos(np.pi / bands * place * order) * np.sqrt(2 / bands)
    basis[:, 0] /= np.sqrt(2)
    return np.asarray(basis)


@functools.cache
def _mel_weights(features: SpectralFeatures, sample_rate_hz: int) -> np.ndarray:
    """Return triangles that overlap by half: shape (frequencies, bands)."""
    low, high = _mel(np.array([features.low_hz, features.high_hz]))
    corners = np.linspace(low, high, features.bands + 2)
    length = fft_length(features.frame_samples)
    mel = _mel(np.arange(length // 2 + 1) * sample_rate_hz / length)[:, None]
    rising = (mel - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - mel) / (corners[2:] - corners[1:-1])
    return np.asarray(np.clip(np.minimum(rising, falling), 0, 1))


def _mel(hz: np.ndarray) -> np.ndarray:
    return np.asarray(1127.0 * np.log1p(hz / 700.0))
