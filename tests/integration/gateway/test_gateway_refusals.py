"""Everything the gateway must refuse; each case has exactly one thing wrong, and costs nobody else anything."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from protocol.identity import Access
from service.application.messaging import MessageFilter, RefusalReason
from service.gateway.limits import Limits
from tests.integration.gateway.gateway_certificates import Credential
from tests.integration.gateway.mqtt_peer import (
    CONNACK_OK,
    PINGREQ,
    PINGRESP,
    connect_packet,
    packet,
    publish_packet,
    subscribe_packet,
    text,
)
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway

OTHER_ID = "f" * 128


@pytest.fixture
async def bystander(running: RunningGateway) -> AsyncIterator[None]:
    """Another device that is connected before and must be after, and whose message is all that is stored."""
    device = running.backend.certificates.device("bystander")
    peer = await running.connect(device)
    yield
    await peer.exchange(publish_packet(f"tinyfleet/v1/{device.device_id}/telemetry/s", b"well"))
    assert await running.payloads() == [b"well"]
    await peer.close()


async def refused_in_handshake(running: RunningGateway, credential: Credential | None) -> RefusalReason:
    """TLS 1.3 clients learn of a refusal by the connection's end."""
    try:
        peer = await running.open(credential)
        peer.send(connect_packet("anything"))
        assert await peer.closed() == b""
        await peer.close()
    except (OSError, ssl.SSLError):
        pass
    return (await running.backend.events.refusal()).reason


@pytest.mark.usefixtures("bystander")
async def test_no_certificate_is_refused(running: RunningGateway) -> None:
    """TLS asks for a certificate and gets none."""
    assert await refused_in_handshake(running, None) is RefusalReason.NO_CERTIFICATE


@pytest.mark.usefixtures("bystander")
async def test_expired_certificate_is_refused(running: RunningGateway) -> None:
    """notAfter has passed."""
    expired = running.backend.certificates.device(valid=(timedelta(hours=-2), timedelta(hours=-1)))
    assert await refused_in_handshake(running, expired) is RefusalReason.EXPIRED


@pytest.mark.usefixtures("bystander")
async def test_certificate_of_the_future_is_refused(running: RunningGateway) -> None:
    """notBefore has not come."""
    future = running.backend.certificates.device(valid=(timedelta(hours=1), timedelta(hours=2)))
    assert await refused_in_handshake(running, future) is RefusalReason.NOT_YET_VALID


@pytest.mark.usefixtures("bystander")
async def test_idevid_of_the_factory_under_the_same_root_is_refused(running: RunningGateway) -> None:
    """A birth certificate is no operational one, although the root is the same."""
    certificates = running.backend.certificates
    idevid = certificates.device(issuer=certificates.factory_ca)
    assert await refused_in_handshake(running, idevid) is RefusalReason.FOREIGN_CERTIFICATE


@pytest.mark.usefixtures("bystander")
async def test_certificate_of_an_impostor_ca_of_the_same_name_is_refused(running: RunningGateway) -> None:
    """Same issuer name, other key."""
    certificates = running.backend.certificates
    impostor = certificates.authority("tinyfleet issuing CA")
    foreign = certificates.device(issuer=impostor)
    assert await refused_in_handshake(running, foreign) is RefusalReason.FOREIGN_CERTIFICATE


async def refused_connect(
    running: RunningGateway, credential: Credential, first_packet: bytes
) -> tuple[bytes, RefusalReason]:
    """Send a first packet over a good handshake; returns the answer and the audited reason."""
    peer = await running.open(credential)
    peer.send(first_packet)
    answer = await peer.closed()
    await peer.close()
    return answer, (await running.backend.events.refusal()).reason


@pytest.mark.usefixtures("bystander")
async def test_client_id_of_another_device_is_refused(running: RunningGateway) -> None:
    """The certificate decides who it is: CONNACK 2."""
    device = running.backend.certificates.device()
    answer, reason = await refused_connect(running, device, connect_packet(OTHER_ID))
    assert (answer, reason) == (b"\x20\x02\x00\x02", RefusalReason.CLIENT_ID_MISMATCH)


