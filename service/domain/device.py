"""A claimed device: its state, and which changes of it are allowed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.identity import Access, DeviceId
from protocol.voucher import public_keys
from service.domain.errors import ConflictError, InvalidError, NotFoundError


class UnknownDeviceError(NotFoundError):
    """No device of the catalog has this id."""


class AmbiguousDeviceError(InvalidError):
    """Several devices' ids begin so, or the beginning is too short to look up."""


class AlreadyClaimedError(ConflictError):
    """The device belongs to the catalog already."""


class FinalStateError(ConflictError):
    """The device has left the catalog or is out of service for good; nothing changes it any more."""


class DeviceState(StrEnum):
    """Where a device stands. One that is blocked, moved or decommissioned may not connect."""

    CLAIMED = "claimed"  # bound to the catalog, never attested
    ACTIVE = "active"  # attested at least once
    QUARANTINED = "quarantined"  # its certificate reaches the update path alone
    REFUSED = "refused"  # it had a certificate and then showed what it may not boot: it may attest, no more
    BLOCKED = "blocked"  # until an operator unblocks it
    MOVED = "moved"  # to another catalog
    DECOMMISSIONED = "decommissioned"  # for good: it is never admitted or claimed again

    @property
    def may_connect(self) -> bool:
        """Whether a device in this state is let in, at least to attest."""
        return self not in _SHUT_OUT

    @property
    def is_final(self) -> bool:
        """Whether the catalog can do nothing more with the device."""
        return self in _FINAL


