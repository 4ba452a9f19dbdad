"""Certificate authorities: a chain, a signer, and the certificates that they issue.

An authority signs through the `Signer` port, so that its key may be a file or a token. It decides nothing: who gets a
certificate is decided by the caller, who has verified the CSR (pki/csr.py) and chosen the profile (pki/profiles.py).
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from pki.certificate_template import CertificateTemplate, Extension, Made, encode_extension
from pki.errors import ChainError
from pki.profiles import Profile, Revocation
from pki.signer_key import SignerKey
from protocol.identity import spki_der
from protocol.signing import P256_COORDINATE_BYTES, Signer, SoftwareSigner

CRL_FOLDER = "/pki/crl/"
OCSP_PATH = "/pki/ocsp"
_POINT_BYTES = 1 + 2 * P256_COORDINATE_BYTES
# What the extensions that are shared depend on, besides the issuer; see `Profile`.
_Kind: TypeAlias = tuple[
    int | None,
    tuple[x509.ObjectIdentifier, ...],
    tuple[x509.ObjectIdentifier, ...],
    x509.NameConstraints | None,
    Revocation,
]
SerialNumbers = Callable[[], int]
random_serial_numbers: SerialNumbers = x509.random_serial_number  # 159 random bits in 20 octets


class CertificateAuthority:
    """An authority that issues certificates by its chain's first certificate.

    Args:
        chain: the authority's certificate, then those above it; the root may be left out.
        signer: the private key of the first certificate.
        serial_numbers: gives a serial number for each certificate: positive, at most 20 octets, never repeated.
        publish_url: where the service publishes revocations; by default where the authority's own certificate says.

    Attributes:
        certificate_sha256: of the authority's own certificate, DER, hex.
        chain_text: the authority's chain, PEM.

    Raises:
        ChainError: the signer's key is not that of the first certificate.
    """

    def __init__(
        self,
        chain: Sequence[x509.Certificate],
        signer: Signer,
        *,
        serial_numbers: SerialNumbers = random_serial_numbers,
        publish_url: str | None = None,
    ) -> None:
        self._chain = tuple(chain)
        self._signer = signer
        self._serial_numbers = serial_numbers
        self.chain_text = chain_pem(self._chain).decode()
        self.certificate_sha256 = self.certificate.fingerprint(hashes.SHA256()).hex()
        if self.certificate.public_key() != signer.public_key:
            raise ChainError("authority: expected the private key of its certificate, found another")
        self._publish_url = publish_url or publish_url_in(self.certificate)
        self._templates: dict[_Kind, CertificateTemplate] = {}

    @property
    def certificate(self) -> x509.Certificate:
        """The authority's own certificate."""
        return self._chain[0]

    @property
    def signs_here(self) -> bool:
        """Whether its key is in this process's memory; otherwise a token signs, and takes its time."""
        return isinstance(self._signer, SoftwareSigner)

    @property
    def publish_url(self) -> str | None:
        """Where revocations are published; None where certificates do not say."""
        return self._publish_url

    def issue(self, profile: Profile, public_key: ec.EllipticCurvePublicKey) -> x509.Certificate:
        """Issue a certificate for a public key whose possession has been proved.

        Raises:
            ProfileError: no certificate can have the validity, or the serial number that was given.
        """
        return self.make(profile, spki_der(public_key)).certificate

    def make(self, profile: Profile, spki: bytes) -> Made:
        """Issue a certificate as `issue` does, for a key as DER SubjectPublicKeyInfo; returns its DER as well."""
        return self._template(profile).issue(
            profile,
            spki,
            own_extensions=map(encode_extension, _own_extensions(profile, spki)),
            serial_number=self._serial_numbers(),
            signer=self._signer,
        )

    def _template(self, profile: Profile) -> CertificateTemplate:
        kind = (profile.path_length, profile.purposes, profile.policies, profile.constraints, profile.revocation)
        template = self._templates.get(kind)
        if template is None:
            shared = _shared_extensions(profile, self.certificate, publish_url=self._publish_url)
            template = self._templates[kind] = CertificateTemplate(self.certificate.subject, shared)
        return template

    def sign_crl(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a revocation list; pki/revocation.py says what is in it."""
        return builder.sign(SignerKey(self._signer), hashes.SHA256())

    def chain_pem(self, leaf: x509.Certificate) -> bytes:
        """Return a chain file: the leaf, then the authority's chain."""
        return chain_pem([leaf]) + self.chain_text.encode()


def self_signed_root(
    profile: Profile, signer: Signer, *, serial_numbers: SerialNumbers = random_serial_numbers
) -> CertificateAuthority:
    """Make a root authority with its own certificate."""
    template = CertificateTemplate(profile.subject, _shared_extensions(profile, None, publish_url=None))
    spki = spki_der(signer.public_key)
    made = template.issue(
        profile,
        spki,
        own_extensions=map(encode_extension, _own_extensions(profile, spki)),
        serial_number=serial_numbers(),
        signer=signer,
    )
    return CertificateAuthority([made.certificate], signer, serial_numbers=serial_numbers)


def issuer_key_id(issuer: x509.Certificate) -> str:
    """Return an authority's subject key identifier, hex; certificates that it issues have it as authority key id."""
    return _subject_key_id(issuer).digest.hex()


def crl_path(issuer: x509.Certificate) -> str:
    """Where below its publish URL an authority's revocation list is."""
    return f"{CRL_FOLDER}{issuer_key_id(issuer)}.crl"


def publish_url_in(certificate: x509.Certificate) -> str | None:
    """Return the URL below which a certificate's issuer publishes, as its distribution point has it; None without."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return None
    urls = [str(name.value) for point in points for name in point.full_name or ()]
    return next((url[: url.index(CRL_FOLDER)] for url in urls if CRL_FOLDER in url), None)


def chain_pem(chain: Sequence[x509.Certificate]) -> bytes:
    """Return certificates as one PEM file, in the given order."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def extensions_of(
    profile: Profile,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Certificate | None,
    publish_url: str | None,
) -> list[Extension]:
    """Return the extensions that a certificate has.

    Args:
        profile: what the certificate says.
        public_key: the certified key.
        issuer: its issuer's certificate; None for a root.
        publish_url: where its issuer publishes revocations; None nowhere.
    """
    return _shared_extensions(profile, issuer, publish_url=publish_url) + _own_extensions(profile, spki_der(public_key))


