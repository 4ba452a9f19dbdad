"""A unit of work without a database: the repositories that attestation uses, as dictionaries."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from pki.issuance import CertificateFacts
from service.application.device_repositories import IssuedNonce, NoncePurpose
from service.application.events import Event
from service.domain.attestation import Appraisal
from service.domain.attestation_policy import AttestationPolicy
from service.domain.device import Device


class MemoryDevices:
    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices: dict[str, Device] = {device.device_id: device for device in devices}

    async def find_many(self, device_ids: Collection[str], *, lock: bool = False) -> Mapping[str, Device]:
        del lock
        return {device_id: self._devices[device_id] for device_id in device_ids if device_id in self._devices}

    async def save_attested(self, attested: Sequence[Device]) -> None:
        self._devices.update((device.device_id, device) for device in attested)


class MemoryAttestations:
    def __init__(self) -> None:
        self._nonces: dict[tuple[str, NoncePurpose], IssuedNonce] = {}
        self._results: dict[str, Appraisal] = {}

    async def put_nonces(self, nonces: Sequence[IssuedNonce]) -> None:
        self._nonces.update(((nonce.device_id, nonce.purpose), nonce) for nonce in nonces)

    async def take_nonces(
        self, wanted: Collection[tuple[str, NoncePurpose]], *, now: datetime
    ) -> Mapping[tuple[str, NoncePurpose], bytes]:
        found = {key: self._nonces.pop(key) for key in wanted if key in self._nonces}
        return {key: nonce.nonce for key, nonce in found.items() if nonce.expires_at > now}

    async def record(self, results: Mapping[str, Appraisal], *, at: datetime) -> Sequence[str]:
        del at
        changed = [key for key, appraisal in results.items() if self._results.get(key) != appraisal]
        self._results.update(results)
        return changed


class MemoryIssuance:
    def __init__(self) -> None:
        self._keys: set[str] = set()

    async def known_keys(self, key_sha256s: Collection[str], *, device_ids: Collection[str] = ()) -> set[str]:
        del device_ids
        return self._keys & set(key_sha256s)

    async def append(self, facts: Sequence[CertificateFacts]) -> None:
        self._keys.update(fact.key_sha256 for fact in facts)


class MemoryProducts:
    async def attestation_policies(self, group_ids: Collection[str]) -> Mapping[str, AttestationPolicy]:
        return dict.fromkeys(group_ids, AttestationPolicy())


class MemoryWork:
    """What `Attestation` uses of a `UnitOfWork`."""

    def __init__(self, devices: Sequence[Device]) -> None:
        self.devices = MemoryDevices(devices)
        self.attestations = MemoryAttestations()
        self.issuance = MemoryIssuance()
        self.products = MemoryProducts()
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)

    async def commit(self) -> int:
        self.events.clear()
        return 0

    @asynccontextmanager
    async def __call__(self, *, read_only: bool = False) -> AsyncIterator[Any]:
        """Open itself, as a `UnitOfWorkFactory`."""
        del read_only
        yield self