_FINAL = frozenset({DeviceState.MOVED, DeviceState.DECOMMISSIONED})
_SHUT_OUT = _FINAL | {DeviceState.BLOCKED}


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
        access: how far it reaches; None before the first one, and since what it booted was refused.
        evidence: the last fresh token that the device signed, whatever came of it.
        evidence_at: when it came, UTC.
        voucher: copy of the voucher that the manufacturer's authority signed, DSSE envelope.
        boot_seeds: of the last boots that attested, hex, each once, newest last.
        clone_suspected_at: since when two live devices seem to hold its identity, UTC; None while nothing says so.
        clone_detail: the evidence for it, for an operator to read.
        decommissioned_at: since when it is out of service for good, UTC.
        moved_at: since when it belongs to another catalog, UTC.
        moved_to: that catalog.
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
    access: Access | None = None
    evidence: bytes | None = None
    evidence_at: datetime | None = None
    voucher: bytes | None = None
    boot_seeds: tuple[str, ...] = ()
    clone_suspected_at: datetime | None = None
    clone_detail: str = ""
    decommissioned_at: datetime | None = None
    moved_at: datetime | None = None
    moved_to: str = ""
    version: int = 1

    @property
    def state(self) -> DeviceState:
        """Where the device stands."""
        if self.decommissioned_at is not None:
            return DeviceState.DECOMMISSIONED
        if self.moved_at is not None:
            return DeviceState.MOVED
        if self.blocked_at is not None:
            return DeviceState.BLOCKED
        if self.access is Access.UPDATE_ONLY:
            return DeviceState.QUARANTINED
        if self.access is None and self.certificate_serial is not None:
            return DeviceState.REFUSED
        return DeviceState.CLAIMED if self.activated_at is None else DeviceState.ACTIVE

    @property
    def idevid_serial(self) -> str:
        """Serial of the birth certificate, lower-case hex: what to revoke when the device is gone for good.

        Empty for a device that was put into the registry without one.
        """
        if not self.idevid_chain:
            return ""
        return f"{x509.load_pem_x509_certificates(self.idevid_chain.encode())[0].serial_number:x}"

    @property
    def identity_public_key(self) -> ec.EllipticCurvePublicKey:
        """The key that signs evidence and version manifests."""
        return public_keys([self.identity_key])[0]

    def block(self, reason: str, at: datetime) -> "Device":
        """Return the device blocked; a second block changes nothing.

        Raises:
            FinalStateError: it was moved or decommissioned.
        """
        self.check_present()
        if self.blocked_at is not None:
            return self
        return _changed(self, blocked_at=at, blocked_reason=reason, version=self.version + 1)

    def unblock(self) -> "Device":
        """Return the device as it was before it was blocked; whether it is a clone stays as suspected.

        Raises:
            FinalStateError: it was moved or decommissioned.
        """
        self.check_present()
        if self.blocked_at is None:
            return self
        return _changed(self, blocked_at=None, blocked_reason="", version=self.version + 1)

    def move(self, group_id: str) -> "Device":
        """Return the device in another group.

        Raises:
            FinalStateError: it was moved to another catalog, or decommissioned.
        """
        self.check_present()
        if group_id == self.group_id:
            return self
        return _changed(self, group_id=group_id, version=self.version + 1)

    def annotate(self) -> "Device":
        """Return the device as one whose attributes an operator changed.

        Raises:
            FinalStateError: it was moved to another catalog, or decommissioned.
        """
        self.check_present()
        return _changed(self, version=self.version + 1)

    def decommission(self, at: datetime) -> "Device":
        """Return the device out of service for good.

        Raises:
            FinalStateError: it was moved or decommissioned before.
        """
        self.check_present()
        return _changed(self, decommissioned_at=at, version=self.version + 1)

    def depart(self, catalog: str, at: datetime) -> "Device":
        """Return the device as one that belongs to another catalog from now on.

        Args:
            catalog: which, for an operator to read; at most 200 characters.
            at: UTC, aware.

        Raises:
            FinalStateError: it was moved or decommissioned before.
        """
        self.check_present()
        return _changed(self, moved_at=at, moved_to=catalog, version=self.version + 1)

    def boot(self, boot_seeds: Sequence[str]) -> "Device":
        """Return the device with the seeds of its last boots."""
        return _changed(self, boot_seeds=tuple(boot_seeds))

    def suspect(self, detail: str, at: datetime) -> "Device":
        """Return the device as one that two seem to be; the first evidence stays until an operator clears it."""
        if self.clone_suspected_at is not None:
            return self
        return _changed(self, clone_suspected_at=at, clone_detail=detail)

    def clear_suspicion(self) -> "Device":
        """Return the device without the suspicion; the boots that it rests on are forgotten.

        Raises:
            FinalStateError: it was moved or decommissioned; its history stays as it was.
        """
        self.check_present()
        if self.clone_suspected_at is None:
            return self
        return _changed(self, clone_suspected_at=None, clone_detail="", boot_seeds=(), version=self.version + 1)

    def check_present(self) -> None:
        """Let a device pass that the catalog can still do something with.

        Raises:
            FinalStateError: it was moved to another catalog, or decommissioned.
        """
        if self.state.is_final:
            raise FinalStateError(f"device {self.device_id[:16]}…: expected one of the catalog, found it {self.state}")

    def show(self, evidence: bytes, at: datetime) -> "Device":
        """Return the device with fresh evidence of what it booted."""
        return _changed(self, evidence=evidence, evidence_at=at)

    def refuse(self) -> "Device":
        """Return the device without access, whatever certificate it has, until it is certified again."""
        return _changed(self, access=None)

    def certify(
        self,
        serial: str,
        *,
        evidence: bytes,
        key_sha256: str,
        not_after: datetime,
        at: datetime,
        access: Access = Access.FULL,
    ) -> "Device":
        """Return the device with a new LDevID for fresh evidence; the first one of full access makes it active."""
        return _changed(
            self,
            evidence=evidence,
            evidence_at=at,
            certificate_serial=serial,
            certificate_key_sha256=key_sha256,
            certificate_not_after=not_after,
            access=access,
            activated_at=self.activated_at or (at if access is Access.FULL else None),
        )


_NAMES = tuple(field.name for field in fields(Device))
_values = attrgetter(*_NAMES)


def _changed(device: Device, **changes: Any) -> Device:  # noqa: ANN401 - whatever the attributes are
    """Do as `dataclasses.replace`, in half its time: it is done for every attestation."""
    values = dict(zip(_NAMES, _values(device), strict=True))
    values.update(changes)
    return Device(**values)
