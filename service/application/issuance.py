"""The port to the issuance log: every certificate that the service issues, in a chain of hashes (pki/issuance.py).

An entry is written in the transaction that issues; what is not committed has not been issued.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pki.issuance import CertificateFacts, LogEntry, LogHead
from service.domain.errors import ConflictError


class KeyReusedError(ConflictError):
    """Another operational certificate has this key."""


class LogHeadError(ConflictError):
    """The log has lost the row that says where it ends; nothing can be issued until somebody has looked why."""


@dataclass(frozen=True, slots=True)
class IssuerUse:
    """What an issuer has issued to devices.

    Attributes:
        issuer_sha256: of its certificate's DER, hex.
        certificates: how many.
        not_after: when the last of them ends, UTC.
    """

    issuer_sha256: str
    certificates: int
    not_after: datetime


class IssuanceLog(Protocol):
    """The service's issuance log."""

    async def append(self, facts: Sequence[CertificateFacts]) -> None:
        """Add entries; other writers wait until the transaction ends, so call it late and once.

        Raises:
            KeyReusedError: an LDevID's key has been certified before; nothing of the transaction may be committed.
            LogHeadError: the log does not say where it ends.
        """

    async def known_keys(self, key_sha256s: Collection[str], *, device_ids: Collection[str] = ()) -> set[str]:
        """Return which keys are not fresh.

        Args:
            key_sha256s: of keys' SubjectPublicKeyInfo, hex; returned if a certificate has been issued for the key.
            device_ids: the devices whose identity keys they would be (`VerifiedCsr.key_device_id`);
                returned if there is such a device.
        """

    async def issuer_of(self, key_sha256: str) -> str | None:
        """Return SHA-256 of the issuer's certificate, DER, hex, of the certificate for a key; None if there is none."""

    async def page(self, *, after: int, limit: int) -> tuple[Sequence[LogEntry], LogHead]:
        """Return at most `limit` entries beyond the sequence number `after`, and the log's head at that moment.

        Raises:
            LogHeadError: the log does not say where it ends.
        """

    async def uses(self) -> Sequence[IssuerUse]:
        """Return what each issuer has issued to devices; reads the whole log."""
