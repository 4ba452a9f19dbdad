"""Durable subscriptions and queued commands, across reconnects and restarts of the service."""

from datetime import timedelta

import pytest

from service.application.messaging import CommandQueueFullError
from service.gateway.errors import CommandNameError
from service.gateway.limits import Limits
from tests.integration.gateway.gateway_certificates import Credential
from tests.integration.gateway.mqtt_peer import (
    PINGREQ,
    PINGRESP,
    connect_packet,
    packet,
    puback_packet,
    publish_packet,
    subscribe_packet,
    text,
    unsubscribe_packet,
)
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway

SESSION_PRESENT = b"\x20\x02\x01\x00"
SUBACK_QOS_1 = b"\x90\x03\x00\x01\x01"
HOUR = timedelta(hours=1)


def commands(device: Credential) -> str:
    return f"tinyfleet/v1/{device.device_id}/commands/#"


def command_packet(device: Credential, name: str, payload: bytes, *, packet_id: int, dup: bool = False) -> bytes:
    topic = f"tinyfleet/v1/{device.device_id}/commands/{name}"
    return publish_packet(topic, payload, packet_id=packet_id, dup=dup)


async def test_connected_device_gets_a_command_once(running: RunningGateway) -> None:
    """Delivered at once; after the PUBACK a new connection gets nothing."""
    device = running.backend.certificates.device()
    expires_at = running.backend.clock.now() + HOUR
    peer = await running.connect(device, clean=False)
    assert await peer.exchange(subscribe_packet(commands(device))) == SUBACK_QOS_1
    command = await running.gateway.send_command(device.device_id, "poll", b"{}", expires_at=expires_at)
    packet_id = command.command_id + 1
    assert await peer.receive() == command_packet(device, "poll", b"{}", packet_id=packet_id)
    assert await peer.exchange(puback_packet(packet_id) + PINGREQ) == PINGRESP
    await peer.close()
    peer = await running.open(device)
    assert await peer.exchange(connect_packet(device.device_id, clean=False)) == SESSION_PRESENT
    assert await peer.exchange(PINGREQ) == PINGRESP
    assert running.backend.commands.commands == []
    await peer.close()


async def test_subscription_and_command_survive_a_restart(backend: Backend) -> None:
    """Stored while the device is away, delivered by the next process without a new SUBSCRIBE."""
    device = backend.certificates.device()
    async with run_gateway(backend) as running:
        peer = await running.connect(device, clean=False)
        await peer.exchange(subscribe_packet(commands(device)))
        await peer.close()
        await backend.events.disconnection()
        expires_at = backend.clock.now() + HOUR
        await running.gateway.send_command(device.device_id, "one", b"1", expires_at=expires_at)
        await running.gateway.send_command(device.device_id, "two", b"2", expires_at=expires_at)
    async with run_gateway(backend) as running:
        peer = await running.open(device)
        assert await peer.exchange(connect_packet(device.device_id, clean=False)) == SESSION_PRESENT
        assert await peer.receive() == command_packet(device, "one", b"1", packet_id=2)
        assert await peer.receive() == command_packet(device, "two", b"2", packet_id=3)
        await peer.close()


async def test_unacknowledged_command_comes_again_with_dup_after_a_restart(backend: Backend) -> None:
    """Same packet identifier, DUP set [MQTT-4.4.0-1], until the PUBACK."""
    device = backend.certificates.device()
    async with run_gateway(backend) as running:
        peer = await running.connect(device, clean=False)
        await peer.exchange(subscribe_packet(commands(device)))
        expires_at = backend.clock.now() + HOUR
        await running.gateway.send_command(device.device_id, "c", b"x", expires_at=expires_at)
        assert await peer.receive() == command_packet(device, "c", b"x", packet_id=2)
        await peer.close()
    async with run_gateway(backend) as running:
        peer = await running.open(device)
        await peer.exchange(connect_packet(device.device_id, clean=False))
        assert await peer.receive() == command_packet(device, "c", b"x", packet_id=2, dup=True)
        assert await peer.exchange(puback_packet(2) + PINGREQ) == PINGRESP
        await peer.close()
    assert backend.commands.commands == []


async def test_commands_beyond_the_inflight_limit_follow_the_acknowledgements(backend: Backend) -> None:
    """With one in flight, the second waits for the first one's PUBACK."""
    device = backend.certificates.device()
    async with run_gateway(backend, limits=Limits(max_inflight_commands=1)) as running:
        peer = await running.connect(device)
        await peer.exchange(subscribe_packet(commands(device)))
        expires_at = backend.clock.now() + HOUR
        for name in ("one", "two"):
            await running.gateway.send_command(device.device_id, name, b"", expires_at=expires_at)
        assert await peer.receive() == command_packet(device, "one", b"", packet_id=2)
        assert await peer.exchange(PINGREQ) == PINGRESP
        assert await peer.exchange(puback_packet(2)) == command_packet(device, "two", b"", packet_id=3)
        await peer.close()


async def test_expired_command_is_not_delivered(running: RunningGateway) -> None:
    """A command too old to matter stays away."""
    device = running.backend.certificates.device()
    now = running.backend.clock.now()
    await running.gateway.send_command(device.device_id, "late", b"", expires_at=now + timedelta(seconds=1))
    running.backend.clock.offset = timedelta(seconds=2)
    peer = await running.connect(device)
    assert await peer.exchange(subscribe_packet(commands(device))) == SUBACK_QOS_1
    assert await peer.exchange(PINGREQ) == PINGRESP
    await peer.close()


