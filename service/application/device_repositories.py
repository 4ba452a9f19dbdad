"""What a unit of work stores of operators, products, devices and their attestation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from protocol.identity import DeviceId
from service.domain.approval import Approval
from service.domain.attestation import Appraisal, Verdict
from service.domain.attestation_policy import AttestationPolicy
from service.domain.device import Device, DeviceState
from service.domain.operator import Operator
from service.domain.product import DeviceGroup, Product


class OperatorRepository(Protocol):
    """Operators; few enough to read them all."""

    async def all(self) -> Sequence[Operator]:
        """Return every operator, by name."""

    async def add(self, operator: Operator) -> None:
        """Store a new operator.

        Raises:
            NameTakenError: an operator of this name exists.
        """

    async def remove(self, operator_id: str) -> None:
        """Delete an operator."""


class ProductRepository(Protocol):
    """Products and their device groups."""

    async def add(self, product: Product, groups: Sequence[DeviceGroup]) -> None:
        """Store a new product with its groups.

        Raises:
            NameTakenError: a product of this name exists.
        """

    async def add_group(self, group: DeviceGroup) -> None:
        """Store a new device group.

        Raises:
            NameTakenError: the product has a group of this name.
        """

    async def get(self, id_or_name: str) -> Product:
        """Return a product by GUID or name.

        Raises:
            UnknownProductError: there is none.
        """

    async def get_group(self, id_or_name: str, *, product_id: str | None = None) -> DeviceGroup:
        """Return a device group by GUID, or by its name within a product.

        Raises:
            UnknownGroupError: there is none.
            AmbiguousGroupError: several products have a group of this name.
        """

    async def attestation_policies(self, group_ids: Collection[str]) -> Mapping[str, AttestationPolicy]:
        """Return the attestation policies of device groups, by GUID."""

    async def page(self, *, after_name: str | None, limit: int) -> Sequence[Product]:
        """Return at most `limit` products by name, beyond `after_name`."""

    async def page_groups(
        self, *, after_id: str | None, limit: int, product_id: str | None = None, name: str | None = None
    ) -> Sequence[DeviceGroup]:
        """Return at most `limit` groups by id, beyond `after_id`."""

    async def save(self, product: Product, *, replaces_version: int) -> None:
        """Store a changed product.

        Raises:
            VersionConflictError: another change came first.
            NameTakenError: a product of this name exists.
        """

    async def save_group(self, group: DeviceGroup, *, replaces_version: int) -> None:
        """Store a changed group; errors as `save`."""


class DeviceRepository(Protocol):
    """Claimed devices."""

    async def add(self, device: Device) -> None:
        """Store a newly claimed device.

        Raises:
            AlreadyClaimedError: it is claimed.
        """

    async def reclaim(self, device: Device) -> None:
        """Store a device that comes back from another catalog as a newly claimed one.

        Raises:
            AlreadyClaimedError: it is here, or out of service for good.
        """

    async def find(self, device_id: str) -> Device | None:
        """Return a device by its full id, or None."""

    async def find_many(self, device_ids: Collection[str], *, lock: bool = False) -> Mapping[str, Device]:
        """Return those of the devices that are there, by id; `lock` keeps others from changing them meanwhile."""

    async def of_idevids_locked(self, serials: Sequence[str]) -> Sequence[Device]:
        """Return the devices whose birth certificates have these serial numbers, locked until the transaction ends.

        Args:
            serials: lower-case hex; of whichever issuer.
        """

    async def get(self, id_or_prefix: str) -> Device:
        """Return a device by its id or a unique beginning of at least 8 digits.

        Raises:
            UnknownDeviceError: there is none.
            AmbiguousDeviceError: several begin so.
        """

    async def page(
        self,
        *,
        after_id: str | None,
        limit: int,
        group_id: str | None = None,
        state: DeviceState | None = None,
        suspected_clone: bool | None = None,
    ) -> Sequence[Device]:
        """Return at most `limit` devices by id, beyond `after_id`; None stands for all."""

    async def save(self, device: Device, *, replaces_version: int) -> None:
        """Store an operator's change: state, group, voucher; not what attestation or clone detection write.

        Raises:
            VersionConflictError: another change came first.
        """

    async def save_suspicion(self, device: Device) -> None:
        """Store boot seeds and the suspicion of a clone; not an operator's change."""

    async def save_attested(self, attested: Sequence[Device]) -> None:
        """Store what attestation changes: state, certificate, access, evidence, boot seeds; not an operator's change.

        Args:
            attested: as they were read by `find_many`, locked, in this transaction, and changed.
        """

    async def last_seen(self, group_id: str, device_ids: Collection[str]) -> Mapping[str, datetime]:
        """Return when devices were last heard of; members of the group that ever were alone."""

    async def touch(self, last_seen: Mapping[str, datetime]) -> None:
        """Store when devices were last heard of, in one batch."""

    async def counts(self) -> Mapping[DeviceState, int]:
        """Return how many devices are in each state."""

    async def sum_up_counts(self, *, limit: int) -> int:
        """Take at most `limit` changes of how many devices there are into the counts by group and place.

        Returns:
            How many there were. Counts are exact before and after; they only cost less to read.
        """

    async def count_suspected(self) -> int:
        """Return how many devices are suspected to be clones."""

    async def standings(self) -> Sequence[tuple[str, DeviceState]]:
        """Return (device id, state) of every device; read once, at start."""


