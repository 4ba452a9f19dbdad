"""Products, devices, nonces, attestation results and issued keys in memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from pki.issuance import CertificateFacts
from service.application.device_repositories import AttestationRecord, IssuedNonce, NoncePurpose
from service.application.issuance import KeyReusedError
from service.domain.attestation import Appraisal, Finding
from service.domain.attestation_policy import AttestationPolicy
from service.domain.device import AlreadyClaimedError, Device, DeviceState, UnknownDeviceError
from service.domain.errors import NameTakenError, VersionConflictError
from service.domain.membership import ENROLLED_STATES
from service.domain.product import AmbiguousGroupError, DeviceGroup, Product, UnknownGroupError, UnknownProductError
from simulation.storage.journal import Journal, Partial
from simulation.storage.sorted_ids import SortedIds

_BY_OPERATORS = (
    "group_id",
    "blocked_at",
    "blocked_reason",
    "voucher",
    "decommissioned_at",
    "moved_at",
    "moved_to",
    "version",
)
_BY_ATTESTATION = (
    "certificate_serial",
    "certificate_key_sha256",
    "certificate_not_after",
    "access",
    "evidence",
    "evidence_at",
    "activated_at",
    "boot_seeds",
    "clone_suspected_at",
    "clone_detail",
)
_BY_SUSPICION = ("boot_seeds", "clone_suspected_at", "clone_detail")


class MemoryProducts(Partial):
    """Implements `ProductRepository` as far as it is reached."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._products: dict[str, Product] = {}
        self._groups: dict[str, DeviceGroup] = {}

    async def add(self, product: Product, groups: Sequence[DeviceGroup]) -> None:
        """See `ProductRepository.add`."""
        if any(known.name == product.name for known in self._products.values()):
            raise NameTakenError(f"product: expected a name that is free, found {product.name!r}")
        self._journal.put(self._products, product.product_id, product)
        for group in groups:
            await self.add_group(group)

    async def add_group(self, group: DeviceGroup) -> None:
        """See `ProductRepository.add_group`."""
        if any((known.product_id, known.name) == (group.product_id, group.name) for known in self._groups.values()):
            raise NameTakenError(f"group: expected a name that is free, found {group.name!r}")
        self._journal.put(self._groups, group.group_id, group)

    async def get(self, id_or_name: str) -> Product:
        """See `ProductRepository.get`."""
        found = self._products.get(id_or_name)
        found = found or next((known for known in self._products.values() if known.name == id_or_name), None)
        if found is None:
            raise UnknownProductError(f"product: expected an id or name in use, found {id_or_name[:60]!r}")
        return found

    async def get_group(self, id_or_name: str, *, product_id: str | None = None) -> DeviceGroup:
        """See `ProductRepository.get_group`."""
        if id_or_name in self._groups:
            return self._groups[id_or_name]
        of_name = [known for known in self._groups.values() if known.name == id_or_name]
        found = [known for known in of_name if product_id in (None, known.product_id)]
        if not found:
            raise UnknownGroupError(f"group: expected an id or name in use, found {id_or_name[:60]!r}")
        if len(found) > 1:
            raise AmbiguousGroupError(f"group: expected a name of one product's, found {id_or_name!r} in several")
        return found[0]

    async def attestation_policies(self, group_ids: Collection[str]) -> Mapping[str, AttestationPolicy]:
        """See `ProductRepository.attestation_policies`."""
        return {id_: self._groups[id_].policy.attestation for id_ in group_ids if id_ in self._groups}


