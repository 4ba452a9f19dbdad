"""The port that says which images a device may have booted."""

from collections.abc import Collection, Mapping
from typing import Protocol

from service.application.unit_of_work import UnitOfWork
from service.domain.attestation import ReferenceValue


class ReferenceValues(Protocol):
    """Reference values (RFC 9334 §4.1): image targets of the Image repository's metadata in force.

    The factory release is among them. Nothing but operator-signed metadata adds a value.
    """

    async def find(self, work: UnitOfWork, digests: Collection[str]) -> Mapping[str, ReferenceValue]:
        """Return the reference values of those digests that are listed.

        Args:
            work: the transaction that judges by them.
            digests: SHA-256 of image packages, lower-case hex.
        """