@pytest.mark.usefixtures("bystander")
async def test_iothub_user_name_of_another_device_is_refused(running: RunningGateway) -> None:
    """The user name's device id counts too."""
    device = running.backend.certificates.device()
    username = f"hub/{OTHER_ID}/?api-version=2019-10-01"
    answer, reason = await refused_connect(running, device, connect_packet(device.device_id, username=username))
    assert (answer, reason) == (b"\x20\x02\x00\x02", RefusalReason.CLIENT_ID_MISMATCH)


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("standing", [RefusalReason.BLOCKED, RefusalReason.UNKNOWN_DEVICE])
async def test_device_in_bad_standing_is_refused(running: RunningGateway, standing: RefusalReason) -> None:
    """The registry has the last word: CONNACK 5, which ends an IoT Hub client's retries."""
    device = running.backend.certificates.device()
    running.backend.register.refusals[device.device_id] = standing
    answer, reason = await refused_connect(running, device, connect_packet(device.device_id))
    assert (answer, reason) == (b"\x20\x02\x00\x05", standing)


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("uri", ["urn:tinyfleet:device:abc", "urn:tinyfleet:operator:" + OTHER_ID])
async def test_certificate_that_names_no_device_is_refused(running: RunningGateway, uri: str) -> None:
    """Signed by the LDevID issuer, but for something else."""
    stranger = running.backend.certificates.device(uri=uri)
    answer, reason = await refused_connect(running, stranger, connect_packet(stranger.device_id))
    assert (answer, reason) == (b"\x20\x02\x00\x05", RefusalReason.NO_DEVICE_ID)


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    ("access", "expected"),
    [
        ((Access.UPDATE_ONLY,), RefusalReason.UPDATE_ONLY),
        ((), RefusalReason.FOREIGN_CERTIFICATE),
        ((Access.FULL, Access.UPDATE_ONLY), RefusalReason.FOREIGN_CERTIFICATE),
    ],
)
async def test_certificate_without_full_access_is_refused(
    running: RunningGateway, access: tuple[Access, ...], expected: RefusalReason
) -> None:
    """Messages are for devices with full access: not for one that must heal first, nor for one that does not say."""
    device = running.backend.certificates.device(access=access)
    answer, reason = await refused_connect(running, device, connect_packet(device.device_id))
    assert (answer, reason) == (b"\x20\x02\x00\x05", expected)


FIRST_PACKETS = {
    "publish": (publish_packet("a", b""), RefusalReason.PROTOCOL_VIOLATION),
    "mqtt_5": (connect_packet(OTHER_ID, level=5), RefusalReason.UNSUPPORTED_PROTOCOL),
    "http": (b"GET / HTTP/1.1\r\n", RefusalReason.PROTOCOL_VIOLATION),
    "over_16_kib": (packet(0x10, bytes(17_000)), RefusalReason.MALFORMED_PACKET),
    "trailing_bytes": (packet(0x10, connect_packet(OTHER_ID)[3:] + b"?"), RefusalReason.MALFORMED_PACKET),
}


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("case", FIRST_PACKETS)
async def test_wrong_first_packet_is_refused(running: RunningGateway, case: str) -> None:
    """Nothing but a CONNECT of MQTT 3.1.1 opens a connection."""
    first_packet, expected = FIRST_PACKETS[case]
    device = running.backend.certificates.device()
    _, reason = await refused_connect(running, device, first_packet)
    assert reason is expected


def own(device: Credential) -> str:
    return f"tinyfleet/v1/{device.device_id}/telemetry/s"


