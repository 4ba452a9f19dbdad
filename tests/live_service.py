"""The whole service on free loopback ports, an operator's client, and devices that attest over real TLS."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx

from protocol.document import parse_document
from protocol.evidence import SoftwareComponent
from protocol.geometry import Slot
from protocol.messages import AttestationReply, ClaimChallenge, NonceReply, NonceRequest
from protocol.signing import SoftwareSigner
from protocol.updates import ImageCustom, image_target_name
from service.adapters.database.engine import Database, database_url
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.update_repositories import ImageTarget
from service.bootstrap.service import RunningService, running
from service.config import Settings, load_settings
from tests.attesting_device import HONEST, AttestingDevice, client_context
from tests.integration.gateway.mqtt_peer import MqttPeer
from tests.service_folder import ADMIN_TOKEN, Folders

_GUID = "00000000-0000-4000-8000-{:012x}"


@dataclass
class OffsetClock:
    """The machine's clock, which TLS goes by too, plus what a test adds."""

    offset: timedelta = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset  # noqa: TID251 - see above


@dataclass(frozen=True, slots=True)
class Credential:
    """An LDevID and its key."""

    key: SoftwareSigner
    chain: str


@dataclass
class LiveService:
    """A service that runs in this process."""

    folders: Folders
    settings: Settings
    clock: OffsetClock
    addresses: RunningService
    operator: httpx.AsyncClient

    async def claim(self, device: AttestingDevice) -> httpx.Response:
        answer = await self.operator.post("/claims/challenge")
        challenge = ClaimChallenge.model_validate_json(answer.content).challenge
        proof = device.proof(challenge).model_dump(mode="json")
        return await self.operator.post("/devices", json={"product": "Camera", "group": "Production", "proof": proof})

    async def claimed(self) -> AttestingDevice:
        device = AttestingDevice(self.folders)
        (await self.claim(device)).raise_for_status()
        return device

    def https(self, device: AttestingDevice, credential: Credential | None = None) -> httpx.AsyncClient:
        """Device HTTPS with the IDevID, or with an LDevID."""
        context = self.tls(device, credential)
        return httpx.AsyncClient(verify=context, base_url=f"{self.addresses.device_url}/device/v1")

    def tls(self, device: AttestingDevice, credential: Credential | None = None) -> ssl.SSLContext:
        if credential is None:
            return client_context(self.addresses.ca, device.identity, device.idevid_chain)
        return client_context(self.addresses.ca, credential.key, credential.chain)

    async def mqtt(self, device: AttestingDevice, credential: Credential) -> MqttPeer:
        address = (self.addresses.mqtt_host, self.addresses.mqtt_port)
        return await MqttPeer.open(address, self.tls(device, credential))

    async def ask_to_attest(self, device: AttestingDevice, key: SoftwareSigner) -> httpx.Response:
        """Go through nonce and evidence, and return the last answer."""
        async with self.https(device) as https:
            request = NonceRequest(device_nonce=b"\x07" * 32)
            answer = await https.post("/attest/nonce", content=request.model_dump_json())
            if answer.status_code != httpx.codes.OK:
                return answer
            nonce = parse_document(answer.content, NonceReply).nonce
            return await https.post("/attest", content=device.request(nonce, key).model_dump_json())

    async def attest(self, device: AttestingDevice) -> Credential:
        """Attest and return the LDevID."""
        key = SoftwareSigner.generate()
        answer = await self.ask_to_attest(device, key)
        answer.raise_for_status()
        return Credential(key, parse_document(answer.content, AttestationReply).certificate_chain)


@asynccontextmanager
async def live_service(folders: Folders, **settings: object) -> AsyncIterator[LiveService]:
    """Run the service with one product; every honest image is listed."""
    free_ports = {"operator_port": 0, "device_port": 0, "mqtt_port": 0}
    loaded = load_settings(None, data_dir=folders.service, **free_ports, **settings)
    clock = OffsetClock()
    async with (
        running(loaded, clock=clock) as addresses,
        httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=str(addresses.ca)),
            base_url=f"{addresses.operator_url}/api/v1",
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        ) as operator,
    ):
        await list_images(loaded, HONEST.components)
        existing = await operator.get("/products/Camera")
        if existing.status_code == httpx.codes.NOT_FOUND:
            (await operator.post("/products", json={"name": "Camera"})).raise_for_status()
        yield LiveService(folders, loaded, clock, addresses, operator)


async def list_images(settings: Settings, components: tuple[SoftwareComponent, ...]) -> None:
    """Put images among the Image repository's targets in force, as a release would."""
    database = Database(database_url(settings.database_location()))
    try:
        async with SqlUnitOfWorkFactory(database)() as work:
            wanted = [_target(number, component) for number, component in enumerate(components)]
            known = await work.metadata.images_of([target.sha256 for target in wanted])
            await work.metadata.add_images([target for target in wanted if target.sha256 not in known])
            await work.commit()
    finally:
        await database.close()


def _target(number: int, component: SoftwareComponent) -> ImageTarget:
    slot = Slot(component.type)
    custom = ImageCustom(
        slot_kind=slot.kind,
        hardware_ids=(slot.core.hardware_id,),
        component_id=_GUID.format(number),
        image_id=_GUID.format(0x1000 + number),
        name=component.version,
        security_counter=1,
    )
    return ImageTarget(
        image_target_name(slot, custom.image_id), component.measurement.hex(), 1024, custom, since_version=1
    )
