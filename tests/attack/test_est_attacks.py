"""Attacks on EST: each follows a legitimate enrolment, gets a clear error and no certificate, and is recorded."""

import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from protocol.evidence import NONCE_BYTES
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice
from tests.est_client import EstClient, csr_builder, est_csr, signed, with_evidence
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import make_folders


@dataclass
class Enrolled:
    """A device that has enrolled honestly, and what the service knew of it then."""

    service: LiveService
    device: AttestingDevice
    credential: Credential
    certificate: dict[str, str]

    @property
    def client(self) -> EstClient:
        return EstClient(self.service, self.device)

    async def shown(self) -> dict[str, dict[str, str]]:
        answer = await self.service.operator.get(f"/devices/{self.device.device_id}")
        shown: dict[str, dict[str, str]] = answer.json()
        return shown

    async def expect_refused(self, answer: httpx.Response, status: int, detail: str) -> None:
        """Nothing was issued, the answer says why, and an operator reads the same."""
        assert answer.status_code == status, answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert detail in answer.json()["detail"]
        assert (await self.shown())["certificate"] == self.certificate

    async def expect_recorded(self) -> None:
        assert (await self.shown())["attestation"]["result"] == "refused"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as running:
        yield running


@pytest.fixture
async def enrolled(service: LiveService) -> Enrolled:
    device = await service.claimed()
    credential = await EstClient(service, device).enrolled()
    enrolled = Enrolled(service, device, credential, {})
    enrolled.certificate = (await enrolled.shown())["certificate"]
    return enrolled


@pytest.fixture
def key() -> SoftwareSigner:
    return SoftwareSigner.generate()


