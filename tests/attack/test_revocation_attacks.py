"""Attacks around revocation, on the running service: a revoked device that clings to what it has, and false lists."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPResponseStatus

from pki.authority import CertificateAuthority, issuer_key_id
from pki.ocsp import MAX_REQUEST_BYTES
from pki.online import issuing_authority
from pki.revocation import Reason, Revocation, RevocationList, sign_crl, verify_crl
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice
from tests.est_client import EstClient
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet
from tests.live_service import LiveService, live_service
from tests.service_folder import ADMIN_TOKEN, TOKENS, Folders, make_folders

NOW = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251 - TLS goes by the wall clock
LIFETIME = timedelta(days=30)


@dataclass
class Revoker:
    """The operator with the factory's offline key."""

    service: LiveService
    factory: CertificateAuthority

    @property
    def path(self) -> str:
        return f"/pki/crls/{issuer_key_id(self.factory.certificate)}"

    @property
    def public_path(self) -> str:
        return f"{self.service.addresses.operator_url}/pki/crl/{issuer_key_id(self.factory.certificate)}.crl"

    async def publish(
        self, number: int, revoked: Mapping[int, Revocation], authority: CertificateAuthority | None = None
    ) -> httpx.Response:
        crl = sign_crl(authority or self.factory, number=number, revoked=revoked, now=NOW, lifetime=LIFETIME)
        return await self.service.operator.put(self.path, content=crl.der)

    async def revoke(self, device: AttestingDevice) -> None:
        leaf = x509.load_pem_x509_certificates(device.idevid_chain.encode())[0]
        revocation = Revocation(NOW, Reason.KEY_COMPROMISE)
        (await self.publish(101, {leaf.serial_number: revocation})).raise_for_status()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture
async def service(folders: Folders) -> AsyncIterator[LiveService]:
    async with live_service(folders) as running:
        yield running


@pytest.fixture
def revoker(service: LiveService, folders: Folders) -> Revoker:
    return Revoker(service, folders.factory)


async def test_revoked_device_loses_every_way_in(service: LiveService, revoker: Revoker) -> None:
    """Its connections are closed at once, its LDevID stops, and its IDevID opens nothing."""
    device = await service.claimed()
    credential = await service.attest(device)
    mqtt = await service.mqtt(device, credential)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    port = httpx.URL(service.addresses.device_url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=service.tls(device))  # by the IDevID, idle
    await revoker.revoke(device)
    assert await mqtt.closed() == b""
    assert await reader.read() == b""
    writer.close()
    await mqtt.close()
    async with service.https(device, credential) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.FORBIDDEN
    answer = await service.ask_to_attest(device, SoftwareSigner.generate())
    assert answer.status_code == httpx.codes.FORBIDDEN
    assert "revoked since" in answer.json()["detail"]
    assert (await EstClient(service, device).get("nonce")).status_code == httpx.codes.FORBIDDEN
    assert (await service.claim(device)).status_code == httpx.codes.FORBIDDEN
    unblocked = await service.operator.post(f"/devices/{device.device_id}/unblock")
    assert unblocked.status_code == httpx.codes.CONFLICT


@pytest.mark.parametrize("number", [100, 101])
async def test_older_list_brings_nobody_back(service: LiveService, revoker: Revoker, number: int) -> None:
    """Properly signed, but not newer than the one in force."""
    device = await service.claimed()
    await revoker.revoke(device)
    answer = await revoker.publish(number, {})
    assert answer.status_code == httpx.codes.CONFLICT
    assert "expected above 101" in answer.json()["detail"]


async def test_list_that_forgets_a_revocation_is_refused(service: LiveService, revoker: Revoker) -> None:
    """A newer number does not help."""
    device = await service.claimed()
    await revoker.revoke(device)
    answer = await revoker.publish(102, {})
    assert answer.status_code == httpx.codes.CONFLICT
    assert "found it missing" in answer.json()["detail"]
    assert (await service.operator.get("/pki/crls")).json()["items"][1]["number"] == 101


async def test_online_key_signs_no_list_of_birth_certificates(revoker: Revoker, folders: Folders) -> None:
    """Who steals the service's keys cannot take a revocation back."""
    answer = await revoker.publish(101, {}, issuing_authority(folders.service))
    assert answer.status_code == 422
    assert "found another issuer's" in answer.json()["detail"]


