"""What an admitted device publishes is committed, and only then acknowledged."""

import asyncio

import pytest

from service.application.messaging import MessageFilter, MessageKind
from service.gateway.limits import Limits
from tests.integration.gateway.mqtt_peer import (
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    connect_packet,
    puback_packet,
    publish_packet,
)
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway


def telemetry_topic(device_id: str) -> str:
    return f"tinyfleet/v1/{device_id}/telemetry/inference"


async def test_message_is_stored_before_it_is_acknowledged(running: RunningGateway) -> None:
    """A PUBACK means that a reader of the store finds the message."""
    device = running.backend.certificates.device()
    peer = await running.connect(device)
    answer = await peer.exchange(publish_packet(telemetry_topic(device.device_id), b"42", packet_id=7))
    assert answer == puback_packet(7)
    (stored,) = await running.telemetry.page()
    assert (stored.device_id, stored.kind, stored.stream) == (
        device.device_id,
        MessageKind.TELEMETRY,
        "inference",
    )
    assert (stored.payload, stored.properties) == (b"42", {})
    await peer.close()


async def test_no_acknowledgement_while_the_commit_runs(running: RunningGateway) -> None:
    """While the transaction is open the device gets answers to pings, but no PUBACK."""
    device = running.backend.certificates.device()
    peer = await running.connect(device)
    running.telemetry.may_commit.clear()
    peer.send(publish_packet(telemetry_topic(device.device_id), b"1"))
    assert await peer.exchange(PINGREQ) == PINGRESP
    running.telemetry.may_commit.set()
    assert await peer.receive() == puback_packet(1)
    await peer.close()


async def test_failed_commit_closes_without_acknowledgement_and_the_next_one_works(
    running: RunningGateway,
) -> None:
    """A full disk costs a reconnect; the device sends again and nothing is lost."""
    device = running.backend.certificates.device()
    topic = telemetry_topic(device.device_id)
    peer = await running.connect(device)
    running.telemetry.failing = True
    peer.send(publish_packet(topic, b"1"))
    assert await peer.closed() == b""
    assert await running.backend.events.disconnection() == (device.device_id, "commit_failed")
    running.telemetry.failing = False
    peer = await running.connect(device)
    assert await peer.exchange(publish_packet(topic, b"1", dup=True)) == puback_packet(1)
    assert await running.payloads() == [b"1"]
    assert running.gateway.stats()["messages_failed"] == 1
    await peer.close()


async def test_many_in_flight_are_stored_in_order_and_all_acknowledged(running: RunningGateway) -> None:
    """3,000 messages beyond every in-flight limit arrive in order, with one PUBACK each, in order."""
    device = running.backend.certificates.device()
    topic = telemetry_topic(device.device_id)
    peer = await running.connect(device)
    numbers = range(1, 3001)
    peer.send(b"".join(publish_packet(topic, b"%d" % number, packet_id=number) for number in numbers))
    for number in numbers:
        assert await peer.receive() == puback_packet(number)
    stored = [message.payload for message in await running.telemetry.tail(after_id=0, limit=5000)]
    assert stored == [b"%d" % number for number in numbers]
    assert running.gateway.stats()["batches"] < 3000
    await peer.close()


async def test_events_and_twin_reports_are_stored_as_such(running: RunningGateway) -> None:
    """The kind of a message follows from its topic."""
    device = running.backend.certificates.device()
    prefix = f"tinyfleet/v1/{device.device_id}"
    peer = await running.connect(device)
    await peer.exchange(publish_packet(f"{prefix}/events/security", b"e"))
    await peer.exchange(publish_packet(f"{prefix}/twin/reported", b"t"))
    events = await running.telemetry.tail(MessageFilter(kind=MessageKind.EVENT), after_id=0)
    reports = await running.telemetry.tail(MessageFilter(kind=MessageKind.TWIN_REPORTED), after_id=0)
    assert [(event.stream, event.payload) for event in events] == [("security", b"e")]
    assert [(report.stream, report.payload) for report in reports] == [("", b"t")]
    await peer.close()


