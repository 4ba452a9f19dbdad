"""The issuing CA's rollover over the operator API, on a running service with TLS and MQTT devices."""

import asyncio
import base64
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import pkcs7

from pki.authority import chain_pem
from pki.online import load_certificate
from pki.rollover import STATE_FILE
from protocol.messages import NonceRequest
from protocol.signing import SoftwareSigner
from service.adapters.issuing_ca import LOOK_SECONDS
from tests.integration.service_devices.rolling_over import PATH, chain_of, connects, do, roll_over, signed, states
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import TOKENS, Folders

BY_VIEWER = {"Authorization": f"Bearer {TOKENS['viewer']}"}


@pytest.fixture
async def live(folders: Folders) -> AsyncIterator[LiveService]:
    async with live_service(folders, attestations_per_hour=6) as opened:
        yield opened


async def test_both_generations_connect_after_the_rollover(live: LiveService) -> None:
    """The old certificate stays good to its end; the new one's chain ends with the cross certificate."""
    device = await live.claimed()
    old = await live.attest(device)
    await connects(live, device, old)
    await roll_over(live)
    assert await states(live) == ["trusted", "active"]
    new = await live.attest(device)
    first, second = (load_certificate(live.folders.service / "certificates" / f"issuing-ca{n}.pem") for n in ("", "-2"))
    leaf, issuer, cross = chain_of(new)
    assert (issuer, cross.issuer, cross.public_key()) == (second, first.subject, second.public_key())
    leaf.verify_directly_issued_by(second)
    chain_of(old)[0].verify_directly_issued_by(first)
    for credential in (old, new, old):
        await connects(live, device, credential)


async def test_leaf_alone_is_enough_for_either_generation(live: LiveService) -> None:
    """A device that sends no chain: the service knows its own authorities, and took the new one without a restart."""
    device = await live.claimed()
    old = await live.attest(device)
    await roll_over(live)
    new = await live.attest(device)
    for credential in (old, new):
        await connects(live, device, Credential(credential.key, chain_pem(chain_of(credential)[:1]).decode()))


@dataclass(frozen=True, slots=True)
class Polled:
    """One poll over a connection of its own."""

    status: bytes
    session: ssl.SSLSession | None
    resumed: bool | None


def poll_by(address: httpx.URL, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Polled:
    with (
        socket.create_connection((address.host, address.port)) as tcp,
        context.wrap_socket(tcp, server_hostname=address.host, session=session) as tls,
    ):
        tls.sendall(b"GET /device/v1/poll HTTP/1.1\r\nHost: service\r\nConnection: close\r\n\r\n")
        return Polled(tls.recv(64).split(b"\r\n")[0], tls.session, tls.session_reused)


async def test_tls_session_of_the_old_generation_resumes(live: LiveService) -> None:
    """A session that began before the rollover is good after it, though no chain is shown again."""
    device = await live.claimed()
    context = live.tls(device, await live.attest(device))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is there right after the handshake
    address = httpx.URL(live.addresses.device_url)
    first = await asyncio.to_thread(poll_by, address, context, None)
    assert (first.status, first.resumed) == (b"HTTP/1.1 200 OK", False)
    await roll_over(live)
    second = await asyncio.to_thread(poll_by, address, context, first.session)
    assert (second.status, second.resumed) == (b"HTTP/1.1 200 OK", True)


async def test_est_publishes_both_generations_and_their_cross_certificates(live: LiveService) -> None:
    """RFC 7030 §4.1.3: who has pinned either finds the way to the other."""
    device = await live.claimed()
    await roll_over(live)
    async with live.https(device) as https:
        answer = await https.get(f"{live.addresses.device_url}/.well-known/est/cacerts")
    found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    names = ("root", "issuing-ca", "issuing-ca-2", "issuing-ca-2-by-1", "issuing-ca-1-by-2")
    folder = live.folders.service / "certificates"
    assert set(found) == {load_certificate(folder / f"{name}.pem") for name in names}


async def test_generation_in_use_is_not_retired(live: LiveService) -> None:
    """Refused with how many and until when; granted once the last of them has ended."""
    await live.attest(await live.claimed())
    await roll_over(live)
    refused = await live.operator.post(f"{PATH}/1/retire")
    assert refused.status_code == httpx.codes.CONFLICT
    assert (refused.json()["type"], refused.json()["certificates"]) == ("urn:tinyfleet:problem:issuing-ca-in-use", 1)
    live.clock.offset = timedelta(hours=25)
    await do(live, "1/retire")
    assert await states(live) == ["retired", "active"]
    await do(live, "1/retire")
    audit = (await live.operator.get("/audit", params={"limit": 10})).json()["items"]
    steps = [entry["action"] for entry in audit if entry["action"].startswith("issuing-ca.")]
    assert steps == [f"issuing-ca.{step}" for step in ("retire", "retire", "activate", "accept", "request")]


async def test_what_the_service_cross_signs_is_in_its_log(live: LiveService) -> None:
    """Both cross certificates, before they are published."""
    await roll_over(live)
    page = (await live.operator.get("/issuance")).raise_for_status().json()
    assert [entry["kind"] for entry in page["items"]] == ["cross", "cross"]
    assert page["head"]["sequence"] == 2


async def test_steps_out_of_turn_are_refused(live: LiveService) -> None:
    """Each with its own problem, and nothing changes."""
    number, certificate = await signed(live)
    for path, body, status, rule in (
        ("2/activate", None, 409, "issuing-ca-state"),
        ("1/retire", None, 409, "issuing-ca-state"),
        ("7/activate", None, 404, "unknown-issuing-ca"),
        ("7/certificate", {"certificate": certificate}, 409, "issuing-ca-state"),
        (f"{number}/certificate", {"certificate": "nonsense"}, 422, "issuing-ca-certificate"),
        (f"{number}/certificate", {"certificate": certificate, "more": 1}, 422, "invalid-request"),
    ):
        answer = await live.operator.request("POST" if body is None else "PUT", f"{PATH}/{path}", json=body)
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, rule)
    assert await states(live) == ["active", "requested"]


