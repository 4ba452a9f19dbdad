"""The MQTT link against the real gateway: what is sent arrives, also across lost connections and renewals."""

import asyncio
import queue
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho

from device_sim.adapters.clock import WallClock
from device_sim.network.loop import LinkLoop
from device_sim.network.mqtt import Gateway, LinkLimits, PahoLink
from device_sim.network.ports import LinkCounts, LinkEvents
from device_sim.network.quality import NetworkPath, Surrounds
from device_sim.network.wire import WireMeter
from protocol.identity import DeviceId
from protocol.messages import CHECK_UPDATE
from protocol.scenario.network import NetworkQuality
from protocol.topics import telemetry_topic
from service.application.messaging import RefusalReason
from tests.integration.gateway.gateway_certificates import CertificateBuilder, Credential
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway

SECONDS = 20.0


@dataclass
class Told:
    """What a link told its device, to be waited for."""

    connections: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)
    commands: queue.SimpleQueue[tuple[str, bytes]] = field(default_factory=queue.SimpleQueue)

    @property
    def events(self) -> LinkEvents:
        return LinkEvents(
            connected=lambda: self.connections.put("connected"),
            disconnected=lambda _code: self.connections.put("disconnected"),
            command=lambda name, payload: self.commands.put((name, payload)),
        )

    async def next_connection(self) -> str:
        return await asyncio.to_thread(self.connections.get, timeout=SECONDS)