class NoncePurpose(StrEnum):
    """What a nonce is for; evidence over one for another purpose is refused."""

    ATTEST = "attest"
    EST = "est"


@dataclass(frozen=True, slots=True)
class IssuedNonce:
    """A nonce as it was given to a device.

    Attributes:
        nonce: 32 bytes.
        expires_at: UTC, aware.
    """

    device_id: str
    purpose: NoncePurpose
    nonce: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AttestationRecord:
    """A device's attestation result and how long it has been the same.

    Attributes:
        record_id: rises with each change of any device's result.
        appraisal: each finding says since when it is the same.
        since: first time with these findings, UTC.
        last_at: last time with these findings, UTC.
        times: how often in a row.
    """

    record_id: int
    device_id: str
    appraisal: Appraisal
    since: datetime
    last_at: datetime
    times: int


class AttestationRepository(Protocol):
    """Nonces and attestation results."""

    async def put_nonces(self, nonces: Sequence[IssuedNonce]) -> None:
        """Store nonces, each in the place of any earlier one of its device and purpose."""

    async def take_nonces(
        self, wanted: Collection[tuple[str, NoncePurpose]], *, now: datetime
    ) -> Mapping[tuple[str, NoncePurpose], bytes]:
        """Remove the nonces of (device id, purpose) and return those that have not expired.

        Atomic: of two callers at once, in whatever process, one gets a nonce.
        """

    async def prune_nonces(self, *, now: datetime) -> None:
        """Delete nonces that expired."""

    async def record(self, results: Mapping[str, Appraisal], *, at: datetime) -> Sequence[str]:
        """Store results by device id; equal findings as the last time extend a device's record.

        The latest result of a device is the last one that judged it. A refusal before any judgement is history alone,
        unless the device was never judged.

        Args:
            results: one for each device.
            at: UTC, aware.

        Returns:
            Ids of the devices whose result is another than the last time; one that judges, than the last that did.
        """

    async def latest(self, device_id: str) -> AttestationRecord | None:
        """Return the device's latest result, by which it stands, or None."""

    async def newest(self, device_id: str) -> AttestationRecord | None:
        """Return the device's last result, refusals before any judgement included, or None."""

    async def page_latest(
        self, *, after_device_id: str | None, limit: int, verdict: Verdict | None = None
    ) -> Sequence[AttestationRecord]:
        """Return at most `limit` devices' latest results, by device id."""

    async def page_history(self, device_id: str, *, before_id: int | None, limit: int) -> Sequence[AttestationRecord]:
        """Return at most `limit` records of one device, newest first."""

    async def counts(self) -> Mapping[Verdict, int]:
        """Return how many devices' latest result each verdict is."""


class ClaimRepository(Protocol):
    """Challenges for claims and their single use per device."""

    async def add_challenge(self, challenge: bytes, *, expires_at: datetime) -> None:
        """Store a challenge."""

    async def challenges(self, *, now: datetime) -> Sequence[bytes]:
        """Return the challenges that have not expired."""

    async def use(self, challenge: bytes, device_id: DeviceId) -> bool:
        """Mark a challenge as used by a device; False if it was."""

    async def prune(self, *, now: datetime) -> None:
        """Delete what expired."""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What an idempotency key stands for.

    Attributes:
        request_sha256: hash of method, path and body, hex.
        status: of the answer; None while the first request is not done.
        body: of the answer.
    """

    request_sha256: str
    status: int | None
    headers: Mapping[str, str]
    body: bytes


class IdempotencyRepository(Protocol):
    """Answers to creating requests by (operator, idempotency key)."""

    async def reserve(self, operator: str, key: str, *, request_sha256: str, at: datetime) -> StoredAnswer | None:
        """Reserve a key; None if it is new, else what is stored under it."""

    async def complete(self, operator: str, key: str, answer: StoredAnswer) -> None:
        """Store the answer of a reserved key."""

    async def release(self, operator: str, key: str) -> None:
        """Give a reserved key back, because the request changed nothing."""

    async def prune(self, before: datetime) -> None:
        """Delete keys that were reserved before a time."""


class ApprovalRepository(Protocol):
    """Requests; part of a unit of work."""

    async def add(self, approval: Approval) -> bool:
        """Store a new request; False if one of this action on this subject is pending, expired or not."""

    async def get(self, approval_id: str) -> Approval:
        """Return a request.

        Raises:
            UnknownApprovalError: there is none.
        """

    async def pending_on(self, action: str, subject_id: str) -> Approval | None:
        """Return the request of this action on this subject that is pending, expired or not."""

    async def close(self, approval: Approval) -> bool:
        """Store a decision; False if the request is no longer pending. Of two at once, one gets True."""

    async def expired(self, *, now: datetime, limit: int) -> Sequence[Approval]:
        """Return at most `limit` requests that are still pending and whose time is over."""

    async def forget(self, *, decided_before: datetime) -> None:
        """Delete requests that were closed before a time."""

    async def page(
        self, *, before: tuple[datetime, str] | None, limit: int, pending_at: datetime | None = None
    ) -> Sequence[Approval]:
        """Return at most `limit` requests, newest first, beyond (requested at, id).

        With a time, those alone that are pending at it.
        """
