"""A gateway on loopback with the real SQLite store, as the tests start it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.gateway.admission import LdevidAdmission
from service.gateway.host import GatewayPorts
from service.gateway.limits import Limits
from service.gateway.server import Gateway
from service.gateway.tls import server_context
from tests.integration.gateway.gateway_certificates import CertificateBuilder, Credential
from tests.integration.gateway.gateway_fakes import (
    DeviceRegister,
    MemoryCommands,
    MemorySubscriptions,
    OffsetClock,
    RecordedEvents,
    SwitchableStore,
)
from tests.integration.gateway.mqtt_peer import CONNACK_OK, MqttPeer, connect_packet


@dataclass(slots=True)
class Backend:
    """What outlives a gateway's restart."""

    certificates: CertificateBuilder
    telemetry_file: Path
    clock: OffsetClock = field(default_factory=OffsetClock)
    register: DeviceRegister = field(default_factory=DeviceRegister)
    subscriptions: MemorySubscriptions = field(default_factory=MemorySubscriptions)
    commands: MemoryCommands = field(default_factory=MemoryCommands)
    events: RecordedEvents = field(default_factory=RecordedEvents)


@dataclass(slots=True)
class RunningGateway:
    """A started gateway and what its clients need."""

    gateway: Gateway
    address: tuple[str, int]
    telemetry: SwitchableStore
    backend: Backend

    async def open(self, credential: Credential | None) -> MqttPeer:
        """Finish a TLS handshake with the credential."""
        return await MqttPeer.open(self.address, self.backend.certificates.client_context(credential))

    async def connect(self, credential: Credential, *, clean: bool = True) -> MqttPeer:
        """Connect as the device and be accepted without a stored session."""
        peer = await self.open(credential)
        assert await peer.exchange(connect_packet(credential.device_id, clean=clean)) == CONNACK_OK
        return peer

    async def payloads(self) -> list[bytes]:
        """What is stored, oldest first."""
        return [message.payload for message in await self.telemetry.tail(after_id=0)]


@asynccontextmanager
async def run_gateway(
    backend: Backend, *, limits: Limits | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningGateway]:
    """Start a gateway on a free port and stop it gracefully."""
    issuers = [backend.certificates.issuing_ca.certificate]
    server = backend.certificates.server("127.0.0.1", host)
    telemetry = await SwitchableStore.open(backend.telemetry_file)
    admission = LdevidAdmission(issuers, standing=backend.register, clock=backend.clock)
    ports = GatewayPorts(
        admission=admission,
        telemetry=telemetry,
        subscriptions=backend.subscriptions,
        commands=backend.commands,
        events=backend.events,
        clock=backend.clock,
    )
    gateway = Gateway(ports, limits=limits)
    context = server_context(server.certificate_file, server.key_file, issuers=issuers)
    try:
        address = await gateway.start(host, port, context)
        yield RunningGateway(gateway, address, telemetry, backend)
    finally:
        telemetry.may_commit.set()
        await gateway.stop()
        await telemetry.close()
