"""One Builder for the certificates of the gateway's tests: a root with an LDevID and a factory branch."""

import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocol.identity import Access


def wall_clock() -> datetime:
    """The time that TLS itself goes by."""
    return datetime.now(UTC)  # noqa: TID251  # OpenSSL reads the wall clock, so test certificates must too


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate chain and key in files, and whose they are."""

    device_id: str
    certificate: x509.Certificate
    certificate_file: Path
    key_file: Path


class CertificateBuilder:
    """Makes authorities and credentials under one root; everything is valid unless a case says otherwise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.now = wall_clock()
        self.root = self.authority("tinyfleet root")
        self.issuing_ca = self.authority("tinyfleet issuing CA", issuer=self.root)
        self.factory_ca = self.authority("tinyfleet factory CA", issuer=self.root)
        self.root_file = folder / "root.pem"
        self.root_file.write_bytes(self.root.certificate.public_bytes(Encoding.PEM))

    def authority(self, name: str, *, issuer: Authority | None = None) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._certificate(key, _name(name), issuer, lifetime=(timedelta(days=-30), timedelta(days=30)))
        builder = builder.add_extension(
            x509.BasicConstraints(ca=True, path_length=None if issuer is None else 0), critical=True
        ).add_extension(_CA_USAGE, critical=True)
        return Authority(builder.sign(key if issuer is None else issuer.key, hashes.SHA256()), key)

    def server(self, *addresses: str) -> Credential:
        """The gateway's own certificate for IP addresses."""
        names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        return self._leaf("server", names, ExtendedKeyUsageOID.SERVER_AUTH, issuer=self.issuing_ca)

    def device(
        self,
        name: str = "device",
        *,
        issuer: Authority | None = None,
        valid: tuple[timedelta, timedelta] = (timedelta(hours=-1), timedelta(hours=24)),
        uri: str | None = None,
        access: Sequence[Access] = (Access.FULL,),
    ) -> Credential:
        """An LDevID; `uri` replaces the SAN's device URI."""
        device_id = hashlib.sha512(name.encode()).hexdigest()
        names = [x509.UniformResourceIdentifier(uri or f"urn:tinyfleet:device:{device_id}")]
        return self._leaf(
            device_id,
            names,
            ExtendedKeyUsageOID.CLIENT_AUTH,
            issuer=issuer or self.issuing_ca,
            valid=valid,
            access=access,
        )

    def client_context(
        self, credential: Credential | None, *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        """A client's context that trusts the root; the version is the only one it speaks."""
        context = ssl.create_default_context(cafile=self.root_file)
        context.minimum_version = context.maximum_version = version
        if credential is not None:
            context.load_cert_chain(credential.certificate_file, credential.key_file)
        return context

    def _leaf(
        self,
        owner: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        *,
        issuer: Authority,
        valid: tuple[timedelta, timedelta] = (timedelta(hours=-1), timedelta(hours=24)),
        access: Sequence[Access] = (),
    ) -> Credential:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._certificate(key, x509.Name([]), issuer, lifetime=valid)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if access:
            policies = [x509.PolicyInformation(each.policy, None) for each in access]
            builder = builder.add_extension(x509.CertificatePolicies(policies), critical=False)
        return self._write(owner, builder.sign(issuer.key, hashes.SHA256()), key, issuer)

    def _certificate(
        self,
        key: ec.EllipticCurvePrivateKey,
        subject: x509.Name,
        issuer: Authority | None,
        *,
        lifetime: tuple[timedelta, timedelta],
    ) -> x509.CertificateBuilder:
        issuer_key = key if issuer is None else issuer.key
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + lifetime[0])
            .not_valid_after(self.now + lifetime[1])
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        )

    def _write(
        self, owner: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, issuer: Authority
    ) -> Credential:
        stem = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()[:16]
        certificate_file, key_file = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        chain = (certificate, issuer.certificate)
        certificate_file.write_bytes(b"".join(part.public_bytes(Encoding.PEM) for part in chain))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return Credential(owner, certificate, certificate_file, key_file)


_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
