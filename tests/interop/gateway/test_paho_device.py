"""paho-mqtt 1.6.1, unmodified, as a native device: it parses what we write and we parse what it writes."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import paho.mqtt.client as paho

from service.application.messaging import MessageFilter, MessageKind
from tests.integration.gateway.gateway_certificates import Credential
from tests.integration.gateway.running_gateway import Backend, RunningGateway, run_gateway

PATIENCE_SECONDS = 20


class PahoDevice:
    """A paho client whose callbacks are events to wait for."""

    def __init__(self, running: RunningGateway, credential: Credential, *, clean: bool = False) -> None:
        self.client = paho.Client(credential.device_id, clean_session=clean)
        self.client.tls_set(
            ca_certs=str(running.backend.certificates.root_file),
            certfile=str(credential.certificate_file),
            keyfile=str(credential.key_file),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self.address = running.address
        self.session_present = False
        self.connected = threading.Event()
        self.subscribed = threading.Event()
        self.granted: list[int] = []
        self.messages: list[paho.MQTTMessage] = []
        self.arrived = threading.Semaphore(0)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message

    def connect(self) -> None:
        self.client.connect(*self.address, keepalive=60)
        self.client.loop_start()
        assert self.connected.wait(PATIENCE_SECONDS)

    def subscribe(self, topic_filter: str) -> None:
        self.client.subscribe(topic_filter, qos=1)
        assert self.subscribed.wait(PATIENCE_SECONDS)

    def publish_all(self, topic: str, payloads: list[bytes]) -> None:
        for info in [self.client.publish(topic, payload, qos=1) for payload in payloads]:
            info.wait_for_publish(PATIENCE_SECONDS)
            assert info.is_published()

    def next_message(self) -> paho.MQTTMessage:
        assert self.arrived.acquire(timeout=PATIENCE_SECONDS)
        return self.messages.pop(0)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, _client: Any, _userdata: Any, flags: dict[str, int], return_code: int) -> None:
        self.session_present = bool(flags["session present"])
        if return_code == 0:
            self.connected.set()

    def _on_subscribe(self, _client: Any, _userdata: Any, _mid: int, granted: tuple[int]) -> None:
        self.granted = list(granted)
        self.subscribed.set()

    def _on_message(self, _client: Any, _userdata: Any, message: paho.MQTTMessage) -> None:
        self.messages.append(message)
        self.arrived.release()


async def in_thread(step: Callable[[], None]) -> None:
    await asyncio.to_thread(step)


async def test_paho_publishes_1000_messages_and_all_are_stored(backend: Backend) -> None:
    """Every publish completes, which takes its PUBACK; the store has each once and in order."""
    credential = backend.certificates.device()
    payloads = [b"%d" % number for number in range(1000)]
    async with run_gateway(backend) as running:
        device = PahoDevice(running, credential)
        await in_thread(device.connect)
        topic = f"tinyfleet/v1/{credential.device_id}/telemetry/inference"
        await in_thread(lambda: device.publish_all(topic, payloads))
        await in_thread(device.close)
        stored = await running.telemetry.tail(MessageFilter(kind=MessageKind.TELEMETRY), after_id=0)
        assert [message.payload for message in stored] == payloads
        assert await backend.events.disconnection() == (credential.device_id, "disconnect")


async def test_paho_publishes_the_largest_message(backend: Backend) -> None:
    """256 KiB, in as many TLS records as it takes."""
    credential = backend.certificates.device()
    payload = bytes(range(256)) * 1024
    async with run_gateway(backend) as running:
        device = PahoDevice(running, credential)
        await in_thread(device.connect)
        topic = f"tinyfleet/v1/{credential.device_id}/telemetry/large"
        await in_thread(lambda: device.publish_all(topic, [payload]))
        await in_thread(device.close)
        assert await running.payloads() == [payload]


async def test_paho_gets_commands_across_a_restart_of_the_service(backend: Backend) -> None:
    """Subscribed once; a command that was queued while it was away comes at the next connect."""
    credential = backend.certificates.device()
    expires_at = backend.clock.now() + timedelta(hours=1)
    async with run_gateway(backend) as running:
        device = PahoDevice(running, credential)
        await in_thread(device.connect)
        await in_thread(lambda: device.subscribe(f"tinyfleet/v1/{credential.device_id}/commands/#"))
        assert device.granted == [1]
        await running.gateway.send_command(credential.device_id, "now", b"1", expires_at=expires_at)
        message = await asyncio.to_thread(device.next_message)
        assert (message.topic.rpartition("/")[2], message.payload, message.qos) == ("now", b"1", 1)
        await in_thread(device.close)
        await backend.events.disconnection()
        await running.gateway.send_command(credential.device_id, "later", b"2", expires_at=expires_at)
    async with run_gateway(backend) as running:
        device = PahoDevice(running, credential)
        await in_thread(device.connect)
        message = await asyncio.to_thread(device.next_message)
        assert device.session_present
        assert (message.topic.rpartition("/")[2], message.payload) == ("later", b"2")
        await in_thread(device.close)
