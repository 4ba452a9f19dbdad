"""Which features a core computes from a window of a signal: what states must agree in to be comparable."""

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from protocol.document import Document, canonical_json

MAX_BANDS = 16
MIN_FEATURES = 3
MAX_FEATURES = MAX_BANDS + 2  # RMS and kurtosis
MAX_MEAN = 1000.0  # of natural logarithms of what float32 holds: |ln| stays below 104
FLOAT_BYTES = 4


class FeatureLayout(Document):
    """What is computed from a window; states of one layout are comparable.

    Attributes:
        version: of the computation.
        window_samples: of one axis; a power of two.
        rate_hz: samples a second.
        bands: logarithmic, between the frequencies below.
        low_hz: lowest frequency of the first band.
        high_hz: highest frequency of the last band.
    """

    version: Literal[1] = 1
    window_samples: Literal[64, 128, 256, 512]
    rate_hz: Annotated[int, Field(ge=1, le=96_000)]
    bands: Annotated[int, Field(ge=1, le=MAX_BANDS)]
    low_hz: Annotated[float, Field(gt=0, le=48_000)]
    high_hz: Annotated[float, Field(gt=0, le=48_000)]

    @model_validator(mode="after")
    def _check_bands(self) -> Self:
        low, high = self._bin(self.low_hz), self._bin(self.high_hz)
        if not 1 <= low <= high <= self.window_samples // 2 or high - low + 1 < self.bands:
            raise ValueError(
                f"expected at least {self.bands} of the frequencies from {self.rate_hz / self.window_samples:g} Hz to "
                f"{self.rate_hz / 2:g} Hz between low_hz and high_hz, found less, or frequencies outside"
            )
        return self

    @property
    def features(self) -> int:
        """How many features a window has."""
        return self.bands + 2

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON, lower-case hex."""
        return hashlib.sha256(canonical_json(self)).hexdigest()

    def edges(self) -> tuple[int, ...]:
        """Return the first spectrum line of each band, and the line behind the last band; each band has one at least.

        Lines are `rate_hz / window_samples` apart, line 0 is constant.
        """
        low, behind = self._bin(self.low_hz), self._bin(self.high_hz) + 1
        edges = [low]
        for band in range(1, self.bands):
            wanted = round(low * (behind / low) ** (band / self.bands))
            edges.append(min(max(wanted, edges[-1] + 1), behind - (self.bands - band)))
        return (*edges, behind)

    def _bin(self, hz: float) -> int:
        return round(hz * self.window_samples / self.rate_hz)
