"""Device certificates: verify that one chains to the root, and was issued by the right authority.

Verification of an unverified chain, in this order:
    1. length: at most `MAX_CHAIN_BYTES`, and `MAX_CHAIN_CERTIFICATES` certificates;
    2. form: X.509, PEM with the leaf first (or the DER leaf that TLS has delivered);
    3. issuer: signed by the one authority that issues this kind of certificate, so that an IDevID is never taken for
       an LDevID; certificates that come along are not used. Generations of an authority have one name: name and
       authority key identifier find the issuer (RFC 5280 §4.2.1.1);
    4. path (RFC 5280 §6): that authority chains to the root, and everything is valid at the given time;
    5. purpose: an end entity for TLS client authentication;
    6. name: one SAN URI that names a device, and for an IDevID the device of its own P-256 key.
Not checked here: whether the device is known or blocked; service/application decides that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from pki.errors import ChainError
from protocol.errors import ProtocolError
from protocol.identity import X509_ERRORS, DeviceId, device_id_in, device_id_of, p256_key

MAX_CHAIN_BYTES = 16 * 1024
MAX_CHAIN_CERTIFICATES = 4


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A verified device certificate.

    Attributes:
        device_id: the device that it names.
        leaf: the certificate.
        public_key: P-256 key of the certificate.
    """

    device_id: DeviceId
    leaf: x509.Certificate
    public_key: ec.EllipticCurvePublicKey


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's name and key made the certificate; says nothing about time or path."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - whatever cryptography refuses for, the issuer did not make it
        return False
    return True


def find_issuer(certificate: x509.Certificate, authorities: Iterable[x509.Certificate]) -> x509.Certificate | None:
    """Return the authority that a certificate names by name and key identifier; says nothing about its signature."""
    try:
        named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        issuer = certificate.issuer
    except (x509.ExtensionNotFound, *X509_ERRORS):
        return None
    return next((each for each in authorities if each.subject == issuer and key_id(each) == named), None)


def key_id(authority: x509.Certificate) -> bytes:
    """Return an authority's subject key identifier.

    Raises:
        ChainError: it has none.
    """
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, *X509_ERRORS) as error:
        raise ChainError("authority: expected a subject key identifier, found none") from error


def verify_idevid(
    unverified_chain: bytes, *, factory: x509.Certificate, root: x509.Certificate, now: datetime
) -> DeviceCertificate:
    """Verify an IDevID.

    Args:
        unverified_chain: PEM, leaf first, or the DER leaf.
        factory: certificate of the authority that issues IDevIDs.
        root: the trusted root.
        now: UTC, aware.

    Raises:
        ChainError: any step.
    """
    verified = _verify(_leaf(unverified_chain), issuer=factory, root=root, now=now)
    # Step 6: the identity key makes the device id.
    if device_id_of(verified.public_key) != verified.device_id:
        raise ChainError("IDevID: expected the device id of its own key, found another")
    return verified


def verify_ldevid(
    unverified_chain: bytes, *, issuing_cas: Sequence[x509.Certificate], root: x509.Certificate, now: datetime
) -> DeviceCertificate:
    """Verify an LDevID; arguments and errors as for `verify_idevid`, but for the issuing CA's trusted generations."""
    leaf = _leaf(unverified_chain)
    issuer = find_issuer(leaf, issuing_cas)
    if issuer is None:
        raise ChainError("device certificate: expected one by the authority of its kind, found another issuer")
    return _verify(leaf, issuer=issuer, root=root, now=now)


def load_chain(unverified_chain: bytes) -> list[x509.Certificate]:
    """Parse certificates, PEM with the leaf first or one DER certificate; nothing else is checked.

    Raises:
        ChainError: steps 1 or 2.
    """
    # Step 1: length.
    if len(unverified_chain) > MAX_CHAIN_BYTES:
        raise ChainError(f"certificate chain: expected at most {MAX_CHAIN_BYTES} bytes, found {len(unverified_chain)}")
    # Step 2: form.
    try:
        if unverified_chain.startswith(b"-----BEGIN"):
            chain = x509.load_pem_x509_certificates(unverified_chain)
        else:
            chain = [x509.load_der_x509_certificate(unverified_chain)]
    except X509_ERRORS as error:
        raise ChainError("certificate chain: expected X.509 certificates, found other bytes") from error
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        raise ChainError(f"certificate chain: expected at most {MAX_CHAIN_CERTIFICATES}, found {len(chain)}")
    return chain


def _leaf(unverified_chain: bytes) -> x509.Certificate:
    return load_chain(unverified_chain)[0]


def _verify(
    leaf: x509.Certificate, *, issuer: x509.Certificate, root: x509.Certificate, now: datetime
) -> DeviceCertificate:
    # Step 3: issuer.
    if not issued_by(leaf, issuer):
        raise ChainError("device certificate: expected one by the authority of its kind, found another issuer")
    # Step 4: path. Step 5: purpose.
    verifier = (
        PolicyBuilder()
        .store(Store([root]))
        .time(now)
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_leaf_policy())
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, [issuer])
    except VerificationError as error:
        raise ChainError(f"device certificate: expected a valid path to the root at {now}, found: {error}") from error
    return _named(leaf)


def _leaf_policy() -> ExtensionPolicy:
    # The default policy knows only TLS servers' names; ours is a URI that step 6 checks.
    policy = ExtensionPolicy.permit_all()
    policy = policy.require_present(x509.BasicConstraints, Criticality.CRITICAL, _is_end_entity)
    return policy.require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_clients)


def _is_end_entity(policy: Policy, leaf: x509.Certificate, constraints: x509.BasicConstraints) -> None:  # noqa: ARG001
    if constraints.ca:
        raise ValueError("expected an end entity, found an authority")


def _is_for_clients(policy: Policy, leaf: x509.Certificate, purposes: x509.ExtendedKeyUsage) -> None:  # noqa: ARG001
    if ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise ValueError("expected a certificate for TLS clients, found another purpose")


def _named(leaf: x509.Certificate) -> DeviceCertificate:
    # Step 6: key and name.
    try:
        return DeviceCertificate(device_id_in(leaf), leaf, p256_key(leaf))
    except (*X509_ERRORS, ProtocolError) as error:
        raise ChainError(
            f"device certificate: expected the SAN URI and the key of a device, found {str(error)[:200]}"
        ) from error
