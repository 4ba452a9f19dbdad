"""Features of a window of vibration or sound, float32 as on the M4F: bands, RMS, kurtosis (`protocol.feature_layout`).

Of n samples, with x the window less its mean and w the periodic Hann window:
    bands     ln(Σ |rfft(x·w)|² / n + POWER_FLOOR) over the lines of each band;
    RMS       ln(mean(x²) + POWER_FLOOR) / 2;
    kurtosis  ln(mean(x⁴) / (mean(x²)² + POWER_FLOOR²) + KURTOSIS_FLOOR): a sine has 1.5, noise 3, impacts more.
"""

import numpy as np

from protocol.feature_layout import FeatureLayout
from tinyml.errors import InputMismatchError

POWER_FLOOR = np.float32(1e-9)
KURTOSIS_FLOOR = np.float32(1e-3)
MAX_SAMPLE = 1e6  # its fourth power, summed, is far from float32's end


class FeatureExtractor:
    """Computes the features of one layout; tables are made once, as they lie in the flash of a core."""

    def __init__(self, layout: FeatureLayout) -> None:
        self._samples = layout.window_samples
        self._hann = np.hanning(layout.window_samples + 1)[:-1].astype(np.float32)
        *self._starts, self._end = layout.edges()

    def features(self, window: np.ndarray) -> np.ndarray:
        """Return the features of a window, float32, shape (bands + 2,).

        Args:
            window: samples, float32, shape (window_samples,).

        Raises:
            InputMismatchError: another shape or type, a sample that is no number or beyond ±`MAX_SAMPLE`.
        """
        self._check(window)
        centred = window - window.mean()
        lines = np.fft.rfft(centred * self._hann)[: self._end]
        power = (lines.real**2 + lines.imag**2) / np.float32(self._samples)
        squares = centred**2
        mean_square = squares.mean()
        kurtosis = (squares**2).mean() / (mean_square**2 + POWER_FLOOR**2)
        values = [*np.add.reduceat(power, self._starts) + POWER_FLOOR, mean_square + POWER_FLOOR]
        features = np.log(np.array([*values, kurtosis + KURTOSIS_FLOOR], dtype=np.float32))
        features[-2] /= 2
        return features

    def _check(self, window: np.ndarray) -> None:
        if window.shape != (self._samples,) or window.dtype != np.float32:
            raise InputMismatchError(
                f"window: expected float32 of shape ({self._samples},), found {window.dtype} of shape {window.shape}"
            )
        if not (np.abs(window) <= MAX_SAMPLE).all():  # a NaN is not
            raise InputMismatchError(f"window: expected samples within ±{MAX_SAMPLE:g}, found another")
