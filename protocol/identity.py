"""Who a device is: its id, derived from its identity key, and the names that carry it.

The device id is the SHA-512 of the public identity key (DER SubjectPublicKeyInfo) in 128 lower-case hex
digits, as in Azure Sphere. A certificate carries it as a SAN URI, because a common name holds 64 characters.

An operational certificate also says how far it reaches, by one of two certificate policies (RFC 5280 §4.2.1.4). Their
object identifiers are made of a UUID, in arcs of at most 24 bits below 1.2.840.113556.1.8000.2554, as Microsoft's
generator makes them, and need no registration; below 2.25 one arc would hold 128 bits, which many parsers refuse.
"""

import hashlib
import re
import uuid
from enum import StrEnum
from typing import NewType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import MalformedError

DeviceId = NewType("DeviceId", str)

DEVICE_URI_PREFIX = "urn:tinyfleet:device:"
OPERATOR_URI_PREFIX = "urn:tinyfleet:operator:"
TINYFLEET_ARC = "1.2.840.113556.1.8000.2554.30495.45829.40043.18407.38560.2164536.2505411"
FULL_ACCESS_POLICY = x509.ObjectIdentifier(f"{TINYFLEET_ARC}.1")
UPDATE_ONLY_POLICY = x509.ObjectIdentifier(f"{TINYFLEET_ARC}.2")
# What cryptography raises for malformed certificates and CSRs, some of it only when a part is read.
X509_ERRORS = (
    ValueError,
    KeyError,  # a name with a type of string that it does not know
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    TypeError,  # of a name with a bit string in the place of text
)
_DEVICE_ID = re.compile(r"[0-9a-f]{128}\Z")


class IdentityError(MalformedError):
    """A device id, GUID or certificate does not name a device as the protocol requires."""


class Access(StrEnum):
    """How far an operational certificate reaches."""

    FULL = "full"
    UPDATE_ONLY = "update-only"  # polls, metadata, artifacts and reports, so that the device can heal

    @property
    def policy(self) -> x509.ObjectIdentifier:
        """The certificate policy that says so."""
        return FULL_ACCESS_POLICY if self is Access.FULL else UPDATE_ONLY_POLICY


def spki_der(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a public key (RFC 5280 §4.1)."""
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def device_id_of(public_key: ec.EllipticCurvePublicKey) -> DeviceId:
    """Return the device id that belongs to a public identity key."""
    return DeviceId(hashlib.sha512(spki_der(public_key)).hexdigest())


def parse_device_id(text: str) -> DeviceId:
    """Accept exactly 128 lower-case hex digits.

    Raises:
        IdentityError: anything else.
    """
    if not _DEVICE_ID.match(text):
        raise IdentityError(f"device id: expected 128 lower-case hex digits, found {text[:140]!r}")
    return DeviceId(text)


def parse_guid(text: str) -> str:
    """Return a GUID in its canonical lower-case form.

    Raises:
        IdentityError: the text is no GUID.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise IdentityError(f"GUID: expected 8-4-4-4-12 hex digits, found {text[:60]!r}") from error


def device_uri(device_id: DeviceId) -> str:
    """Return the SAN URI that names a device in certificates."""
    return DEVICE_URI_PREFIX + device_id


def certificate_uri(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """Return the one SAN URI of a certificate or CSR.

    Raises:
        IdentityError: no subject alternative name, or not exactly one URI and nothing else in it.
    """
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, *X509_ERRORS) as error:
        raise IdentityError("subject alternative name: expected one URI, found no such extension") from error
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise IdentityError(f"subject alternative name: expected exactly one URI, found {len(names)} names")
    return names[0].value


def device_id_in(certificate: x509.Certificate | x509.CertificateSigningRequest) -> DeviceId:
    """Return the device id that a certificate or CSR names in its SAN URI.

    Raises:
        IdentityError: it names no device.
    """
    uri = certificate_uri(certificate)
    if not uri.startswith(DEVICE_URI_PREFIX):
        raise IdentityError(f"subject alternative name: expected {DEVICE_URI_PREFIX}…, found {uri[:60]!r}")
    return parse_device_id(uri.removeprefix(DEVICE_URI_PREFIX))


def p256_key(holder: x509.Certificate | x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a certificate or CSR.

    Raises:
        IdentityError: its key is of another type or curve, or does not load.
    """
    try:
        key = holder.public_key()
    except X509_ERRORS as error:
        raise IdentityError("expected a P-256 key, found none that loads") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("expected a P-256 key, found another type or curve")
    return key


def access_in(certificate: x509.Certificate) -> Access:
    """Return how far an operational certificate reaches; one that does not say reaches nothing.

    Raises:
        IdentityError: it has not exactly one of the two policies, or another one besides.
    """
    try:
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except (x509.ExtensionNotFound, *X509_ERRORS) as error:
        raise IdentityError("certificate policies: expected full or update-only access, found none") from error
    found = [policy.policy_identifier for policy in policies]
    for access in Access:
        if found == [access.policy]:
            return access
    raise IdentityError(
        f"certificate policies: expected full or update-only access alone, found {[oid.dotted_string for oid in found]}"
    )