async def test_csr_without_evidence(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """A plain EST client gets no operational certificate."""
    answer = await enrolled.client.enrol(signed(csr_builder(enrolled.device), key))
    await enrolled.expect_refused(answer, 400, "expected one evidence bundle")
    await enrolled.expect_recorded()


async def test_evidence_of_another_device(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """An honest device's evidence, over this device's own nonce."""
    other, nonce = await enrolled.service.claimed(), await enrolled.client.nonce()
    csr = signed(with_evidence(csr_builder(enrolled.device), other.token(nonce, key.public_key)), key)
    await enrolled.expect_refused(await enrolled.client.enrol(csr), 403, "kid")
    await enrolled.expect_recorded()


async def test_evidence_for_another_key(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """Evidence and CSR cannot be put together anew."""
    token = enrolled.device.token(await enrolled.client.nonce(), SoftwareSigner.generate().public_key)
    csr = signed(with_evidence(csr_builder(enrolled.device), token), key)
    await enrolled.expect_refused(await enrolled.client.enrol(csr), 403, "nonce")
    await enrolled.expect_recorded()


async def test_replayed_request(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """The same bytes a second time find their nonce used."""
    csr = est_csr(enrolled.device, await enrolled.client.nonce(), key)
    (await enrolled.client.enrol(csr)).raise_for_status()
    enrolled.certificate = (await enrolled.shown())["certificate"]
    await enrolled.expect_refused(await enrolled.client.enrol(csr), 403, "nonce")
    await enrolled.expect_recorded()


async def test_nonce_of_attestation(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """A nonce that was given for /attest serves no enrolment."""
    async with enrolled.service.https(enrolled.device) as https:
        request = {"device_nonce": base64.b64encode(bytes(NONCE_BYTES)).decode()}
        nonce = base64.b64decode((await https.post("/attest/nonce", json=request)).json()["nonce"])
    answer = await enrolled.client.enrol(est_csr(enrolled.device, nonce, key))
    await enrolled.expect_refused(answer, 403, "nonce")
    await enrolled.expect_recorded()


async def test_nonce_of_est_at_attestation(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """And the other way round."""
    request = enrolled.device.request(await enrolled.client.nonce(), key)
    async with enrolled.service.https(enrolled.device) as https:
        answer = await https.post("/attest", content=request.model_dump_json())
    await enrolled.expect_refused(answer, 403, "nonce")


async def test_common_name(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """It could look like a device id to a reader who does not know better."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
    token = enrolled.device.token(await enrolled.client.nonce(), key.public_key)
    csr = signed(with_evidence(csr_builder(enrolled.device, name=name), token), key)
    await enrolled.expect_refused(await enrolled.client.enrol(csr), 400, "expected no common name")
    await enrolled.expect_recorded()


async def test_request_for_an_authority(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """Nobody becomes an authority by EST."""
    token = enrolled.device.token(await enrolled.client.nonce(), key.public_key)
    builder = csr_builder(enrolled.device).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    answer = await enrolled.client.enrol(signed(with_evidence(builder, token), key))
    await enrolled.expect_refused(answer, 400, "expected an end entity")
    await enrolled.expect_recorded()


async def test_identity_key_in_the_csr(enrolled: Enrolled) -> None:
    """It signs evidence, and no operational TLS."""
    identity = enrolled.device.identity
    answer = await enrolled.client.enrol(est_csr(enrolled.device, await enrolled.client.nonce(), identity))
    await enrolled.expect_refused(answer, 400, "expected a fresh key")
    await enrolled.expect_recorded()


async def test_key_of_the_ldevid_in_force(enrolled: Enrolled) -> None:
    """Renewing without a fresh key is refused, evidence or not."""
    client = EstClient(enrolled.service, enrolled.device, enrolled.credential)
    csr = est_csr(enrolled.device, await client.nonce(), enrolled.credential.key)
    await enrolled.expect_refused(await client.enrol(csr, "simplereenroll"), 403, "certificate key")
    await enrolled.expect_recorded()


async def test_name_of_another_device(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """The certificate would be the other's."""
    other = await enrolled.service.claimed()
    token = enrolled.device.token(await enrolled.client.nonce(), key.public_key)
    answer = await enrolled.client.enrol(signed(with_evidence(csr_builder(other), token), key))
    await enrolled.expect_refused(answer, 400, "expected device")
    await enrolled.expect_recorded()


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        (lambda _csr: b"\xff" * 100, 400, "in base64"),
        (lambda csr: csr, 400, "in base64"),
        (lambda _csr: b"", 400, "expected one PKCS#10 request"),
        (lambda _csr: base64.b64encode(b"garbage"), 400, "expected one PKCS#10 request"),
        (lambda csr: base64.b64encode(csr + bytes(8)), 400, "expected one PKCS#10 request"),
        (lambda _csr: b"A" * 10_000, 413, "expected at most"),
        (lambda _csr: base64.b64encode(bytes(5000)), 400, "expected at most"),
    ],
    ids=["no base64", "DER", "empty", "garbage", "trailing", "long", "long CSR"],
)
async def test_body_that_is_no_request(
    enrolled: Enrolled, key: SoftwareSigner, body: Callable[[bytes], bytes], status: int, detail: str
) -> None:
    """Whatever is sent, a clear error."""
    csr = est_csr(enrolled.device, await enrolled.client.nonce(), key)
    answer = await enrolled.client.post("simpleenroll", body(csr))
    await enrolled.expect_refused(answer, status, detail)


async def test_other_content_type(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """415, before the body is read."""
    csr = base64.b64encode(est_csr(enrolled.device, await enrolled.client.nonce(), key))
    answer = await enrolled.client.post("simpleenroll", csr, media_type="application/json")
    await enrolled.expect_refused(answer, 415, "expected application/pkcs10")


async def test_operations_keep_to_their_certificates(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """An LDevID does not enrol as new, an IDevID does not renew."""
    csr = est_csr(enrolled.device, await enrolled.client.nonce(), key)
    by_ldevid = EstClient(enrolled.service, enrolled.device, enrolled.credential)
    await enrolled.expect_refused(await by_ldevid.enrol(csr, "simpleenroll"), 403, "expected an IDevID")
    await enrolled.expect_refused(await enrolled.client.enrol(csr, "simplereenroll"), 403, "expected an LDevID")


async def test_blocked_device(enrolled: Enrolled, key: SoftwareSigner) -> None:
    """Its nonce from before the block is worth nothing."""
    csr = est_csr(enrolled.device, await enrolled.client.nonce(), key)
    path = f"/devices/{enrolled.device.device_id}/block"
    (await enrolled.service.operator.post(path, json={"reason": "test"})).raise_for_status()
    await enrolled.expect_refused(await enrolled.client.enrol(csr), 403, "registry")
