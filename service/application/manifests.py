"""Version manifests: what devices sign of what they run, after every boot and update.

Verification, in this order:
    1. envelope, payload type and signature by the device's identity key (`protocol.document.verify_document`);
    2. it names the device that is connected;
    3. its counter is above the last one's: reuse is dropped (Uptane standard 5.4.2.1). One that is no repetition of
       the last one, but newly signed, tells of a second device with this identity key.
Manifests that come at once share a transaction (`service.application.rounds`), as after a reboot storm. One that is
refused leaves nothing in it, and its sender alone hears of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from protocol.document import verify_document
from protocol.errors import ProtocolError
from protocol.messages import MANIFEST_PAYLOAD_TYPE, VersionManifest
from service.application.clock import Clock
from service.application.clones import Clones
from service.application.events import Event, EventType
from service.application.rounds import Rounds
from service.application.security_events import indicated
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredManifest
from service.domain.clone import manifest_suspicion
from service.domain.device import Device, UnknownDeviceError
from service.domain.errors import ConflictError, ForbiddenError, ServiceError

MAX_MANIFEST_BYTES = 16 * 1024


class ForeignManifestError(ForbiddenError):
    """A version manifest of another device."""


class ReplayedManifestError(ConflictError):
    """A version manifest whose counter is not above the last one's."""


Refused = ProtocolError | ServiceError
VerifyManifest = Callable[[bytes, Device], VersionManifest]


@dataclass(frozen=True, slots=True)
class _Settled:
    """What became of a manifest.

    Attributes:
        refused: why it was, if it was.
        last: the manifest whose counter it is not above.
    """

    refused: Refused | None = None
    last: StoredManifest | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A manifest as it came.

    Attributes:
        device_id: of the certificate.
        unverified_envelope: DSSE, JSON bytes.
    """

    device_id: str
    unverified_envelope: bytes


def verify_manifest(unverified_envelope: bytes, device: Device) -> VersionManifest:
    """Verify a version manifest of a device: step 1.

    Raises:
        DocumentError, EnvelopeSignatureError: it is not the device's.
    """
    return verify_document(
        unverified_envelope,
        MANIFEST_PAYLOAD_TYPE,
        VersionManifest,
        trusted_keys=[device.identity_public_key],
        max_bytes=MAX_MANIFEST_BYTES,
    )


class Manifests:
    """Takes version manifests; `run` must run for `take`.

    Args:
        verify: takes step 1 of the module.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        clones: Clones,
        clock: Clock,
        verify: VerifyManifest = verify_manifest,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._verify = verify
        self._clones = clones
        self._clock = clock
        self._rounds = Rounds(self._store, key=lambda sent: sent.device_id)

    async def run(self) -> None:
        """Store what devices send, until cancelled."""
        await self._rounds.run()

    async def take(self, device_id: str, unverified_envelope: bytes) -> None:
        """Take a version manifest, in a transaction with those of other devices.

        Args:
            device_id: of the certificate.
            unverified_envelope: DSSE, JSON bytes.

        Raises:
            DocumentError, EnvelopeSignatureError: step 1.
            ForeignManifestError: step 2.
            ReplayedManifestError: step 3.
            UnknownDeviceError: the device is not in the catalog.
        """
        sent = Sent(device_id, unverified_envelope)
        await self._conclude(sent, await self._rounds.settled(sent))

    async def take_alone(self, device_id: str, unverified_envelope: bytes) -> None:
        """Take a version manifest in a transaction of its own, for whom nothing runs; as `take`."""
        sent = Sent(device_id, unverified_envelope)
        (settled,) = await self._store([sent])
        await self._conclude(sent, settled)

    @tried_again
    async def _store(self, sent: Sequence[Sent]) -> Sequence[_Settled]:
        """Store manifests of different devices."""
        now = self._clock.now()
        async with self._unit_of_work() as work:
            devices = await work.devices.find_many([one.device_id for one in sent])
            read = {one.device_id: self._read(one, devices) for one in sent}
            last = await _store_manifests(work, _taken(sent, read), now=now)
            await work.commit()
        return [_settled(read[one.device_id], last) for one in sent]

    def _read(self, sent: Sent, devices: Mapping[str, Device]) -> VersionManifest | Refused:
        """Take steps 1 and 2."""
        device_id = sent.device_id
        device = devices.get(device_id)
        if device is None:
            return UnknownDeviceError(f"device: expected one of the catalog, found none of id {device_id[:16]}…")
        # Step 1: envelope.
        try:
            manifest = self._verify(sent.unverified_envelope, device)
        except ProtocolError as error:
            return error
        # Step 2: device.
        if manifest.device_id != device_id:
            found = manifest.device_id
            return ForeignManifestError(f"manifest: expected device {device_id[:12]}…, found {found[:12]}…")
        return manifest

    async def _conclude(self, sent: Sent, settled: _Settled) -> None:
        """Raise why a manifest was refused, if it was, after a look at what that tells."""
        if settled.last is not None and settled.last.envelope != sent.unverified_envelope:
            await self._look_for_clone(sent, settled.last)
        if settled.refused is not None:
            raise settled.refused

    @tried_again
    async def _look_for_clone(self, sent: Sent, last: StoredManifest) -> None:
        async with self._unit_of_work() as work:
            device = (await work.devices.find_many([sent.device_id], lock=True)).get(sent.device_id)
            if device is None:
                return
            manifest, stored = self._verify(sent.unverified_envelope, device), self._verify(last.envelope, device)
            # An older manifest that comes late was signed before the last one.
            if manifest.counter == stored.counter or manifest.reported_at > stored.reported_at:
                suspicion = manifest_suspicion(last=stored.counter, found=manifest.counter)
                await self._clones.suspect(work, device, suspicion)
                await work.commit()