async def test_qos_0_is_stored_unacknowledged(running: RunningGateway) -> None:
    """QoS 0 gets no answer, and is there after the QoS 1 message behind it was acknowledged."""
    device = running.backend.certificates.device()
    topic = telemetry_topic(device.device_id)
    peer = await running.connect(device)
    peer.send(publish_packet(topic, b"zero", qos=0))
    assert await peer.exchange(publish_packet(topic, b"one", packet_id=9)) == puback_packet(9)
    assert await running.payloads() == [b"zero", b"one"]
    await peer.close()


async def test_payload_of_the_limit_passes(running: RunningGateway) -> None:
    """256 KiB is allowed."""
    device = running.backend.certificates.device()
    peer = await running.connect(device)
    payload = bytes(256 * 1024)
    answer = await peer.exchange(publish_packet(telemetry_topic(device.device_id), payload))
    assert answer == puback_packet(1)
    assert await running.payloads() == [payload]
    await peer.close()


async def test_bytes_that_drip_in_make_the_same_message(running: RunningGateway) -> None:
    """A packet in one-byte pieces is the same packet."""
    device = running.backend.certificates.device()
    peer = await running.connect(device)
    for byte in publish_packet(telemetry_topic(device.device_id), b"drip"):
        peer.send(bytes((byte,)))
        await asyncio.sleep(0)
    assert await peer.receive() == puback_packet(1)
    assert await running.payloads() == [b"drip"]
    await peer.close()


async def test_stop_commits_and_acknowledges_what_was_read(backend: Backend) -> None:
    """A graceful stop drops nothing that it took in."""
    device = backend.certificates.device()
    async with run_gateway(backend) as running:
        peer = await running.connect(device)
        running.telemetry.may_commit.clear()
        peer.send(publish_packet(telemetry_topic(device.device_id), b"last"))
        assert await peer.exchange(PINGREQ) == PINGRESP
        stopping = asyncio.ensure_future(running.gateway.stop())
        await asyncio.sleep(0)
        running.telemetry.may_commit.set()
        assert await peer.receive() == puback_packet(1)
        assert await peer.closed() == b""
        await stopping
        assert await running.payloads() == [b"last"]
        await peer.close()


async def test_congestion_pauses_readers_and_then_everything_arrives(backend: Backend) -> None:
    """With room for 10 uncommitted messages in all, two devices still get 200 each through."""
    limits = Limits(max_uncommitted_rows=10)
    devices = [backend.certificates.device(name) for name in ("one", "two")]
    async with run_gateway(backend, limits=limits) as running:
        running.telemetry.may_commit.clear()
        peers = [await running.connect(device) for device in devices]
        for peer, device in zip(peers, devices, strict=True):
            topic = telemetry_topic(device.device_id)
            for number in range(1, 201):
                peer.send(publish_packet(topic, b"x", packet_id=number))
        running.telemetry.may_commit.set()
        for peer in peers:
            for number in range(1, 201):
                assert await peer.receive() == puback_packet(number)
            await peer.close()
        assert await running.telemetry.count() == 400


@pytest.mark.parametrize(("goodbye", "expected"), [(b"", [b"gone"]), (DISCONNECT, [])])
async def test_will_is_published_unless_the_client_said_goodbye(
    running: RunningGateway, goodbye: bytes, expected: list[bytes]
) -> None:
    """A broken connection leaves the will in the store; a DISCONNECT does not [MQTT-3.1.2-10]."""
    device = running.backend.certificates.device()
    peer = await running.open(device)
    will = (f"tinyfleet/v1/{device.device_id}/events/gone", b"gone")
    await peer.exchange(connect_packet(device.device_id, will=will))
    peer.send(goodbye)
    if goodbye:
        await peer.closed()
    await peer.close()
    await running.backend.events.disconnection()
    await running.gateway.stop()
    assert await running.payloads() == expected
