"""A claimed device: its state, and which changes of it are allowed."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from protocol.identity import DeviceId
from protocol.voucher import public_keys
from service.domain.errors import ConflictError, InvalidError, NotFoundError


class UnknownDeviceError(NotFoundError):
    """No device of the catalog has this id."""


class AmbiguousDeviceError(InvalidError):
    """Several devices' ids begin so, or the beginning is too short to look up."""


class AlreadyClaimedError(ConflictError):
    """The device belongs to the catalog already."""


class DeviceState(StrEnum):
    """Where a device stands."""

    CLAIMED = "claimed"  # bound to the catalog, never attested
    ACTIVE = "active"  # attested at least once
    BLOCKED = "blocked"  # may not connect


@dataclass(frozen=True, slots=True)
class Device:
    """A device of the catalog.

    Attributes:
        device_id: 128 hex digits.
        group_id: GUID of its device group.
        identity_key: DER SubjectPublicKeyInfo of its identity key; signs evidence and version manifests.
        idevid_chain: PEM, leaf first, as it was proven at claim.
        activated_at: first accepted attestation, UTC.
        blocked_at: since when it is blocked, UTC; None while it is not.
        last_seen_at: UTC; up to one flush older than what the process knows.
        certificate_serial: serial of the LDevID in force, hex.
        certificate_key_sha256: of its key's DER SubjectPublicKeyInfo, hex.
        certificate_not_after: its end, UTC.
        voucher: copy of the voucher that the manufacturer's authority signed, DSSE envelope.
        version: rises with each change by an operator; the ETag.
    """

    device_id: DeviceId
    group_id: str
    identity_key: bytes
    idevid_chain: str
    claimed_at: datetime
    claimed_by: str
    activated_at: datetime | None = None
    blocked_at: datetime | None = None
    blocked_reason: str = ""
    last_seen_at: datetime | None = None
    certificate_serial: str | None = None
    certificate_key_sha256: str | None = None
    certificate_not_after: datetime | None = None
    voucher: bytes | None = None
    version: int = 1

    @property
    def state(self) -> DeviceState:
        """Where the device stands."""
        if self.blocked_at is not None:
            return DeviceState.BLOCKED
        return DeviceState.CLAIMED if self.activated_at is None else DeviceState.ACTIVE

    @property
    def identity_public_key(self) -> ec.EllipticCurvePublicKey:
        """The key that signs evidence and version manifests."""
        return public_keys([self.identity_key])[0]

    def block(self, reason: str, at: datetime) -> "Device":
        """Return the device blocked; a second block changes nothing."""
        if self.blocked_at is not None:
            return self
        return replace(self, blocked_at=at, blocked_reason=reason, version=self.version + 1)

    def unblock(self) -> "Device":
        """Return the device as it was before it was blocked."""
        if self.blocked_at is None:
            return self
        return replace(self, blocked_at=None, blocked_reason="", version=self.version + 1)

    def move(self, group_id: str) -> "Device":
        """Return the device in another group."""
        if group_id == self.group_id:
            return self
        return replace(self, group_id=group_id, version=self.version + 1)

    def certify(self, serial: str, *, key_sha256: str, not_after: datetime, at: datetime) -> "Device":
        """Return the device with a new LDevID; the first one makes it active."""
        return replace(
            self,
            certificate_serial=serial,
            certificate_key_sha256=key_sha256,
            certificate_not_after=not_after,
            activated_at=self.activated_at or at,
        )
