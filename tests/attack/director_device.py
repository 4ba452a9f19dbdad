"""The simulator's Uptane client against the service's own device routes, and an attacker between them.

Requests go through the gate and the routes of the device API in this process. The attacker sees every answer and may
put another in its place, which is what a stolen position on the network or a stolen balancer can do.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import httpx
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.types import Receive, Scope, Send

from device_sim.network.ports import EndlessDataError, HttpResponse, NetworkError
from device_sim.update.uptane import Floors, Instruction, UptaneClient
from pki.catalog import load_catalog
from pki.online import load_certificate
from protocol.identity import Access, DeviceId
from protocol.voucher import Voucher, encode_public_keys
from service.adapters.metadata_signer import load_genesis
from service.api.artifacts import ARTIFACTS_PATH, ArtifactEndpoint
from service.api.device_gate import DEVICE_SCOPE_KEY, DeviceGate
from service.api.device_poll import POLL_PATH, PollEndpoint
from service.api.reports import report_routes
from service.api.transparency import transparency_routes
from service.api.uptane import uptane_routes
from service.application.identity import CertificateKind, DevicePeer
from service.application.standing import Standings
from service.domain.device import DeviceState
from tests.integration.service_updates.update_world import UpdateWorld

DIRECTOR = "/device/v1/uptane/director/"
FLOORS = Floors(security=lambda _slot: 0, release=lambda _slot: 0)


class MemoryStorage:
    """Secure storage of a device; implements `Storage`."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def put(self, name: str, value: bytes) -> None:
        self.kept[name] = value


@dataclass
class Attacker:
    """Answers in the service's place, or breaks a request to a path; keeps what it saw."""

    instead: dict[str, bytes] = field(default_factory=dict)
    seen: dict[str, bytes] = field(default_factory=dict)
    breaks: Callable[[str], NetworkError | None] = lambda _path: None


@dataclass
class ConnectedDevice:
    """A device with its Uptane client; implements `HttpTransport` for it."""

    world: UpdateWorld
    device_id: DeviceId
    attacker: Attacker = field(default_factory=Attacker)
    storage: MemoryStorage = field(default_factory=MemoryStorage)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = UptaneClient(self.device_id, self.voucher, self.storage)
        standings = Standings()
        standings.change(self.device_id, DeviceState.ACTIVE, sequence=1)
        world = self.world
        gate = DeviceGate(
            routes=[
                *uptane_routes(world.director, world.repository),
                *transparency_routes(world.transparency),
                *report_routes(world.reports, world.manifests),
            ],
            exact={POLL_PATH: PollEndpoint(world.poll, fleet_size=standings.count)},
            below={ARTIFACTS_PATH: ArtifactEndpoint(world.artifacts)},
            standings=standings,
            clock=world.clock,
            heard=lambda _device, _at: None,
        )
        peer = DevicePeer(
            CertificateKind.LDEVID,
            self.device_id,
            world.device_keys[self.device_id].public_key,
            world.clock.now() + timedelta(days=365),
            Access.FULL,
        )

        async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
            await gate({**scope, DEVICE_SCOPE_KEY: peer}, receive, send)

        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url="https://device")

    async def check(self) -> Instruction:
        """Run the device's whole verification, after the service's work in the background."""
        assert await self.world.checkpoints.work()
        return await self.check_alone()

    async def check_alone(self) -> Instruction:
        """Run the device's whole verification, whatever the service has not done yet."""
        return await asyncio.to_thread(self._client.check, self, self.world.clock.now(), floors=FLOORS, installed={})

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send one request, unless the attacker answers it; called in the client's thread."""
        broken = self.attacker.breaks(path)
        if broken is not None:
            raise broken
        if path in self.attacker.instead:
            answer = self.attacker.instead[path]
            if len(answer) > max_bytes:
                raise EndlessDataError(f"{path}: expected at most {max_bytes} bytes, found more")
            return HttpResponse(200, {}, answer)
        sending = self.http.request(method, path, content=body, headers=dict(headers or {}))
        response = asyncio.run_coroutine_threadsafe(sending, self._loop).result(timeout=60)
        assert len(response.content) <= max_bytes
        if response.status_code == httpx.codes.OK:
            self.attacker.seen[path] = response.content
        return HttpResponse(response.status_code, dict(response.headers), response.content)

    def close(self) -> None:
        """Nothing is open between requests."""

    @property
    def voucher(self) -> Voucher:
        """What the catalog's voucher says."""
        folder = self.world.folders.service
        genesis, catalog = load_genesis(folder), load_catalog(folder / "genesis" / "catalog.json")
        now = self.world.clock.now()
        return Voucher(
            device_id=self.device_id,
            catalog_id=catalog.catalog_id,
            catalog_name=catalog.name,
            sequence=int(now.timestamp()),
            issued_at=now,
            tls_root=load_certificate(folder / "certificates" / "root.pem").public_bytes(Encoding.DER),
            director_root=genesis.director_root,
            image_root=genesis.image_root,
            package_keys=encode_public_keys(catalog.package_keys),
            golden_keys=encode_public_keys(catalog.golden_keys),
        )
