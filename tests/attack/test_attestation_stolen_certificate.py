"""What a stolen, blocked, expired or misused device certificate opens over real TLS: nothing."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.attesting_device import AttestingDevice, client_context
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import make_folders
from tests.service_processes import idle_https

POLL = "/poll"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as service:
        yield service


async def block(live: LiveService, device: AttestingDevice) -> None:
    answer = await live.operator.post(f"/devices/{device.device_id}/block", json={"reason": "stolen"})
    assert answer.status_code == httpx.codes.NO_CONTENT


async def test_block_closes_connections_at_once_and_keeps_new_ones_out(live: LiveService) -> None:
    """A thief with a valid certificate loses the open HTTPS and MQTT connections, and gets no new ones."""
    device = await live.claimed()
    stolen = await live.attest(device)
    mqtt = await live.mqtt(device, stolen)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    reader, writer = await idle_https(live, device, stolen)

    await block(live, device)

    assert await mqtt.closed() == b""
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    async with live.https(device, stolen) as https:
        refused = await https.get(POLL)
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert refused.json()["type"] == "urn:tinyfleet:problem:blocked-device"
    again = await live.mqtt(device, stolen)
    assert await again.exchange(connect_packet(device.device_id)) == b"\x20\x02\x00\x05"
    await again.close()
    await mqtt.close()


async def test_block_outlives_a_restart(tmp_path: Path) -> None:
    """The registry, not the memory of one process, keeps a blocked device out."""
    folders = make_folders(tmp_path)
    async with live_service(folders) as live:
        device = await live.claimed()
        stolen = await live.attest(device)
        await block(live, device)
    async with live_service(folders) as live, live.https(device, stolen) as https:
        assert (await https.get(POLL)).status_code == httpx.codes.FORBIDDEN


async def test_unblocked_device_comes_in_again(live: LiveService) -> None:
    """A block is undone by an operator, and the certificate in force is good again."""
    device = await live.claimed()
    credential = await live.attest(device)
    await block(live, device)
    await live.operator.post(f"/devices/{device.device_id}/unblock")
    async with live.https(device, credential) as https:
        assert (await https.get(POLL)).status_code == httpx.codes.OK


async def test_expired_certificate_is_refused_on_an_open_connection(live: LiveService) -> None:
    """A kept-alive connection does not outlive the certificate it was made with."""
    device = await live.claimed()
    credential = await live.attest(device)
    async with live.https(device, credential) as https:
        assert (await https.get(POLL)).status_code == httpx.codes.OK
        live.clock.offset = timedelta(days=1, minutes=1)
        refused = await https.get(POLL)
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert "expected valid at" in refused.json()["detail"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_resumed_session_is_refused_after_block_and_after_expiry(
    live: LiveService, version: ssl.TLSVersion
) -> None:
    """TLS resumes without looking at the certificate; the service looks again."""
    device = await live.claimed()
    credential = await live.attest(device)
    context = live.tls(device, credential)
    context.minimum_version = context.maximum_version = version
    status, session, _ = await asyncio.to_thread(poll_once, live, context, None)
    assert status == httpx.codes.OK
    status, session, resumed = await asyncio.to_thread(poll_once, live, context, session)
    assert (status, resumed) == (httpx.codes.OK, True)
    live.clock.offset = timedelta(days=1, minutes=1)
    status, session, resumed = await asyncio.to_thread(poll_once, live, context, session)
    assert (status, resumed) == (httpx.codes.FORBIDDEN, True)
    live.clock.offset = timedelta(0)
    await block(live, device)
    status, _, resumed = await asyncio.to_thread(poll_once, live, context, session)
    assert (status, resumed) == (httpx.codes.FORBIDDEN, True)


def poll_once(
    live: LiveService, context: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[int, ssl.SSLSession | None, bool | None]:
    """Poll on a connection of its own; returns the status, the session, and whether it was resumed."""
    port = httpx.URL(live.addresses.device_url).port or 0
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as tls,
    ):
        tls.sendall(b"GET /device/v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while chunk := tls.recv(4096):
            answer += chunk
        return int(answer.split()[1]), tls.session, tls.session_reused


async def test_each_certificate_reaches_its_own_endpoints_alone(live: LiveService) -> None:
    """An IDevID attests and nothing else; an LDevID does everything else."""
    device = await live.claimed()
    credential = await live.attest(device)
    async with live.https(device) as with_idevid:
        assert (await with_idevid.get(POLL)).status_code == httpx.codes.FORBIDDEN
        assert (await with_idevid.get("/attestation")).status_code == httpx.codes.FORBIDDEN
    async with live.https(device, credential) as with_ldevid:
        for path in ("/attest", "/attest/nonce"):
            assert (await with_ldevid.post(path, content=b"{}")).status_code == httpx.codes.FORBIDDEN
        assert (await with_ldevid.get("/nothing")).status_code == httpx.codes.NOT_FOUND


async def test_idevid_opens_no_mqtt_connection(live: LiveService) -> None:
    """The gateway does not even trust the factory's branch."""
    device = await live.claimed()
    idevid = Credential(device.identity, device.idevid_chain)
    mqtt = await live.mqtt(device, idevid)  # with TLS 1.3 a client learns of its refusal only afterwards
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await mqtt.exchange(connect_packet(device.device_id))
    await mqtt.close()


async def test_device_certificate_is_no_operator(live: LiveService) -> None:
    """The operator listener takes certificates of operators alone, and no connection without one on the other."""
    device = await live.claimed()
    credential = await live.attest(device)
    for key, chain in ((credential.key, credential.chain), (device.identity, device.idevid_chain)):
        context = client_context(live.addresses.ca, key, chain)
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(f"{live.addresses.operator_url}/api/v1/devices")
        assert answer.status_code == httpx.codes.FORBIDDEN


async def test_nobody_gets_in_without_a_certificate(live: LiveService) -> None:
    """The device listener ends the handshake of a client that shows none."""
    context = ssl.create_default_context(cafile=str(live.addresses.ca))
    async with httpx.AsyncClient(verify=context) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(f"{live.addresses.device_url}/device/v1/poll")
