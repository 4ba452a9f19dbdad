"""An EST client of tests: CSRs with evidence, and the operations over real TLS; a case spoils one thing of them."""

import base64
from dataclasses import dataclass

import httpx
from asn1crypto import core, parser
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates

from protocol.est import EVIDENCE, PATH, PKCS10_MEDIA_TYPE, PSA_TOKEN
from protocol.identity import device_uri
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice
from tests.live_service import Credential, LiveService

_SEQUENCE = 16
Builder = x509.CertificateSigningRequestBuilder


def bundle(token: bytes) -> bytes:
    """An EvidenceBundle of one PSA token."""
    kind, statement = core.ObjectIdentifier(PSA_TOKEN.dotted_string).dump(), core.OctetString(token).dump()
    encoded: bytes = kind + statement
    for _ in range(3):  # statement, statements, bundle
        encoded = parser.emit(0, 1, _SEQUENCE, encoded)
    return encoded


def csr_builder(device: AttestingDevice, *, name: x509.Name | None = None) -> Builder:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(device.device_id))])
    return Builder().subject_name(name or x509.Name([])).add_extension(names, critical=True)


def with_evidence(builder: Builder, token: bytes) -> Builder:
    return builder.add_extension(x509.UnrecognizedExtension(EVIDENCE, bundle(token)), critical=False)


def signed(builder: Builder, key: SoftwareSigner) -> bytes:
    return builder.sign(key.private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def est_csr(device: AttestingDevice, nonce: bytes, key: SoftwareSigner) -> bytes:
    """What an honest device sends."""
    return signed(with_evidence(csr_builder(device), device.token(nonce, key.public_key)), key)


@dataclass
class EstClient:
    """One device that speaks EST, by its IDevID or by an LDevID."""

    service: LiveService
    device: AttestingDevice
    credential: Credential | None = None

    async def get(self, operation: str) -> httpx.Response:
        async with self._https() as https:
            return await https.get(f"{PATH}/{operation}")

    async def post(self, operation: str, body: bytes, *, media_type: str = PKCS10_MEDIA_TYPE) -> httpx.Response:
        async with self._https() as https:
            return await https.post(f"{PATH}/{operation}", content=body, headers={"Content-Type": media_type})

    async def nonce(self) -> bytes:
        answer = await self.get("nonce")
        answer.raise_for_status()
        encoded = answer.json()["nonce"]
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))

    async def enrol(self, csr: bytes, operation: str = "simpleenroll") -> httpx.Response:
        return await self.post(operation, base64.encodebytes(csr))

    async def enrolled(self) -> Credential:
        """Enrol honestly and return the LDevID."""
        key = SoftwareSigner.generate()
        operation = "simpleenroll" if self.credential is None else "simplereenroll"
        answer = await self.enrol(est_csr(self.device, await self.nonce(), key), operation)
        answer.raise_for_status()
        (leaf,) = load_der_pkcs7_certificates(base64.b64decode(answer.content))
        return Credential(key, leaf.public_bytes(Encoding.PEM).decode())

    def _https(self) -> httpx.AsyncClient:
        context = self.service.tls(self.device, self.credential)
        return httpx.AsyncClient(verify=context, base_url=self.service.addresses.device_url)
