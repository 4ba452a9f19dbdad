"""What a unit of work stores of revocations: the lists in force, and the certificates on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pki.revocation import Reason, Revocation


@dataclass(frozen=True, slots=True)
class StoredCrl:
    """A revocation list in force.

    Attributes:
        issuer_key_id: subject key identifier of the authority, hex.
        number: CRL number.
        der: the list.
        this_update: UTC.
        next_update: UTC.
    """

    issuer_key_id: str
    number: int
    der: bytes
    this_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True)
class RevokedCertificate:
    """A certificate on a list in force.

    Attributes:
        issuer_key_id: subject key identifier of its authority, hex.
        serial: lower-case hex.
        device_id: whose birth certificate it is; empty where the catalog has no such device.
        revoked_at: UTC.
    """

    issuer_key_id: str
    serial: str
    device_id: str
    revoked_at: datetime
    reason: Reason


class RevocationRepository(Protocol):
    """Revocation lists in force."""

    async def crls(self) -> Sequence[StoredCrl]:
        """Return every list in force."""

    async def crl(self, issuer_key_id: str) -> StoredCrl | None:
        """Return the list of one authority."""

    async def put_crl(self, crl: StoredCrl, *, replaces: int | None) -> None:
        """Store a list in the place of the one of number `replaces`; None if there is none yet.

        Raises:
            VersionConflictError: another list came first.
        """

    async def put(self, certificates: Sequence[RevokedCertificate]) -> None:
        """Store revoked certificates, or what has become of them."""

    async def remove(self, issuer_key_id: str, serials: Sequence[str]) -> None:
        """Delete certificates that were on hold and are released."""

    async def find(self, issuer_key_id: str, serial: str) -> RevokedCertificate | None:
        """Return a certificate if it is revoked."""

    async def shut_out(self, issuer_sha256: str, *, now: datetime) -> Mapping[int, Revocation]:
        """Return the unexpired LDevIDs of devices that may not connect, by serial number.

        Args:
            issuer_sha256: of the issuer's certificate, hex.
            now: UTC, aware.
        """

    async def of_device(self, device_id: str) -> RevokedCertificate | None:
        """Return a device's birth certificate if it is revoked."""
