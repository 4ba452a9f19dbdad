"""EST on the running service, on both databases."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates

from protocol.est import CSRATTRS_MEDIA_TYPE, NONCE_MEDIA_TYPE
from protocol.geometry import Slot
from protocol.identity import Access, access_in, device_id_in, device_uri
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice, component
from tests.est_client import EstClient, est_csr
from tests.live_service import LiveService, live_service
from tests.service_folder import Folders


@pytest.fixture
async def service(database: str, folders: Folders) -> AsyncIterator[LiveService]:
    async with live_service(folders, database_url=database) as running:
        yield running


@pytest.fixture
async def device(service: LiveService) -> AttestingDevice:
    return await service.claimed()


async def test_device_enrols_and_connects(service: LiveService, device: AttestingDevice) -> None:
    """By IDevID, and then it polls with what it got."""
    credential = await EstClient(service, device).enrolled()
    leaf = x509.load_pem_x509_certificate(credential.chain.encode())
    assert device_id_in(leaf) == device.device_id
    assert access_in(leaf) is Access.FULL
    async with service.https(device, credential) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.OK


async def test_ldevid_enrols_again_with_a_fresh_key(service: LiveService, device: AttestingDevice) -> None:
    """The evidence is signed by the identity key, whatever certificate the connection has."""
    first = await EstClient(service, device).enrolled()
    second = await EstClient(service, device, first).enrolled()
    assert second.key.public_key != first.key.public_key
    async with service.https(device, second) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.OK


async def test_authorities_are_told_to_any_device_certificate(service: LiveService) -> None:
    """Claimed or not: root and issuer, in PKCS#7."""
    answer = await EstClient(service, AttestingDevice(service.folders)).get("cacerts")
    assert answer.headers["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer.headers["Content-Transfer-Encoding"] == "base64"
    found = load_der_pkcs7_certificates(base64.b64decode(answer.content))
    assert service.folders.root.certificate in found
    assert len(found) == 2


async def test_blocked_device_still_learns_the_authorities(service: LiveService, device: AttestingDevice) -> None:
    """With the LDevID that it has, and nothing more."""
    credential = await EstClient(service, device).enrolled()
    (await service.operator.post(f"/devices/{device.device_id}/block", json={"reason": "test"})).raise_for_status()
    client = EstClient(service, device, credential)
    assert (await client.get("cacerts")).status_code == httpx.codes.OK
    for operation in ("nonce", "csrattrs"):
        assert (await client.get(operation)).status_code == httpx.codes.FORBIDDEN
    assert (await EstClient(service, device).get("nonce")).status_code == httpx.codes.FORBIDDEN


async def test_attributes_tell_what_a_request_holds(service: LiveService, device: AttestingDevice) -> None:
    """With the device's own name."""
    answer = await EstClient(service, device).get("csrattrs")
    assert answer.headers["Content-Type"] == CSRATTRS_MEDIA_TYPE
    assert device_uri(device.device_id).encode() in base64.b64decode(answer.content)


async def test_nonce_says_how_long_it_is_in_force(service: LiveService, device: AttestingDevice) -> None:
    """32 octets, base64url."""
    client = EstClient(service, device)
    answer = await client.get("nonce")
    assert answer.headers["Content-Type"] == NONCE_MEDIA_TYPE
    assert answer.json()["expiry"] == service.settings.nonce_lifetime_seconds
    assert len(await client.nonce()) == 32


async def test_device_that_asks_too_often_writes_nothing_more(database: str, folders: Folders) -> None:
    """Refusals are recorded up to the rate, of a claimed device as of an unclaimed one; then there is 429."""
    async with live_service(folders, database_url=database, attestations_per_hour=2) as service:
        claimed, stranger = await service.claimed(), AttestingDevice(folders)
        for device, refused in ((claimed, httpx.codes.BAD_REQUEST), (stranger, httpx.codes.ACCEPTED)):
            client = EstClient(service, device)
            answers = [await client.enrol(bytes([number])) for number in range(4)]
            assert [answer.status_code for answer in answers] == [refused, refused, 429, 429]
            assert int(answers[-1].headers["Retry-After"]) > 0
        answers = [await EstClient(service, stranger).get("nonce") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 429]
        answers = [await EstClient(service, claimed).get("nonce") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_unclaimed_device_is_told_to_come_again(service: LiveService) -> None:
    """And operators see that it is there."""
    device = AttestingDevice(service.folders)
    client = EstClient(service, device)
    for answer in (
        await client.get("nonce"),
        await client.enrol(est_csr(device, bytes(32), SoftwareSigner.generate())),
    ):
        assert answer.status_code == httpx.codes.ACCEPTED
        assert int(answer.headers["Retry-After"]) > 0
    results = (await service.operator.get("/attestations")).json()["items"]
    assert [result["device_id"] for result in results] == [device.device_id]


async def test_product_may_forbid_est(service: LiveService, device: AttestingDevice) -> None:
    """Its devices attest all the same."""
    (await service.operator.patch("/products/Camera", json={"est": False})).raise_for_status()
    client = EstClient(service, device)
    for answer in (
        await client.get("nonce"),
        await client.enrol(est_csr(device, bytes(32), SoftwareSigner.generate())),
    ):
        assert answer.status_code == httpx.codes.FORBIDDEN
        assert answer.json()["type"] == "urn:tinyfleet:problem:est-disabled"
        assert "Camera" in answer.json()["detail"]
    await service.attest(device)


async def test_quarantined_device_enrols_again_when_it_has_healed(
    service: LiveService, device: AttestingDevice
) -> None:
    """Its restricted LDevID reaches EST, and an honest boot gets it out."""
    groups = (await service.operator.get("/device-groups", params={"product": "Camera"})).json()["items"]
    group = next(each["id"] for each in groups if each["name"] == "Production")
    policy = {"attestation": {"unknown": "quarantine"}}
    (await service.operator.patch(f"/device-groups/{group}", json=policy)).raise_for_status()
    honest = device.evidence
    stranger = component(Slot.OS, b"\x66" * 32)
    booted = tuple(stranger if part.type == Slot.OS else part for part in honest.components)
    device.evidence = replace(honest, components=booted, boot_seed=b"\x03" * 32)
    restricted = await EstClient(service, device).enrolled()
    assert access_in(x509.load_pem_x509_certificate(restricted.chain.encode())) is Access.UPDATE_ONLY
    device.evidence = replace(honest, boot_seed=b"\x04" * 32)
    healed = await EstClient(service, device, restricted).enrolled()
    assert access_in(x509.load_pem_x509_certificate(healed.chain.encode())) is Access.FULL