class MemoryDevices(Partial):
    """Implements `DeviceRepository` as far as it is reached.

    Lists of members may name devices that are members no more.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, Device] = {}
        self._seen: dict[str, datetime] = {}  # beside the rows: a check-in costs no row
        self._members: dict[str, SortedIds] = {}  # by group

    async def add(self, device: Device) -> None:
        """See `DeviceRepository.add`."""
        if device.device_id in self._rows:
            raise AlreadyClaimedError(
                f"device {device.device_id[:16]}…: expected an unclaimed device, found it claimed"
            )
        self._put(device)

    async def find(self, device_id: str) -> Device | None:
        """See `DeviceRepository.find`."""
        device = self._rows.get(device_id)
        return None if device is None else self._with_seen(device)

    async def find_many(self, device_ids: Collection[str], *, lock: bool = False) -> Mapping[str, Device]:
        """See `DeviceRepository.find_many`; nothing runs beside a unit of work, so locks are not needed."""
        del lock
        return {id_: self._with_seen(self._rows[id_]) for id_ in sorted(device_ids) if id_ in self._rows}

    async def get(self, id_or_prefix: str) -> Device:
        """See `DeviceRepository.get`; by full ids alone."""
        device = await self.find(id_or_prefix)
        if device is None:
            raise UnknownDeviceError(f"device: expected one of the catalog, found none of id {id_or_prefix[:16]!r}")
        return device

    async def save(self, device: Device, *, replaces_version: int) -> None:
        """See `DeviceRepository.save`."""
        row = self._rows.get(device.device_id)
        if row is None or (row.version, row.access, row.activated_at) != (
            replaces_version,
            device.access,
            device.activated_at,
        ):
            raise VersionConflictError(f"version: expected {replaces_version} in force, found another")
        self._change(device, _BY_OPERATORS)

    async def save_suspicion(self, device: Device) -> None:
        """See `DeviceRepository.save_suspicion`."""
        self._change(device, _BY_SUSPICION)

    async def save_attested(self, attested: Sequence[Device]) -> None:
        """See `DeviceRepository.save_attested`."""
        for device in attested:
            self._change(device, _BY_ATTESTATION)

    async def last_seen(self, group_id: str, device_ids: Collection[str]) -> Mapping[str, datetime]:
        """See `DeviceRepository.last_seen`."""
        members = (device_id for device_id in device_ids if self.is_member(group_id, device_id))
        return {device_id: self._seen[device_id] for device_id in members if device_id in self._seen}

    async def touch(self, last_seen: Mapping[str, datetime]) -> None:
        """See `DeviceRepository.touch`."""
        for device_id, at in last_seen.items():
            if device_id in self._rows:
                self._journal.put(self._seen, device_id, at)

    async def sum_up_counts(self, *, limit: int) -> int:  # noqa: ARG002 - the port's
        """See `DeviceRepository.sum_up_counts`: each device has its row."""
        return 0

    async def standings(self) -> Sequence[tuple[str, DeviceState]]:
        """See `DeviceRepository.standings`."""
        return [(device_id, device.state) for device_id, device in self._rows.items()]

    def members(self, group_id: str, *, begins: str) -> list[str]:
        """See `ActionRepository.members`."""
        ids = self._members.setdefault(group_id, SortedIds()).beginning(begins)
        return [device_id for device_id in ids if self.is_member(group_id, device_id)]

    def is_member(self, group_id: str, device_id: str) -> bool:
        """Say whether a device is of a group, has attested, and is not shut out."""
        device = self._rows.get(device_id)
        return device is not None and device.group_id == group_id and device.state in ENROLLED_STATES

    def _with_seen(self, device: Device) -> Device:
        """Return a device with its last-seen time, which the row then holds, too: it is no change of the device."""
        seen = self._seen.get(device.device_id)
        if seen is not None and seen is not device.last_seen_at:
            device = self._rows[device.device_id] = replace(device, last_seen_at=seen)
        return device

    def _change(self, device: Device, names: Sequence[str]) -> None:
        row = self._rows.get(device.device_id)
        if row is not None:
            self._put(replace(row, **{name: getattr(device, name) for name in names}), before=row)

    def _put(self, device: Device, *, before: Device | None = None) -> None:
        self._journal.put(self._rows, device.device_id, device)
        was_member = before is not None and before.state in ENROLLED_STATES and before.group_id == device.group_id
        if device.state in ENROLLED_STATES and not was_member:
            self._members.setdefault(device.group_id, SortedIds()).add(device.device_id)


class MemoryAttestations(Partial):
    """Implements `AttestationRepository` as far as it is reached: nonces, and each device's latest and newest result.

    First results that are equal are one object; a finding that says no date is as old as its record.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._nonces: dict[tuple[str, NoncePurpose], IssuedNonce] = {}
        self._latest: dict[str, AttestationRecord] = {}
        self._since_latest: dict[str, AttestationRecord] = {}  # what refused a device since it was judged
        self._same: dict[Appraisal, Appraisal] = {}
        self._numbers: dict[str, int] = {"record": 0}

    async def put_nonces(self, nonces: Sequence[IssuedNonce]) -> None:
        """See `AttestationRepository.put_nonces`."""
        for nonce in nonces:
            self._journal.put(self._nonces, (nonce.device_id, nonce.purpose), nonce)

    async def take_nonces(
        self, wanted: Collection[tuple[str, NoncePurpose]], *, now: datetime
    ) -> Mapping[tuple[str, NoncePurpose], bytes]:
        """See `AttestationRepository.take_nonces`."""
        found = {key: self._nonces[key] for key in wanted if key in self._nonces}
        for key in found:
            self._journal.remove(self._nonces, key)
        return {key: nonce.nonce for key, nonce in found.items() if nonce.expires_at > now}

    async def record(self, results: Mapping[str, Appraisal], *, at: datetime) -> Sequence[str]:
        """See `AttestationRepository.record`."""
        changed: list[str] = []
        for device_id, appraisal in results.items():
            latest = self._latest.get(device_id)
            newest = self._since_latest.get(device_id, latest)
            before = latest if appraisal.is_judged else newest
            if before is None or before.appraisal != appraisal:
                changed.append(device_id)
            if newest is not None and newest.appraisal == appraisal:
                self._put(replace(newest, last_at=at, times=newest.times + 1))
            else:
                self._put(self._new(device_id, appraisal, before=before, at=at))
        return changed

    def _new(
        self, device_id: str, appraisal: Appraisal, *, before: AttestationRecord | None, at: datetime
    ) -> AttestationRecord:
        number = self._numbers["record"] + 1
        self._journal.put(self._numbers, "record", number)
        found = self._same.setdefault(appraisal, appraisal) if before is None else _dated(appraisal, before)
        return AttestationRecord(number, device_id, found, since=at, last_at=at, times=1)

    def _put(self, record: AttestationRecord) -> None:
        device_id, latest = record.device_id, self._latest.get(record.device_id)
        if not record.appraisal.is_judged and latest is not None and latest.appraisal.is_judged:
            self._journal.put(self._since_latest, device_id, record)
            return
        self._journal.put(self._latest, device_id, record)
        if device_id in self._since_latest:
            self._journal.remove(self._since_latest, device_id)

    async def latest(self, device_id: str) -> AttestationRecord | None:
        """See `AttestationRepository.latest`."""
        return _shown(self._latest.get(device_id))

    async def newest(self, device_id: str) -> AttestationRecord | None:
        """See `AttestationRepository.newest`."""
        return _shown(self._since_latest.get(device_id) or self._latest.get(device_id))