@dataclass
class Linked:
    """A link and what its test looks at."""

    link: PahoLink
    told: Told
    device: Credential
    context: ssl.SSLContext
    loop: LinkLoop

    async def settle(self) -> None:
        """Wait until the loop has done what it was asked so far."""
        await asyncio.to_thread(self.loop.settle)

    def publish(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.link.publish(telemetry_topic(DeviceId(self.device.device_id), "inference"), payload)

    async def drain(self) -> bool:
        return await asyncio.to_thread(self.link.drain, SECONDS)

    async def stop(self) -> None:
        self.link.stop()
        await self.settle()


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return Backend(CertificateBuilder(tmp_path), tmp_path / "telemetry.db")


@pytest.fixture
async def running(backend: Backend) -> AsyncIterator[RunningGateway]:
    async with run_gateway(backend) as gateway:
        yield gateway


Connect = Callable[..., Linked]


def perfect_path(**quality: Any) -> NetworkPath:
    """A network that lets everything through at once, but for what a test says."""
    where = Surrounds(NetworkQuality.model_validate(quality), utc_offset=timedelta(0), started_at=WallClock().now())
    return NetworkPath(where, clock=WallClock(), draw=random.Random, meter=WireMeter())


@pytest.fixture
def loop() -> Iterator[LinkLoop]:
    """A loop in which nothing crashes."""
    crashes: list[Exception] = []
    loop = LinkLoop(WallClock(), on_crash=crashes.append)
    yield loop
    loop.close()
    assert crashes == []


@pytest.fixture
async def connect(loop: LinkLoop) -> AsyncIterator[Connect]:
    """Makes links and stops them at the end."""
    made: list[Linked] = []

    def make(
        backend: Backend,
        port: int,
        *,
        limits: LinkLimits | None = None,
        name: str = "device",
        path: NetworkPath | None = None,
    ) -> Linked:
        device, told = backend.certificates.device(name), Told()
        context = backend.certificates.client_context(device)
        gateway = Gateway("127.0.0.1", port, loop, path or perfect_path())
        link = PahoLink(DeviceId(device.device_id), context, gateway=gateway, events=told.events, limits=limits)
        made.append(Linked(link, told, device, context, loop))
        return made[-1]

    yield make
    for linked in made:
        await linked.stop()


async def test_messages_are_acknowledged_and_stored(running: RunningGateway, connect: Connect) -> None:
    """Everything that was published is stored once, in order, and counted."""
    linked = connect(running.backend, running.address[1])
    linked.link.start()
    payloads = [b"%d" % number for number in range(100)]
    linked.publish(*payloads)
    assert await linked.drain()
    assert await running.payloads() == payloads
    assert linked.link.counts == LinkCounts(sent=100, acknowledged=100, dropped=0, waiting=0)
    assert linked.link.connected
    assert linked.told.connections.qsize() == 1


async def test_full_queue_drops_the_oldest(running: RunningGateway, connect: Connect) -> None:
    """A device that is offline for long keeps the newest messages and counts the others."""
    linked = connect(running.backend, running.address[1], limits=LinkLimits(queue=3))
    linked.publish(b"1", b"2", b"3", b"4", b"5")
    assert linked.link.counts == LinkCounts(sent=0, acknowledged=0, dropped=2, waiting=3)
    assert linked.link.counts.outstanding == 3
    linked.link.start()
    assert await linked.drain()
    assert await running.payloads() == [b"3", b"4", b"5"]


async def test_unacknowledged_messages_are_in_bounds(running: RunningGateway, connect: Connect) -> None:
    """While the gateway cannot commit, only so many messages are under way; they arrive when it can."""
    linked = connect(running.backend, running.address[1], limits=LinkLimits(in_flight=4))
    linked.link.start()
    await linked.told.next_connection()
    running.telemetry.may_commit.clear()
    linked.publish(*(b"%d" % number for number in range(10)))
    await linked.settle()
    assert linked.link.counts == LinkCounts(sent=4, acknowledged=0, dropped=0, waiting=6)
    running.telemetry.may_commit.set()
    assert await linked.drain()
    assert len(await running.payloads()) == 10


async def test_command_wakes_the_device(running: RunningGateway, connect: Connect) -> None:
    """A command that was queued before the device came is delivered after it subscribed."""
    linked = connect(running.backend, running.address[1])
    linked.link.start()
    await linked.told.next_connection()
    expires_at = running.backend.clock.now() + timedelta(hours=1)
    await running.gateway.send_command(linked.device.device_id, CHECK_UPDATE, b"", expires_at=expires_at)
    assert await asyncio.to_thread(linked.told.commands.get, timeout=SECONDS) == (CHECK_UPDATE, b"")


async def test_lost_connection_comes_back_and_nothing_is_lost(backend: Backend, connect: Connect) -> None:
    """The gateway restarts; what was published meanwhile arrives afterwards."""
    async with run_gateway(backend) as first:
        linked = connect(backend, first.address[1])
        linked.link.start()
        assert await linked.told.next_connection() == "connected"
    assert await linked.told.next_connection() == "disconnected"
    linked.publish(b"while away")
    assert linked.link.counts.waiting == 1
    async with run_gateway(backend, port=first.address[1]) as second:
        assert await linked.told.next_connection() == "connected"
        assert await linked.drain()
        assert await second.payloads() == [b"while away"]
        await linked.stop()


async def test_renewed_certificate_is_shown_by_the_next_connection(running: RunningGateway, connect: Connect) -> None:
    """As at every renewal: the context shows the new certificate, the link reconnects, nothing is lost."""
    linked = connect(running.backend, running.address[1])
    linked.link.start()
    linked.publish(b"before")
    assert await linked.drain()
    renewed = running.backend.certificates.device()
    linked.context.load_cert_chain(renewed.certificate_file, renewed.key_file)
    running.telemetry.may_commit.clear()
    linked.publish(b"between")
    await linked.settle()
    linked.link.reconnect()
    running.telemetry.may_commit.set()
    assert [await linked.told.next_connection() for _ in range(3)] == ["connected", "disconnected", "connected"]
    assert await linked.drain()
    assert set(await running.payloads()) == {b"before", b"between"}
    assert linked.link.counts == LinkCounts(sent=2, acknowledged=2, dropped=0, waiting=0)


async def test_stopped_link_keeps_what_is_unacknowledged_until_it_starts_again(
    running: RunningGateway, connect: Connect
) -> None:
    """As in quarantine: no connection, nothing lost, and the same session afterwards."""
    linked = connect(running.backend, running.address[1])
    linked.link.start()
    assert await linked.told.next_connection() == "connected"
    running.telemetry.may_commit.clear()
    linked.publish(b"under way")
    await linked.settle()
    await linked.stop()
    await linked.stop()
    assert not linked.link.connected
    linked.publish(b"while stopped")
    assert linked.link.counts == LinkCounts(sent=1, acknowledged=0, dropped=0, waiting=1)
    running.telemetry.may_commit.set()
    linked.link.start()
    assert await linked.drain()
    assert set(await running.payloads()) == {b"under way", b"while stopped"}
    assert linked.link.counts == LinkCounts(sent=2, acknowledged=2, dropped=0, waiting=0)


@pytest.mark.parametrize("method", ["_sock_send", "_sock_recv"])
async def test_connection_lost_below_tls_is_sought_again(
    running: RunningGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """TLS reports a lost connection by SSLEOFError, which paho does not know: the link reconnects all the same."""
    linked = connect(running.backend, running.address[1])
    linked.link.start()
    assert await linked.told.next_connection() == "connected"
    works, lost = getattr(paho.Client, method), [ssl.SSLEOFError("EOF occurred in violation of protocol")]

    def fails_once(client: paho.Client, argument: object) -> object:
        if lost:
            raise lost.pop()
        return works(client, argument)

    monkeypatch.setattr(paho.Client, method, fails_once)
    linked.publish(b"again")
    assert [await linked.told.next_connection() for _ in range(2)] == ["disconnected", "connected"]
    assert await linked.drain()
    assert set(await running.payloads()) == {b"again"}  # twice where the PUBACK was what got lost


async def test_closed_network_swallows_messages_and_the_keep_alive_finds_out(
    running: RunningGateway, connect: Connect
) -> None:
    """Nobody is told that the network is gone; what was sent into it is sent again over the next connection."""
    path = perfect_path()
    linked = connect(running.backend, running.address[1], limits=LinkLimits(keepalive_seconds=1), path=path)
    linked.link.start()
    assert await linked.told.next_connection() == "connected"
    path.switch(on=False)
    linked.publish(b"into the void")
    assert await linked.told.next_connection() == "disconnected"
    assert linked.link.counts == LinkCounts(sent=1, acknowledged=0, dropped=0, waiting=0)
    path.switch(on=True)
    assert await linked.told.next_connection() == "connected"
    assert await linked.drain()
    assert await running.payloads() == [b"into the void"]
    assert path.meter.bytes > 0


async def test_command_that_a_nat_has_lost_comes_again(running: RunningGateway, connect: Connect) -> None:
    """A silent connection is forgotten: the gateway's command is not heard before the device has connected anew."""
    path = perfect_path(nat_timeout="500ms")
    linked = connect(running.backend, running.address[1], limits=LinkLimits(keepalive_seconds=2), path=path)
    linked.link.start()
    assert await linked.told.next_connection() == "connected"
    await linked.settle()
    while not path.forgets(linked.link.last_traffic):  # noqa: ASYNC110 - time passes, nothing sets an event
        await asyncio.sleep(0.05)
    expires_at = running.backend.clock.now() + timedelta(hours=1)
    await running.gateway.send_command(linked.device.device_id, CHECK_UPDATE, b"", expires_at=expires_at)
    assert await linked.told.next_connection() == "disconnected"
    assert linked.told.commands.empty()
    assert await linked.told.next_connection() == "connected"
    assert await asyncio.to_thread(linked.told.commands.get, timeout=SECONDS) == (CHECK_UPDATE, b"")


async def test_messages_take_the_time_of_their_path(running: RunningGateway, connect: Connect) -> None:
    """They wait in the loop, in order, and no thread waits with them."""
    linked = connect(running.backend, running.address[1], path=perfect_path(latency="200ms", jitter="100ms"))
    linked.link.start()
    payloads = [b"%d" % number for number in range(10)]
    linked.publish(*payloads)
    await linked.settle()
    assert linked.link.counts == LinkCounts(sent=0, acknowledged=0, dropped=0, waiting=10)
    assert await linked.drain()
    assert await running.payloads() == payloads


async def test_reconnect_without_a_connection_does_nothing(running: RunningGateway, connect: Connect) -> None:
    """A link that was not started, or is between two attempts, has nothing to break."""
    linked = connect(running.backend, running.address[1])
    linked.link.reconnect()
    linked.link.start()
    assert await linked.told.next_connection() == "connected"


async def test_blocked_device_does_not_connect(running: RunningGateway, connect: Connect) -> None:
    """A refused connection tells nothing and drains nothing."""
    linked = connect(running.backend, running.address[1], name="blocked")
    running.backend.register.refusals[linked.device.device_id] = RefusalReason.BLOCKED
    linked.link.start()
    refusal = await running.backend.events.refusal()
    assert refusal.reason is RefusalReason.BLOCKED
    assert not linked.link.connected
    linked.publish(b"never")
    assert not await asyncio.to_thread(linked.link.drain, 0.1)


async def test_kicked_device_is_told(running: RunningGateway, connect: Connect) -> None:
    """A connection that the gateway closes is reported, and sought again."""
    linked = connect(running.backend, running.address[1])
    linked.link.start()
    assert await linked.told.next_connection() == "connected"
    assert running.gateway.kick(linked.device.device_id)
    assert await linked.told.next_connection() == "disconnected"
    assert await linked.told.next_connection() == "connected"