async def test_command_queue_is_bounded(backend: Backend) -> None:
    """The third command of a device that holds two is refused; a wrong name always is."""
    device = backend.certificates.device()
    expires_at = backend.clock.now() + HOUR
    async with run_gateway(backend, limits=Limits(max_queued_commands=2)) as running:
        for _ in range(2):
            await running.gateway.send_command(device.device_id, "c", b"", expires_at=expires_at)
        with pytest.raises(CommandQueueFullError, match="fewer than 2"):
            await running.gateway.send_command(device.device_id, "c", b"", expires_at=expires_at)
        with pytest.raises(CommandNameError, match="command name"):
            await running.gateway.send_command(device.device_id, "a/b", b"", expires_at=expires_at)


async def test_clean_session_forgets_subscriptions(running: RunningGateway) -> None:
    """clean_session=1 drops what was stored [MQTT-3.1.2-6]."""
    device = running.backend.certificates.device()
    peer = await running.connect(device, clean=False)
    await peer.exchange(subscribe_packet(commands(device)))
    await peer.close()
    peer = await running.connect(device, clean=True)
    await peer.close()
    peer = await running.connect(device, clean=False)
    assert not running.gateway.notify(device.device_id, "poll")
    await peer.close()


async def test_connecting_again_writes_no_row(running: RunningGateway) -> None:
    """A check-in costs no write to the control database."""
    device = running.backend.certificates.device()
    for clean in (False, True, False):
        peer = await running.connect(device, clean=clean)
        await peer.close()
    assert running.backend.subscriptions.writes == 0


async def test_repeated_packets_write_nothing_more(running: RunningGateway) -> None:
    """The same SUBSCRIBE again, an UNSUBSCRIBE of nothing and a PUBACK for nothing cost no write."""
    device = running.backend.certificates.device()
    peer = await running.connect(device, clean=False)
    for _ in range(3):
        assert await peer.exchange(subscribe_packet(commands(device))) == SUBACK_QOS_1
    other = f"tinyfleet/v1/{device.device_id}/twin/desired"
    assert await peer.exchange(unsubscribe_packet(other)) == b"\xb0\x02\x00\x01"
    assert await peer.exchange(puback_packet(99) * 3 + PINGREQ) == PINGRESP
    assert running.backend.subscriptions.writes == 1
    await peer.close()


async def test_hint_is_sent_at_qos_0_to_a_subscribed_device_only(running: RunningGateway) -> None:
    """`notify` says whether anybody could hear it, and leaves nothing behind."""
    device = running.backend.certificates.device()
    assert not running.gateway.notify(device.device_id, "poll")
    peer = await running.connect(device)
    assert not running.gateway.notify(device.device_id, "poll")
    await peer.exchange(subscribe_packet(commands(device), qos=0))
    assert running.gateway.notify(device.device_id, "poll", b"now")
    topic = f"tinyfleet/v1/{device.device_id}/commands/poll"
    assert await peer.receive() == packet(0x30, text(topic) + b"now")
    await peer.exchange(unsubscribe_packet(commands(device)))
    assert not running.gateway.notify(device.device_id, "poll")
    await peer.close()


async def test_desired_twin_is_published_to_a_subscribed_device(running: RunningGateway) -> None:
    """`twin/desired` reaches those who asked for it."""
    device = running.backend.certificates.device()
    topic = f"tinyfleet/v1/{device.device_id}/twin/desired"
    peer = await running.connect(device)
    assert not running.gateway.publish_desired(device.device_id, b"{}")
    assert await peer.exchange(subscribe_packet(topic)) == SUBACK_QOS_1
    assert running.gateway.publish_desired(device.device_id, b"{}")
    assert await peer.receive() == packet(0x30, text(topic) + b"{}")
    await peer.close()


async def test_iothub_subscriptions_are_kept_or_answered_with_failure(running: RunningGateway) -> None:
    """devicebound is granted and stored; twin and method filters are not there yet: 0x80."""
    device = running.backend.certificates.device()
    bound = f"devices/{device.device_id}/messages/devicebound/#"
    username = f"hub.example/{device.device_id}/?api-version=2019-10-01&DeviceClientType=x"
    peer = await running.open(device)
    await peer.exchange(connect_packet(device.device_id, username=username, clean=False))
    answer = await peer.exchange(subscribe_packet(bound, "$iothub/twin/res/#"))
    assert answer == b"\x90\x04\x00\x01\x01\x80"
    assert running.backend.subscriptions.by_device == {device.device_id: {bound: 1}}
    expires_at = running.backend.clock.now() + HOUR
    await running.gateway.send_command(device.device_id, "poll", b"{}", expires_at=expires_at)
    topic = f"devices/{device.device_id}/messages/devicebound/name=poll"
    assert await peer.receive() == publish_packet(topic, b"{}", packet_id=2)
    await peer.close()


async def test_packets_behind_a_subscribe_wait_and_keep_their_order(running: RunningGateway) -> None:
    """CONNECT, SUBSCRIBE, PUBLISH and PINGREQ in one write are answered in order, each fully."""
    device = running.backend.certificates.device()
    topic = f"tinyfleet/v1/{device.device_id}/telemetry/s"
    peer = await running.open(device)
    peer.send(
        connect_packet(device.device_id) + subscribe_packet(commands(device)) + publish_packet(topic, b"x") + PINGREQ
    )
    assert await peer.receive() == b"\x20\x02\x00\x00"
    assert await peer.receive() == SUBACK_QOS_1
    assert {await peer.receive(), await peer.receive()} == {PINGRESP, puback_packet(1)}
    await peer.close()
