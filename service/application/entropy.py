"""The port through which the service gets randomness."""

from typing import Protocol


class Entropy(Protocol):
    """Source of unpredictable values; seeded in tests."""

    def octets(self, count: int) -> bytes:
        """Return random bytes, fit for nonces and tokens."""

    def guid(self) -> str:
        """Return a random GUID in canonical lower-case form."""
