"""Randomness of the virtual service, which a seed repeats."""

import random
import uuid


class SeededEntropy:
    """Implements the service's `Entropy`.

    Args:
        seed: of the scenario.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"{seed}/service/")  # noqa: S311 - a seeded simulation, no key

    def octets(self, count: int) -> bytes:
        """See `Entropy.octets`."""
        return self._random.randbytes(count)

    def guid(self) -> str:
        """See `Entropy.guid`."""
        return str(uuid.UUID(bytes=self.octets(16), version=4))