def _taken(sent: Sequence[Sent], read: Mapping[str, VersionManifest | Refused]) -> list[tuple[Sent, VersionManifest]]:
    pairs = ((one, read[one.device_id]) for one in sent)
    return [(one, manifest) for one, manifest in pairs if isinstance(manifest, VersionManifest)]


def _settled(manifest: VersionManifest | Refused, last: Mapping[str, StoredManifest]) -> _Settled:
    """Say what became of a manifest; `last` are those of devices whose counter had not risen."""
    if not isinstance(manifest, VersionManifest):
        return _Settled(manifest)
    if manifest.device_id not in last:
        return _Settled()
    error = ReplayedManifestError(f"manifest: expected a counter above the last one's, found {manifest.counter}")
    return _Settled(error, last[manifest.device_id])


async def _store_manifests(
    work: UnitOfWork, taken: Sequence[tuple[Sent, VersionManifest]], *, now: datetime
) -> Mapping[str, StoredManifest]:
    """Store manifests, step 3, and what they tell; returns the last ones of devices whose counter had not risen."""
    if not taken:
        return {}
    indicating = [manifest.device_id for _, manifest in taken if manifest.attack_indicator]
    last = await work.installed.manifests(indicating) if indicating else {}
    # Step 3: counter.
    rows = [
        StoredManifest(
            device_id=manifest.device_id,
            counter=manifest.counter,
            attack_indicator=manifest.attack_indicator,
            envelope=sent.unverified_envelope,
            received_at=now,
        )
        for sent, manifest in taken
    ]
    risen = frozenset(await work.installed.put_manifests(rows))
    told = [manifest for _, manifest in taken if manifest.device_id in risen]
    await _store_images(work, told, now=now)
    for manifest in told:
        before = last.get(manifest.device_id)
        # Every manifest repeats the last indicator, as after a restart.
        if manifest.attack_indicator and (before is None or before.attack_indicator != manifest.attack_indicator):
            work.record(indicated(manifest, now=now))
    refused = [row.device_id for row in rows if row.device_id not in risen]
    return await work.installed.manifests(refused) if refused else {}


async def _store_images(work: UnitOfWork, manifests: Sequence[VersionManifest], *, now: datetime) -> None:
    """Store what runs on devices of different ids."""
    if not manifests:
        return
    known = await work.installed.of([manifest.device_id for manifest in manifests])
    await work.installed.put_all({manifest.device_id: manifest.images for manifest in manifests}, at=now)
    for manifest in manifests:
        before = known.get(manifest.device_id, {})
        if {**before, **manifest.images} != before:
            work.record(Event(EventType.DEVICE, manifest.device_id, "installed", now))