LATER_PACKETS: dict[str, tuple[Callable[[Credential], bytes], RefusalReason]] = {
    "foreign_publish": (
        lambda _: publish_packet(f"tinyfleet/v1/{OTHER_ID}/telemetry/s", b"x"),
        RefusalReason.FOREIGN_TOPIC,
    ),
    "foreign_subscription": (
        lambda _: subscribe_packet(f"tinyfleet/v1/{OTHER_ID}/commands/#"),
        RefusalReason.FOREIGN_TOPIC,
    ),
    "subscription_to_everything": (lambda _: subscribe_packet("#"), RefusalReason.FOREIGN_TOPIC),
    "own_topic_that_does_not_exist": (
        lambda device: publish_packet(f"tinyfleet/v1/{device.device_id}/commands/x", b"x"),
        RefusalReason.FOREIGN_TOPIC,
    ),
    "wildcard_in_publish": (
        lambda device: publish_packet(own(device) + "/#", b""),
        RefusalReason.MALFORMED_PACKET,
    ),
    "nul_in_topic": (lambda device: publish_packet(own(device) + "\0", b""), RefusalReason.MALFORMED_PACKET),
    "qos_2": (lambda device: publish_packet(own(device), b"", qos=2), RefusalReason.UNSUPPORTED_QOS),
    "qos_3": (lambda device: publish_packet(own(device), b"", qos=3), RefusalReason.MALFORMED_PACKET),
    "packet_id_0": (
        lambda device: publish_packet(own(device), b"", packet_id=0),
        RefusalReason.MALFORMED_PACKET,
    ),
    "payload_over_the_limit": (
        lambda device: publish_packet(own(device), bytes(256 * 1024 + 1)),
        RefusalReason.MALFORMED_PACKET,
    ),
    "announced_size_over_the_limit": (lambda _: b"\x32\xff\xff\xff\x7f", RefusalReason.MALFORMED_PACKET),
    "topic_over_the_limit": (
        lambda device: publish_packet(own(device) + "x" * 9000, b""),
        RefusalReason.MALFORMED_PACKET,
    ),
    "ill_formed_utf8": (
        lambda _: packet(0x32, text(b"\xed\xa0\x80") + b"\0\1"),
        RefusalReason.MALFORMED_PACKET,
    ),
    "second_connect": (
        lambda device: connect_packet(device.device_id),
        RefusalReason.PROTOCOL_VIOLATION,
    ),
    "server_packet": (lambda _: CONNACK_OK, RefusalReason.MALFORMED_PACKET),
}


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("case", LATER_PACKETS)
async def test_admitted_device_that_breaks_a_rule_is_closed(running: RunningGateway, case: str) -> None:
    """No acknowledgement, nothing stored, the reason audited under the proven device id."""
    make_packet, expected = LATER_PACKETS[case]
    device = running.backend.certificates.device()
    peer = await running.connect(device)
    peer.send(make_packet(device))
    assert await peer.closed() == b""
    refusal = await running.backend.events.refusal()
    assert (refusal.reason, refusal.device_id) == (expected, device.device_id)
    assert await running.telemetry.count(MessageFilter(device_id=device.device_id)) == 0
    await peer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_resumed_session_whose_certificate_has_expired_is_refused(
    running: RunningGateway, version: ssl.TLSVersion
) -> None:
    """TLS resumes the session, which proves the trap; the gateway looks at notAfter again and refuses."""
    device = running.backend.certificates.device()
    context = running.backend.certificates.client_context(device, version=version)
    session = await asyncio.to_thread(_connect_blocking, running.address, context, device, None)
    assert session[0] == CONNACK_OK
    running.backend.clock.offset = timedelta(hours=25)
    answer, resumed, _ = await asyncio.to_thread(_connect_blocking, running.address, context, device, session[2])
    assert (answer, resumed) == (b"\x20\x02\x00\x05", True)
    assert (await running.backend.events.refusal()).reason is RefusalReason.EXPIRED


async def test_resumed_session_of_a_blocked_device_is_refused(running: RunningGateway) -> None:
    """A block holds for resumed sessions too."""
    device = running.backend.certificates.device()
    context = running.backend.certificates.client_context(device)
    _, _, session = await asyncio.to_thread(_connect_blocking, running.address, context, device, None)
    running.backend.register.refusals[device.device_id] = RefusalReason.BLOCKED
    answer, resumed, _ = await asyncio.to_thread(_connect_blocking, running.address, context, device, session)
    assert (answer, resumed) == (b"\x20\x02\x00\x05", True)


def _connect_blocking(
    address: tuple[str, int], context: ssl.SSLContext, device: Credential, session: ssl.SSLSession | None
) -> tuple[bytes, bool, ssl.SSLSession | None]:
    """Connect with the blocking API, the only one that resumes sessions: (CONNACK, resumed, session)."""
    with (
        socket.create_connection(address, timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=address[0], session=session) as secure,
    ):
        secure.sendall(connect_packet(device.device_id))
        answer = secure.recv(4)
        return answer, bool(secure.session_reused), secure.session


async def test_live_connection_is_closed_at_not_after(running: RunningGateway) -> None:
    """The certificate's end is the connection's end."""
    device = running.backend.certificates.device(valid=(timedelta(hours=-1), timedelta(hours=24)))
    running.backend.clock.offset = timedelta(hours=24) - timedelta(seconds=1.5)
    remaining = device.certificate.not_valid_after_utc - running.backend.clock.now()
    assert remaining < timedelta(seconds=2)
    running.backend.clock.offset += remaining - timedelta(seconds=1)
    peer = await running.connect(device)
    assert await peer.closed() == b""
    assert await running.backend.events.disconnection() == (device.device_id, "certificate_expired")
    await peer.close()


