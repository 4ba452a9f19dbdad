"""A device as the service meets it: identity key, IDevID, evidence, CSRs, and TLS with its certificates."""

import functools
import hashlib
import ssl
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.authority import CertificateAuthority
from pki.profiles import idevid
from protocol.evidence import Evidence, LifeCycle, SoftwareComponent, bind_nonce, sign_evidence
from protocol.geometry import Slot
from protocol.identity import Access, DeviceId, device_id_of, device_uri
from protocol.messages import AttestationRequest, ClaimProof
from protocol.signing import SoftwareSigner
from service.application.identity import CertificateKind, DevicePeer
from tests.service_folder import Folders

BOOTED_SLOTS = tuple(slot for slot in Slot if slot.kind != "model")


def component(slot: Slot, digest: bytes | None = None) -> SoftwareComponent:
    """A measured image; the same slot has the same digest everywhere unless another is given."""
    measurement = digest or hashlib.sha256(f"image of {slot}".encode()).digest()
    return SoftwareComponent(slot.value, measurement, signer_id=b"\x05" * 32, version=f"{slot.kind}@1.0.0")


HONEST = Evidence(
    nonce=b"\x00" * 32,
    implementation_id=b"\x01" * 32,
    boot_seed=b"\x02" * 32,
    lifecycle=LifeCycle.SECURED,
    client_id=-1,
    components=tuple(component(slot) for slot in BOOTED_SLOTS),
)


@functools.cache
def _factory(operator: Path) -> CertificateAuthority:
    return Folders(operator=operator, service=operator).factory


@dataclass
class AttestingDevice:
    """One device; `evidence` is what it booted, and tests spoil one thing of it."""

    folders: Folders
    identity: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    evidence: Evidence = HONEST

    def __post_init__(self) -> None:
        factory = _factory(self.folders.operator)
        now = datetime.now(UTC)  # noqa: TID251 - TLS reads the machine's clock
        leaf = factory.issue(idevid(self.device_id, now=now), self.identity.public_key)
        self.idevid_chain = factory.chain_pem(leaf).decode()

    @property
    def device_id(self) -> DeviceId:
        return device_id_of(self.identity.public_key)

    @property
    def peer(self) -> DevicePeer:
        """The device as the gate knows it by its IDevID."""
        leaf = x509.load_pem_x509_certificates(self.idevid_chain.encode())[0]
        end = leaf.not_valid_after_utc
        return DevicePeer(CertificateKind.IDEVID, self.device_id, self.identity.public_key, end, Access.FULL)

    def proof(self, challenge: bytes) -> ClaimProof:
        nonce = bind_nonce(challenge, self.identity.public_key)
        return ClaimProof(
            device_id=self.device_id,
            idevid_chain=self.idevid_chain,
            evidence=sign_evidence(replace(self.evidence, nonce=nonce), self.identity),
        )

    def csr(self, key: SoftwareSigner) -> bytes:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(self.device_id))])
        builder = (
            x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
        )
        return builder.sign(key.private_key, hashes.SHA256()).public_bytes(Encoding.DER)

    def token(self, nonce: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
        """Evidence over a nonce of the service, bound to the key of a CSR."""
        return sign_evidence(replace(self.evidence, nonce=bind_nonce(nonce, key)), self.identity)

    def request(self, nonce: bytes, key: SoftwareSigner) -> AttestationRequest:
        return AttestationRequest(evidence=self.token(nonce, key.public_key), csr=self.csr(key))


def client_context(ca: Path, key: SoftwareSigner, chain: str) -> ssl.SSLContext:
    """TLS of a client with a certificate."""
    context = ssl.create_default_context(cafile=str(ca))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
        file.write(chain)
        file.flush()
        context.load_cert_chain(file.name)
    return context
