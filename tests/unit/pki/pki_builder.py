"""One builder of keys, authorities and CSRs for the tests of pki; a case changes exactly one thing."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pki import profiles
from pki.authority import CertificateAuthority, self_signed_root
from pki.signer_key import SignerKey
from protocol.identity import DeviceId, device_id_of, device_uri
from protocol.signing import Signer, SoftwareSigner

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
# Of a ceremony: names, path lengths, validity and constraints of all that can be declared.
DECLARED_CERTIFICATES = """\
root: {name: The root, valid_days: 4000, path_length: 2, excluded: [evil.example]}
intermediates:
  factory: {name: The factory, valid_days: 4000}
  issuing-ca: {name: The issuer, valid_days: 400}
  server-ca:
    name: The server issuer
    valid_days: 900
    path_length: 1
    permitted: [fleet.example, localhost, 192.0.2.0/24, 127.0.0.1, "::1"]
    excluded: [b.fleet.example]
certificates: {server: {valid_days: 90}, ocsp: {valid_days: 91}, package: {valid_days: 92}}
"""


class OpaqueSigner:
    """A signer that hides its private key, as one in a token does."""

    def __init__(self) -> None:
        self._inner = SoftwareSigner.generate()
        self.public_key = self._inner.public_key

    def sign(self, data: bytes) -> bytes:
        return self._inner.sign(data)


@dataclass
class Tree:
    """Root, factory CA and issuing CA, and a device with its identity and operational key."""

    now: datetime = NOW
    root_signer: Signer = field(default_factory=OpaqueSigner)
    identity: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    operational: SoftwareSigner = field(default_factory=SoftwareSigner.generate)

    def __post_init__(self) -> None:
        self.root = self_signed_root(profiles.root_ca("demo", now=self.now), self.root_signer)
        self.factory = self._authority(profiles.factory_ca("demo", now=self.now))
        self.issuing = self._authority(profiles.issuing_ca("demo", now=self.now))

    def _authority(self, profile: profiles.Profile) -> CertificateAuthority:
        signer = OpaqueSigner()
        return CertificateAuthority([self.root.issue(profile, signer.public_key)], signer)

    @property
    def device_id(self) -> DeviceId:
        return device_id_of(self.identity.public_key)

    def idevid(self) -> x509.Certificate:
        return self.factory.issue(profiles.idevid(self.device_id, now=self.now), self.identity.public_key)

    def ldevid(self, *, lifetime: timedelta = profiles.LDEVID_LIFETIME) -> x509.Certificate:
        profile = profiles.ldevid(self.device_id, now=self.now, lifetime=lifetime)
        return self.issuing.issue(profile, self.operational.public_key)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def csr_builder(device_id: DeviceId, *, common_name: str | None = None) -> x509.CertificateSigningRequestBuilder:
    attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(device_id))])
    return (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes)).add_extension(names, critical=True)
    )


def signed(builder: x509.CertificateSigningRequestBuilder, signer: Signer) -> bytes:
    return builder.sign(SignerKey(signer), hashes.SHA256()).public_bytes(Encoding.DER)
