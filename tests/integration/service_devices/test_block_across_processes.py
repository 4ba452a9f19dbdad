"""A block and the end of a certificate close live connections on every process, measured; nothing resumes after it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import pytest
from cryptography import x509

from tests.attesting_device import HONEST, AttestingDevice
from tests.integration.gateway.mqtt_peer import CONNACK_OK, MqttPeer, connect_packet
from tests.live_service import Credential, LiveService, list_images
from tests.postgresql import crashing_server
from tests.service_folder import Folders
from tests.service_processes import (
    PATIENCE_SECONDS,
    ServiceProcess,
    idle_https,
    is_let_in,
    is_refused,
    is_welcome,
    polls,
    remark,
    resumable_sessions,
    service_process,
    until,
)


@asynccontextmanager
async def two_processes(
    folders: Folders, database: str, **settings: object
) -> AsyncIterator[tuple[ServiceProcess, ServiceProcess]]:
    list_images(folders, HONEST.components)
    async with service_process(folders, "a", database, **settings) as a:
        (await a.operator.post("/products", json={"name": "Camera"})).raise_for_status()
        async with service_process(folders, "b", database, **settings) as b:
            yield a, b


@dataclass
class Live:
    """A device's open connections."""

    mqtt: MqttPeer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def closed(self, since: float) -> dict[str, float]:
        """Wait until both are closed; returns seconds since a moment of the monotonic clock."""
        mqtt, https = await asyncio.gather(_when(self.mqtt.closed()), _when(self._https_closed()))
        return {"mqtt": round(mqtt - since, 4), "https": round(https - since, 4)}

    async def _https_closed(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                assert await self.reader.read(1) == b""
            except ConnectionError:
                return

    async def close(self) -> None:
        self.writer.transport.abort()
        await self.mqtt.close()


async def _when(happens: Awaitable[object]) -> float:
    await happens
    return time.monotonic()


async def connected(live: LiveService, device: AttestingDevice, credential: Credential) -> Live:
    mqtt = await live.mqtt(device, credential)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    return Live(mqtt, *await idle_https(live, device, credential))


async def block(live: LiveService, device: AttestingDevice) -> None:
    answer = await live.operator.post(f"/devices/{device.device_id}/block", json={"reason": "stolen"})
    assert answer.status_code == httpx.codes.NO_CONTENT


async def enrolled(a: LiveService, b: LiveService) -> tuple[AttestingDevice, Credential]:
    """Claim and attest at one process, and wait until the other one lets the device in."""
    device = await a.claimed()
    credential = await a.attest(device)
    await until(lambda: is_let_in(b, device, credential))
    return device, credential


async def test_block_through_one_process_closes_connections_of_the_other(folders: Folders, postgresql_url: str) -> None:
    """MQTT and HTTPS end, resumed sessions are refused, and an unblocked device comes in again."""
    async with two_processes(folders, postgresql_url) as (a, b):
        device, credential = await enrolled(a, b)
        sessions = await asyncio.to_thread(resumable_sessions, b, device, credential)
        live = await connected(b, device, credential)

        asked = time.monotonic()
        await block(a, device)
        answered = time.monotonic()
        took = await live.closed(asked)
        remark(f"block through the other process: closed {took} s after the request, answered {answered - asked:.4f} s")
        await live.close()

        for session in sessions:
            answer, _, resumed = await asyncio.to_thread(session.ask)
            assert resumed
            assert is_refused(answer), answer
        assert await polls(a, device, credential) == httpx.codes.FORBIDDEN
        (await a.operator.post(f"/devices/{device.device_id}/unblock")).raise_for_status()
        await until(lambda: is_let_in(b, device, credential))
        live = await connected(b, device, credential)
        await live.close()


async def test_block_holds_although_its_process_is_killed(folders: Folders, postgresql_url: str) -> None:
    """The answer is given after the commit, and what is committed reaches the others whoever lives on."""
    async with two_processes(folders, postgresql_url) as (a, b):
        device, credential = await enrolled(a, b)
        live = await connected(b, device, credential)
        asked = time.monotonic()
        await block(a, device)
        a.process.kill()
        remark(f"process killed after its answer: closed {await live.closed(asked)} s after the request")
        await live.close()
        assert await polls(b, device, credential) == httpx.codes.FORBIDDEN


async def test_end_of_validity_closes_connections(folders: Folders, postgresql_url: str) -> None:
    """At notAfter both connections end, and TLS sessions that resume all the same are refused."""
    async with two_processes(folders, postgresql_url, certificate_lifetime_seconds=6.0) as (a, b):
        device, credential = await enrolled(a, b)
        leaf = x509.load_pem_x509_certificates(credential.chain.encode())[0]
        sessions = await asyncio.to_thread(resumable_sessions, b, device, credential)
        live = await connected(b, device, credential)
        now = datetime.now(UTC)  # noqa: TID251 - TLS goes by the machine's clock
        end = time.monotonic() + (leaf.not_valid_after_utc - now).total_seconds()
        remark(f"end of validity: closed {await live.closed(end)} s after it")
        await live.close()
        for session in sessions:
            answer, _, _ = await asyncio.to_thread(session.ask)
            assert is_refused(answer), answer


async def test_block_reaches_the_other_process_after_the_database_crashed(folders: Folders) -> None:
    """Both processes outlive a crash of PostgreSQL, listen again, and lose no block."""
    with crashing_server() as (database, crash):
        async with two_processes(folders, database) as (a, b):
            device, credential = await enrolled(a, b)
            await asyncio.to_thread(crash)
            await until(lambda: _answers(a))
            live = await connected(b, device, credential)
            asked = time.monotonic()
            await block(a, device)
            remark(f"after a crash of PostgreSQL: closed {await live.closed(asked)} s after the request")
            await live.close()


async def _answers(live: LiveService) -> bool:
    answer = await live.operator.get(f"{live.addresses.operator_url}/healthz")
    return answer.status_code == httpx.codes.OK


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 403 Forbidden\r\n", b"\x20\x02\x00\x05"])
def test_refusals_are_told_from_welcomes(answer: bytes) -> None:
    """The tests above would see an open door."""
    assert is_refused(answer)
    assert not is_welcome(answer)