def _shown(record: AttestationRecord | None) -> AttestationRecord | None:
    """Return a record whose findings say since when they are the same."""
    if record is None:
        return None
    findings = tuple(_since(finding, record.since) for finding in record.appraisal.findings)
    return replace(record, appraisal=Appraisal(findings, record.appraisal.verdict))


def _since(finding: Finding, record_since: datetime) -> Finding:
    """Return a finding that says since when it is the same."""
    if finding.since is not None:
        return finding
    return Finding(
        finding.component,
        finding.expected,
        finding.found,
        finding.status,
        finding.digest,
        healable=finding.healable,
        since=record_since,
    )


def _dated(appraisal: Appraisal, last: AttestationRecord) -> Appraisal:
    """Return a result whose findings say since when they are the same; those that are new say nothing."""
    before = {finding: finding.since or last.since for finding in last.appraisal.findings}
    return replace(
        appraisal, findings=tuple(replace(finding, since=before.get(finding)) for finding in appraisal.findings)
    )


class MemoryIssuance(Partial):
    """Implements `IssuanceLog` as far as it is reached: which keys were certified; the entries are not kept."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._keys: dict[str, None] = {}

    async def append(self, facts: Sequence[CertificateFacts]) -> None:
        """See `IssuanceLog.append`."""
        for fact in facts:
            if fact.key_sha256 in self._keys:
                raise KeyReusedError("certificate key: expected a fresh one, found one that has been certified")
            self._journal.put(self._keys, fact.key_sha256, None)

    async def known_keys(self, key_sha256s: Collection[str], *, device_ids: Collection[str] = ()) -> set[str]:
        """See `IssuanceLog.known_keys`; virtual keys are nobody's identity."""
        del device_ids
        return {key for key in key_sha256s if key in self._keys}
