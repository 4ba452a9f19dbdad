"""Pauses between attempts: they double up to a limit, and jitter keeps a fleet from knocking all at once."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to pause after the n-th failed attempt.

    Attributes:
        first_seconds: longest pause after the first failure.
        limit_seconds: longest pause ever.
        rng: seeded, of the device.
    """

    first_seconds: float
    limit_seconds: float
    rng: random.Random

    def pause_seconds(self, failures: int) -> float:
        """Return a pause between half and all of min(limit, first · 2^(failures − 1))."""
        doublings = min(max(failures - 1, 0), 32)  # beyond it every limit is reached
        longest = min(self.limit_seconds, self.first_seconds * float(1 << doublings))
        return longest * self.rng.uniform(0.5, 1.0)