def _own_extensions(profile: Profile, spki: bytes) -> list[Extension]:
    """Return what differs from certificate to certificate."""
    # RFC 5280 §4.2.1.2 (1): of the bit string, which is the last of a SubjectPublicKeyInfo.
    key_id = hashlib.sha1(spki[-_POINT_BYTES:], usedforsecurity=False).digest()
    extensions = [_extension(x509.SubjectKeyIdentifier(key_id))]
    if profile.names:
        # RFC 5280 §4.2.1.6: critical where the subject is empty.
        extensions.append(_extension(x509.SubjectAlternativeName(profile.names), critical=not profile.subject.rdns))
    return extensions


def _shared_extensions(
    profile: Profile, issuer: x509.Certificate | None, *, publish_url: str | None
) -> list[Extension]:
    extensions = [
        _extension(x509.BasicConstraints(profile.is_authority, profile.path_length), critical=True),
        _key_usage(is_authority=profile.is_authority),
    ]
    if profile.purposes:
        extensions.append(_extension(x509.ExtendedKeyUsage(profile.purposes)))
    if profile.constraints is not None:
        extensions.append(_extension(profile.constraints, critical=True))
    if profile.policies:
        policies = [x509.PolicyInformation(policy, None) for policy in profile.policies]
        extensions.append(_extension(x509.CertificatePolicies(policies)))
    if issuer is not None:
        key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_subject_key_id(issuer))
        published = _published(profile.revocation, issuer, publish_url=publish_url)
        extensions += [_extension(key_id), *map(_extension, published)]
    return extensions


def _published(
    revocation: Revocation, issuer: x509.Certificate, *, publish_url: str | None
) -> Iterator[x509.ExtensionType]:
    if revocation is Revocation.NO_CHECK:
        yield x509.OCSPNoCheck()
    if publish_url is None:
        return
    if revocation in (Revocation.CRL, Revocation.CRL_AND_OCSP):
        crl = x509.UniformResourceIdentifier(publish_url + crl_path(issuer))
        yield x509.CRLDistributionPoints([x509.DistributionPoint([crl], None, None, None)])
    if revocation is Revocation.CRL_AND_OCSP:
        responder = x509.UniformResourceIdentifier(publish_url + OCSP_PATH)
        yield x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, responder)])


def _subject_key_id(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def _extension(value: x509.ExtensionType, *, critical: bool = False) -> Extension:
    return x509.Extension(value.oid, critical, value)


def _key_usage(*, is_authority: bool) -> Extension:
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return _extension(usage, critical=True)
