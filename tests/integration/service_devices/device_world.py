"""The device half on a real database, with the real ceremony's keys and a clock that tests move."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from protocol.evidence import SoftwareComponent
from protocol.geometry import Slot
from protocol.messages import NonceRequest
from protocol.signing import SoftwareSigner
from service.adapters.certificates import PkiIssuer, PkiVerifier, load_authorities
from service.adapters.database.engine import Database, database_url
from service.adapters.database.event_reader import SqlEventReader
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.approvals import Approvals
from service.application.attestation import Attestation, AttestationResults
from service.application.claims import Claims, ClaimTarget
from service.application.clones import Clones
from service.application.device_actions import device_actions
from service.application.devices import Devices
from service.application.events import EventFeed
from service.application.presence import Presence
from service.application.products import Products
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWork
from service.domain.attestation import ReferenceValue
from service.domain.operator import Actor, Role
from tests.attesting_device import HONEST, AttestingDevice
from tests.integration.service_updates.update_world import SeededEntropy, VirtualClock
from tests.service_folder import Folders

OPERATOR = Actor("operator", Role.OPERATOR)
TARGET = ClaimTarget(product="Camera", group="Production")
NONCE_SECONDS = 120
CHALLENGE_SECONDS = 900


class ImagesOfTests:
    """Reference values of a test; implements `ReferenceValues`."""

    def __init__(self) -> None:
        self._values: dict[str, ReferenceValue] = {}

    async def find(self, work: UnitOfWork, digests: Collection[str]) -> Mapping[str, ReferenceValue]:  # noqa: ARG002 - the port's signature
        return {digest: self._values[digest] for digest in digests if digest in self._values}

    def list(self, component: SoftwareComponent) -> None:
        slot, digest = Slot(component.type), component.measurement.hex()
        self._values[digest] = ReferenceValue(
            digest=digest,
            name=component.version,
            slot_kinds=frozenset({slot.kind}),
            hardware_ids=frozenset({slot.core.hardware_id}),
            release="factory",
        )


class SilentGateway:
    """A gateway without connections; implements `Connectivity`."""

    def is_connected(self, device_id: str) -> bool:  # noqa: ARG002 - the port's signature
        return False


@dataclass
class DeviceWorld:
    """The use cases of the device half and what they stand on."""

    folders: Folders
    clock: VirtualClock
    unit_of_work: SqlUnitOfWorkFactory
    feed: EventFeed
    standings: Standings
    presence: Presence
    listed: ImagesOfTests
    products: Products
    claims: Claims
    devices: Devices
    approvals: Approvals
    clones: Clones
    attestation: Attestation
    results: AttestationResults
    another_attestation: Callable[..., Attestation]  # as another process has it; its `run` must run

    async def claimed(self) -> AttestingDevice:
        """Return a device that was claimed."""
        device = AttestingDevice(self.folders)
        challenge = await self.claims.challenge(OPERATOR)
        await self.claims.claim(OPERATOR, device.proof(challenge.challenge), TARGET)
        return device

    async def nonce(self, device: AttestingDevice) -> bytes:
        reply = await self.attestation.nonce(device.peer, NonceRequest(device_nonce=b"\x07" * 32))
        return reply.nonce

    async def attest(self, device: AttestingDevice, *, key: SoftwareSigner | None = None) -> str:
        """Attest honestly and return the certificate chain."""
        key = key or SoftwareSigner.generate()
        request = device.request(await self.nonce(device), key)
        return (await self.attestation.attest(device.peer, request)).certificate_chain


@asynccontextmanager
async def in_background(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Let work run as long as the block does."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def open_world(
    url: str, folders: Folders, *, two_person: Collection[str] = (), blocks_clones: bool = False
) -> AsyncIterator[DeviceWorld]:
    """Open the device half on an empty database, with one product and every honest image listed."""
    database = Database(database_url(url))
    try:
        await migrate(database)
        world = _world(database, folders, two_person=two_person, blocks_clones=blocks_clones)
        await world.products.create(OPERATOR, name="Camera", description="")
        for component in HONEST.components:
            world.listed.list(component)
        async with in_background(world.attestation.run()):
            yield world
    finally:
        await database.close()


def _world(database: Database, folders: Folders, *, two_person: Collection[str], blocks_clones: bool) -> DeviceWorld:
    clock, entropy, standings, listed = VirtualClock(), SeededEntropy(), Standings(), ImagesOfTests()
    unit_of_work = SqlUnitOfWorkFactory(database)
    feed = EventFeed(SqlEventReader(unit_of_work))
    presence = Presence(unit_of_work, flush_seconds=10)
    authorities = load_authorities(folders.service)
    certificates = PkiVerifier(authorities, clock)
    clones = Clones(unit_of_work, clock=clock, blocks=blocks_clones)
    approvals = Approvals(unit_of_work, clock=clock, entropy=entropy, two_person=two_person)
    for action in device_actions(standings, clock):
        approvals.register(action)
    attestation = partial(
        Attestation,
        unit_of_work,
        issuer=PkiIssuer(authorities, clock, lifetime=timedelta(days=1)),
        reference_values=listed,
        standings=standings,
        clones=clones,
        clock=clock,
        entropy=entropy,
        nonce_lifetime=timedelta(seconds=NONCE_SECONDS),
    )
    return DeviceWorld(
        folders=folders,
        clock=clock,
        unit_of_work=unit_of_work,
        feed=feed,
        standings=standings,
        presence=presence,
        listed=listed,
        products=Products(unit_of_work, clock=clock, entropy=entropy),
        claims=Claims(
            unit_of_work,
            certificates=certificates,
            standings=standings,
            clock=clock,
            entropy=entropy,
            challenge_lifetime=timedelta(seconds=CHALLENGE_SECONDS),
        ),
        devices=Devices(
            unit_of_work,
            presence=presence,
            connectivity=SilentGateway(),
            approvals=approvals,
            clock=clock,
        ),
        approvals=approvals,
        clones=clones,
        attestation=attestation(),
        another_attestation=attestation,
        results=AttestationResults(unit_of_work),
    )
