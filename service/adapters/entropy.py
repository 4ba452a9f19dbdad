"""Randomness of the operating system."""

import secrets
import uuid


class SystemEntropy:
    """The machine's source of randomness; implements `Entropy`."""

    def octets(self, count: int) -> bytes:
        """Return random bytes, fit for nonces and tokens."""
        return secrets.token_bytes(count)

    def guid(self) -> str:
        """Return a random GUID in canonical lower-case form."""
        return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
