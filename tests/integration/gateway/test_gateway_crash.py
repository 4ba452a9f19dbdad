"""kill -9 in mid-stream: whatever was acknowledged is in the log."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from tests.integration.gateway.gateway_certificates import Credential
from tests.integration.gateway.mqtt_peer import CONNACK_OK, MqttPeer, connect_packet, publish_packet
from tests.integration.gateway.running_gateway import Backend

SERVE = Path(__file__).parents[2] / "benchmarks" / "gateway_serve.py"
DEVICES = 5
IN_FLIGHT = 50
KILL_AFTER = 2_000  # acknowledged messages of all devices


async def start_process(backend: Backend, folder: Path) -> tuple[Process, int]:
    server = backend.certificates.server("127.0.0.1")
    issuer = folder / "issuer.pem"
    issuer.write_bytes(backend.certificates.issuing_ca.certificate.public_bytes(Encoding.PEM))
    settings = {
        "certificate": str(server.certificate_file),
        "key": str(server.key_file),
        "issuer": str(issuer),
        "telemetry": str(backend.telemetry_file),
        "control": str(folder / "control.db"),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, str(SERVE), stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(settings).encode() + b"\n")
    return process, int(await process.stdout.readline())


class Stream:
    """A device that publishes until its connection breaks, and knows what was acknowledged."""

    def __init__(self, device: Credential) -> None:
        self.device = device
        self.acknowledged: list[bytes] = []

    async def run(self, backend: Backend, port: int, enough: asyncio.Event) -> None:
        context = backend.certificates.client_context(self.device)
        peer = await MqttPeer.open(("127.0.0.1", port), context)
        assert await peer.exchange(connect_packet(self.device.device_id)) == CONNACK_OK
        number = 0
        try:
            for number in range(1, IN_FLIGHT + 1):
                peer.send(self._message(number))
            while True:
                puback = await peer.receive()
                self.acknowledged.append(self._payload(int.from_bytes(puback[2:], "big")))
                if len(self.acknowledged) * DEVICES >= KILL_AFTER:
                    enough.set()
                number += 1
                peer.send(self._message(number))
        except (asyncio.IncompleteReadError, ConnectionError):
            await peer.close()

    def _message(self, number: int) -> bytes:
        topic = f"tinyfleet/v1/{self.device.device_id}/telemetry/s"
        return publish_packet(topic, self._payload(number), packet_id=number)

    def _payload(self, number: int) -> bytes:
        return f"{self.device.device_id[:16]} {number}".encode()


async def test_killed_gateway_loses_no_acknowledged_message(backend: Backend, tmp_path: Path) -> None:
    """Five devices publish without pause; SIGKILL; every acknowledged payload is found after a restart."""
    process, port = await start_process(backend, tmp_path)
    streams = [Stream(backend.certificates.device(f"device {number}")) for number in range(DEVICES)]
    enough = asyncio.Event()
    running = [asyncio.create_task(stream.run(backend, port, enough)) for stream in streams]
    await asyncio.wait_for(enough.wait(), 60)
    process.send_signal(signal.SIGKILL)
    await asyncio.gather(*running)
    assert await process.wait() == -signal.SIGKILL
    acknowledged = {payload for stream in streams for payload in stream.acknowledged}
    assert len(acknowledged) >= KILL_AFTER // DEVICES
    store = await SqliteTelemetryStore.open(backend.telemetry_file)
    stored = {message.payload for message in await store.tail(after_id=0, limit=1_000_000)}
    await store.close()
    assert acknowledged <= stored