async def test_kick_closes_the_live_connection_of_one_device(running: RunningGateway) -> None:
    """Blocking takes effect on the open connection, and on no other."""
    devices = [running.backend.certificates.device(name) for name in ("bad", "good")]
    peers = [await running.connect(device) for device in devices]
    assert running.gateway.kick(devices[0].device_id)
    assert await peers[0].closed() == b""
    assert await peers[1].exchange(PINGREQ) == PINGRESP
    assert not running.gateway.kick(devices[0].device_id)
    for peer in peers:
        await peer.close()


async def test_kick_during_admission_counts(running: RunningGateway) -> None:
    """The registry had already answered "in good standing" when the block came."""
    device = running.backend.certificates.device()
    running.backend.register.may_answer.clear()
    peer = await running.open(device)
    peer.send(connect_packet(device.device_id))
    await running.backend.register.asked.wait()
    assert running.gateway.kick(device.device_id)
    running.backend.register.may_answer.set()
    assert await peer.closed() == b""
    assert not running.gateway.is_connected(device.device_id)
    await peer.close()


async def test_newest_connection_of_a_device_wins(running: RunningGateway) -> None:
    """The older one is closed [MQTT-3.1.4-2]."""
    device = running.backend.certificates.device()
    older = await running.connect(device)
    newer = await running.connect(device)
    assert await older.closed() == b""
    assert await newer.exchange(PINGREQ) == PINGRESP
    assert running.gateway.stats()["connected_devices"] == 1
    for peer in (older, newer):
        await peer.close()


async def test_silent_device_is_closed_after_one_and_a_half_keep_alives(running: RunningGateway) -> None:
    """Keep alive of 1 s, and not a byte."""
    device = running.backend.certificates.device()
    peer = await running.open(device)
    assert await peer.exchange(connect_packet(device.device_id, keep_alive_seconds=1)) == CONNACK_OK
    assert await peer.closed() == b""
    assert await running.backend.events.disconnection() == (device.device_id, "keep_alive")
    await peer.close()


async def test_connection_without_connect_is_closed_in_time(backend: Backend) -> None:
    """A finished handshake buys a limited time."""
    async with run_gateway(backend, limits=Limits(connect_seconds=0.1)) as running:
        peer = await running.open(backend.certificates.device())
        assert await peer.closed() == b""
        assert (await backend.events.refusal()).reason is RefusalReason.CONNECT_TIMEOUT
        await peer.close()


async def test_unfinished_handshake_is_closed_in_time(backend: Backend) -> None:
    """A connection that never speaks TLS goes away."""
    async with run_gateway(backend, limits=Limits(handshake_seconds=0.1)) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        assert (await backend.events.refusal()).reason is RefusalReason.TLS_HANDSHAKE
        writer.close()
        await writer.wait_closed()
        assert running.gateway.stats()["connections"] == 0


async def test_connections_beyond_the_source_limit_are_refused_before_tls(backend: Backend) -> None:
    """Two from one address, half-open ones included; a closed one makes room again."""
    device = backend.certificates.device()
    async with run_gateway(backend, limits=Limits(max_connections_per_source=2)) as running:
        half_open = await asyncio.open_connection(*running.address)
        peer = await running.connect(device)
        reader, writer = await asyncio.open_connection(*running.address)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        assert (await backend.events.refusal()).reason is RefusalReason.TOO_MANY_CONNECTIONS
        for closing in (writer, half_open[1]):
            closing.close()
            await closing.wait_closed()
        await peer.close()
        await backend.events.disconnection()
        peer = await running.connect(device)
        await peer.close()


async def test_peer_that_does_not_read_is_not_read_from(backend: Backend) -> None:
    """What waits for a slow reader is bounded: it is paused, and goes on when it reads."""
    device = backend.certificates.device()
    async with run_gateway(backend, limits=Limits(write_buffer_bytes=16 * 1024)) as running:
        peer = await running.connect(device)
        connection = running.gateway._registry.get(device.device_id)
        assert connection is not None
        pings = 0
        async with asyncio.timeout(60):
            while connection._transport.is_reading():
                peer.send(PINGREQ * 10_000)
                pings += 10_000
                await asyncio.sleep(0)
        assert connection._transport.get_write_buffer_size() < 1024 * 1024
        answers = await peer.receive_exactly(pings * len(PINGRESP))
        assert answers == PINGRESP * pings
        await peer.close()
