"""Somebody has the issuing CA's key and makes LDevIDs of his own: the operator ends that without waiting."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from pki import profiles
from pki.authority import CertificateAuthority
from pki.keystore import FileKeyStore
from pki.online import load_certificate
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet
from tests.integration.service_devices.rolling_over import PATH, connects, do, signed, states
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import TOKENS, Folders, make_folders

COMPROMISED = {"compromised": True}


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as service:
        yield service


def forged(live: LiveService, device: AttestingDevice) -> Credential:
    """An LDevID of a key that the thief chose, for a year."""
    certificate, stolen = stolen_authority(live.folders)
    key, now = SoftwareSigner.generate(), live.clock.now()
    profile = profiles.ldevid(device.device_id, now=now, lifetime=timedelta(days=365))
    authority = CertificateAuthority([certificate], stolen)
    return Credential(key, authority.chain_pem(authority.issue(profile, key.public_key)).decode())


def stolen_authority(folders: Folders) -> tuple[x509.Certificate, SoftwareSigner]:
    certificate = load_certificate(folders.service / "certificates" / "issuing-ca.pem")
    return certificate, FileKeyStore(folders.service / "keys", passphrase=None).load("issuing-ca")


async def succeed(live: LiveService) -> None:
    """Lead the service to a second generation that does not vouch for the first."""
    number, certificate = await signed(live)
    await do(live, f"{number}/certificate", {"certificate": certificate, **COMPROMISED})
    await do(live, f"{number}/activate")


async def admission(live: LiveService, device: AttestingDevice) -> tuple[bool, list[str]]:
    """Whether an operator sees the device as admitted, and why."""
    said = (await live.operator.get(f"/devices/{device.device_id}")).json()["admission"]
    return said["admitted"], said["reasons"]


async def explained(live: LiveService, device: AttestingDevice) -> list[str]:
    """Why an operator is told that the device does not update."""
    said: list[str] = (await live.operator.get(f"/devices/{device.device_id}/explain")).json()["reasons"]
    return said


async def test_stolen_key_is_worth_nothing_once_its_generation_is_retired(live: LiveService) -> None:
    """Connections by forged certificates end at once, new ones are refused; devices attest again and go on."""
    device, victim = await live.claimed(), await live.claimed()
    own, forgery = await live.attest(device), forged(live, victim)
    mqtt = await live.mqtt(victim, forgery)
    assert await mqtt.exchange(connect_packet(victim.device_id)) == CONNACK_OK
    port = httpx.URL(live.addresses.device_url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=live.tls(victim, forgery))
    writer.write(b"GET /device/v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await succeed(live)
    renewed = await live.attest(device)
    kept = await live.mqtt(device, renewed)
    assert await kept.exchange(connect_packet(device.device_id)) == CONNACK_OK

    await do(live, "1/retire", method="POST", body=COMPROMISED)

    assert await states(live) == ["retired", "active"]
    assert await mqtt.closed() == b""
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1_000_000)
    writer.close()
    for credential, of in ((forgery, victim), (own, device)):
        async with live.https(of, credential) as https:
            assert (await https.get("/poll")).status_code == httpx.codes.FORBIDDEN
        again = await live.mqtt(of, credential)
        assert await again.exchange(connect_packet(of.device_id)) != CONNACK_OK
        await again.close()
    await connects(live, victim, await live.attest(victim))
    assert await kept.exchange(b"\xc0\x00") == b"\xd0\x00"  # PINGREQ: who has a new certificate was not disturbed
    await kept.close()
    await mqtt.close()


async def test_operator_sees_whose_certificate_fell_with_the_stolen_key(live: LiveService) -> None:
    """Until the device attests again, it is not admitted, and the reason is said."""
    device = await live.claimed()
    await live.attest(device)
    await succeed(live)
    assert (await admission(live, device))[0]
    await do(live, "1/retire", method="POST", body=COMPROMISED)
    assert await admission(live, device) == (
        False,
        ["its operational certificate is by a generation of the issuing CA that is trusted no longer"],
    )
    reason = "its certificate is by a generation of the issuing CA that is trusted no longer"
    assert reason in await explained(live, device)
    await live.attest(device)
    assert (await admission(live, device))[0]
    assert reason not in await explained(live, device)


async def test_new_key_does_not_vouch_for_the_stolen_one(live: LiveService) -> None:
    """Who pins the new generation alone never comes to trust the old key."""
    await succeed(live)
    names = {path.name for path in (live.folders.service / "certificates").glob("issuing-ca-*-by-*.pem")}
    assert names == {"issuing-ca-2-by-1.pem"}
    generations = (await live.operator.get(PATH)).json()["items"]
    assert [len(one["cross_certificates"]) for one in generations] == [0, 1]
    assert [entry["kind"] for entry in (await live.operator.get("/issuance")).json()["items"]] == ["cross"]


async def test_retirement_of_a_compromised_generation_is_told(live: LiveService) -> None:
    """In the audit log and the event stream; by an admin alone, and not of the one that issues."""
    await live.attest(await live.claimed())
    refused = await live.operator.post(f"{PATH}/1/retire", json=COMPROMISED)
    assert refused.status_code == httpx.codes.CONFLICT
    await succeed(live)
    by_operator = {"Authorization": f"Bearer {TOKENS['operator']}"}
    refused = await live.operator.post(f"{PATH}/1/retire", json=COMPROMISED, headers=by_operator)
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert (await live.operator.post(f"{PATH}/1/retire", json={"compromised": False})).status_code == 409
    await do(live, "1/retire", method="POST", body=COMPROMISED)
    (audited,) = (await live.operator.get("/audit", params={"limit": 1})).json()["items"]
    assert (audited["action"], audited["after"]) == (
        "issuing-ca.retire",
        {"state": "retired", "compromised": True},
    )