@pytest.mark.parametrize("role", ["viewer", "operator", "releaser"])
async def test_lower_role_publishes_no_list(revoker: Revoker, role: str) -> None:
    """Only an admin does."""
    revoker.service.operator.headers["Authorization"] = f"Bearer {TOKENS[role]}"
    assert (await revoker.publish(101, {})).status_code == httpx.codes.FORBIDDEN


async def test_stranger_reads_and_writes_nothing_but_what_is_public(revoker: Revoker) -> None:
    """Without a credential: the list and OCSP, nothing else."""
    (await revoker.publish(101, {})).raise_for_status()
    del revoker.service.operator.headers["Authorization"]
    assert (await revoker.publish(102, {})).status_code == httpx.codes.UNAUTHORIZED
    assert (await revoker.service.operator.get("/pki/crls")).status_code == httpx.codes.UNAUTHORIZED
    answer = await revoker.service.operator.get(revoker.public_path)
    assert answer.status_code == httpx.codes.OK
    unchanged = {"If-None-Match": answer.headers["ETag"]}
    again = await revoker.service.operator.get(revoker.public_path, headers=unchanged)
    assert again.status_code == httpx.codes.NOT_MODIFIED


@pytest.mark.parametrize("body", [b"", b"\x30\x03\x02\x01\x05", bytes(MAX_REQUEST_BYTES)])
async def test_ocsp_garbage_gets_an_ocsp_error(service: LiveService, body: bytes) -> None:
    """By POST and by GET."""
    url = f"{service.addresses.operator_url}/pki/ocsp"
    encoded = base64.b64encode(body[:100]).decode().replace("/", "%2F")
    for answer in (
        await service.operator.post(url, content=body),
        await service.operator.get(f"{url}/{encoded or 'x'}"),
        await service.operator.get(f"{url}/not-base64!"),
    ):
        assert answer.headers["Content-Type"] == "application/ocsp-response"
        found = ocsp.load_der_ocsp_response(answer.content)
        assert found.response_status is OCSPResponseStatus.MALFORMED_REQUEST


async def test_endless_ocsp_request_is_cut_off(service: LiveService) -> None:
    """No more is read than any request needs."""
    url = f"{service.addresses.operator_url}/pki/ocsp"
    answer = await service.operator.post(url, content=bytes(MAX_REQUEST_BYTES + 1))
    assert answer.status_code == 422


async def test_third_party_hears_of_a_blocked_device(service: LiveService, folders: Folders) -> None:
    """The LDevID issuer's list names every unexpired certificate of a device that is shut out, and no other's."""
    device, other = await service.claimed(), await service.claimed()
    certificates = [await service.attest(device), await service.attest(device)]
    await service.attest(other)
    issuer = issuing_authority(folders.service).certificate
    url = f"{service.addresses.operator_url}/pki/crl/{issuer_key_id(issuer)}.crl"

    async def shown() -> RevocationList:
        del service.operator.headers["Authorization"]
        answer = await service.operator.get(url)
        service.operator.headers["Authorization"] = f"Bearer {ADMIN_TOKEN}"
        answer.raise_for_status()
        return verify_crl(answer.content, issuer=issuer, now=datetime.now(UTC))  # noqa: TID251 - as above

    async def listed(serials: set[int]) -> RevocationList:
        """Wait for the event feed, which is a moment behind the answer to the operator."""
        async with asyncio.timeout(20):
            while set((crl := await shown()).revoked) != serials:  # noqa: ASYNC110 - nothing tells a client
                await asyncio.sleep(0.05)
        return crl

    before = await listed(set())
    (await service.operator.post(f"/devices/{device.device_id}/block", json={"reason": "lost"})).raise_for_status()
    leaves = [x509.load_pem_x509_certificates(each.chain.encode())[0] for each in certificates]
    after = await listed({leaf.serial_number for leaf in leaves})
    assert {found.reason for found in after.revoked.values()} == {Reason.CERTIFICATE_HOLD}
    assert after.number > before.number
    (await service.operator.post(f"/devices/{device.device_id}/unblock")).raise_for_status()
    await listed(set())
    foreign = f"{service.addresses.operator_url}/pki/crl/{'00' * 20}.crl"
    assert (await service.operator.get(foreign)).status_code == httpx.codes.NOT_FOUND