async def test_only_an_admin_leads_a_rollover(live: LiveService) -> None:
    """A viewer reads."""
    assert (await live.operator.get(PATH, headers=BY_VIEWER)).status_code == httpx.codes.OK
    assert (await live.operator.get("/issuance", headers=BY_VIEWER)).status_code == httpx.codes.OK
    for path in ("", "/2/activate", "/1/retire"):
        assert (await live.operator.post(PATH + path, headers=BY_VIEWER)).status_code == httpx.codes.FORBIDDEN
    assert await states(live) == ["active"]


async def test_service_follows_what_another_process_did_to_its_folder(folders: Folders) -> None:
    """The state file alone changes; the running service issues by the new generation soon after."""
    async with live_service(folders) as live:
        device = await live.claimed()
        old = await live.attest(device)
        number, certificate = await signed(live)
        await do(live, f"{number}/certificate", {"certificate": certificate})
        (folders.service / STATE_FILE).write_text('{"active": 2, "retired": []}')
        live_until = live.clock.now() + timedelta(seconds=20 * LOOK_SECONDS)
        while len(chain_of(new := await live.attest(device))) < 3:
            assert live.clock.now() < live_until
        for credential in (old, new):
            await connects(live, device, credential)


async def test_device_that_asks_too_often_is_told_when_to_come_again(live: LiveService) -> None:
    """429 with Retry-After before anything is written; its neighbour is served, and so is it later."""
    device, neighbour = await live.claimed(), await live.claimed()
    for _ in range(6):
        await live.attest(device)
    before = (await live.operator.get(f"/devices/{device.device_id}")).json()
    key = SoftwareSigner.generate()
    for _ in range(3):
        refused = await live.ask_to_attest(device, key)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:tinyfleet:problem:device-rate")
        assert 0 < int(refused.headers["Retry-After"]) <= 600
    async with live.https(device) as https:
        request = NonceRequest(device_nonce=b"\x07" * 32)
        claim = await https.post("/attest", content=device.request(b"\x00" * 32, key).model_dump_json())
        nonce = await https.post("/attest/nonce", content=request.model_dump_json())
    assert (claim.status_code, nonce.status_code) == (429, 429)
    assert (await live.operator.get(f"/devices/{device.device_id}")).json()["attestation"] == before["attestation"]
    await live.attest(neighbour)
    live.clock.offset = timedelta(minutes=10)
    await live.attest(device)
