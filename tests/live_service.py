"""The whole service on free loopback ports, an operator's client, and devices that attest over real TLS."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
from tuf.api.metadata import Metadata, TargetFile, Targets

from pki.metadata import sign_targets
from pki.roles import OfflineKey
from protocol.document import parse_document
from protocol.evidence import SoftwareComponent
from protocol.geometry import Slot
from protocol.messages import AttestationReply, ClaimChallenge, NonceReply, NonceRequest
from protocol.signing import Signer, SoftwareSigner
from protocol.updates import ImageCustom, image_target_name
from service.bootstrap.service import RunningService, running
from service.config import Settings, load_settings
from tests.attesting_device import HONEST, AttestingDevice, client_context
from tests.integration.gateway.mqtt_peer import MqttPeer
from tests.service_folder import ADMIN_TOKEN, Folders

_GUID = "00000000-0000-4000-8000-{:012x}"
FIRST_ENTRIES = 2 + len(HONEST.components)  # of a new log: both roots, and the images that devices attest by
_SIGNED: dict[bytes, bytes] = {}  # targets that list images, by those that did not: offline keys open slowly


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
    list_images(folders, HONEST.components)
    clock = OffsetClock()
    async with (
        running(loaded, clock=clock) as addresses,
        httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=str(addresses.ca)),
            base_url=f"{addresses.operator_url}/api/v1",
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        ) as operator,
    ):
        existing = await operator.get("/products/Camera")
        if existing.status_code == httpx.codes.NOT_FOUND:
            (await operator.post("/products", json={"name": "Camera"})).raise_for_status()
        yield LiveService(folders, loaded, clock, addresses, operator)


def list_images(folders: Folders, components: tuple[SoftwareComponent, ...]) -> None:
    """Have the operator's first targets list images, before the service begins with them."""
    genesis = folders.service / "genesis" / "image.targets.json"
    before = genesis.read_bytes()
    if before in _SIGNED.values():
        return
    if before not in _SIGNED:
        _SIGNED[before] = _listing(before, components, folders.keys.load(OfflineKey.IMAGE_TARGETS))
    for path in (genesis, folders.operator / "repository" / "1.targets.json"):
        path.write_bytes(_SIGNED[before])


def _listing(before: bytes, components: tuple[SoftwareComponent, ...], signer: Signer) -> bytes:
    signed = Metadata[Targets].from_bytes(before).signed
    added = [_target(number, component) for number, component in enumerate(components)]
    listed = {target.path: target for target in [*signed.targets.values(), *added]}
    return sign_targets(
        [*listed.values()], signer, version=signed.version, expires=signed.expires, delegations=signed.delegations
    )


def _target(number: int, component: SoftwareComponent) -> TargetFile:
    slot = Slot(component.type)
    custom = ImageCustom(
        slot_kind=slot.kind,
        hardware_ids=(slot.core.hardware_id,),
        component_id=_GUID.format(number),
        image_id=_GUID.format(0x1000 + number),
        name=component.version,
        security_counter=1,
    )
    name, fields = image_target_name(slot, custom.image_id), {"custom": custom.model_dump(mode="json")}
    return TargetFile(1024, {"sha256": component.measurement.hex()}, name, fields)
