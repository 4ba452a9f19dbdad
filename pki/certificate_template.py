"""Certificates from templates: what those of a kind by one issuer share is encoded once, and the rest put in between.

Names, keys and the values of extensions are encoded by cryptography. Here is only the frame around them, in DER
(X.690), which saves most of the time of cryptography's builder and gives the same bytes (RFC 5280 §4.1):

    Certificate    = SEQUENCE { TBSCertificate, algorithm, BIT STRING signature }
    TBSCertificate = SEQUENCE { [0] version 3, INTEGER serial, algorithm, issuer, SEQUENCE { not before, not after },
                                subject, SubjectPublicKeyInfo, [3] SEQUENCE of Extension }
    Extension      = SEQUENCE { OBJECT IDENTIFIER, BOOLEAN true if critical, OCTET STRING value }
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TypeAlias

from cryptography import x509

from pki.errors import ProfileError
from pki.profiles import Profile
from protocol.signing import Signer

Extension: TypeAlias = x509.Extension[x509.ExtensionType]
_SERIAL_NUMBER_END = 1 << 159  # RFC 5280 §4.1.2.2: positive, 20 octets
_FIRST_MOMENT = datetime(1950, 1, 1, tzinfo=UTC)
_INTEGER, _BITS, _OCTETS, _OID, _UTC_TIME, _GENERALIZED_TIME, _SEQUENCE = 0x02, 0x03, 0x04, 0x06, 0x17, 0x18, 0x30
_EXTENSIONS = 0xA3  # [3]
_VERSION_3 = bytes.fromhex("a003020102")
_TRUE = bytes.fromhex("0101ff")
_ECDSA_WITH_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")  # RFC 5758 §3.2
_NO_UNUSED_BITS = b"\x00"
_SHORT = 0x80  # lengths below it are one octet
_FIRST_GENERALIZED_YEAR = 2050  # RFC 5280 §4.1.2.5: earlier ones have two digits


@dataclass(frozen=True, slots=True)
class Made:
    """A certificate and the DER that it was read from."""

    der: bytes
    certificate: x509.Certificate


class CertificateTemplate:
    """What certificates of a kind share, encoded.

    Args:
        issuer: their issuer's name.
        shared: the extensions that all of them have; each one's own follow.
    """

    def __init__(self, issuer: x509.Name, shared: Iterable[Extension]) -> None:
        self._issuer = _ECDSA_WITH_SHA256 + issuer.public_bytes()
        self._shared = b"".join(map(encode_extension, shared))

    def issue(
        self,
        profile: Profile,
        spki: bytes,
        *,
        own_extensions: Iterable[bytes],
        serial_number: int,
        signer: Signer,
    ) -> Made:
        """Make a certificate, which is read before anybody gets it.

        Args:
            profile: what it says.
            spki: the certified key, DER SubjectPublicKeyInfo.
            own_extensions: those that the template has not, as `encode_extension` gives them.
            serial_number: of 1 to 20 octets.
            signer: the issuer's key.

        Raises:
            ProfileError: no certificate can have this serial number or validity.
        """
        if not 0 < serial_number < _SERIAL_NUMBER_END:
            raise ProfileError("serial number: expected a positive one of at most 20 octets, found another")
        asked = profile.not_before, profile.not_after
        if not _FIRST_MOMENT <= profile.not_before <= profile.not_after:
            raise ProfileError(f"validity: expected an end after a begin in 1950 or later, found {_dates(asked)}")
        to_be_signed = _element(
            _SEQUENCE,
            _VERSION_3,
            # A bit more than the number has: the highest is its sign.
            _element(_INTEGER, serial_number.to_bytes(serial_number.bit_length() // 8 + 1, "big")),
            self._issuer,
            _validity(*asked),
            profile.subject.public_bytes(),
            spki,
            _element(_EXTENSIONS, _element(_SEQUENCE, self._shared, *own_extensions)),
        )
        signature = _element(_BITS, _NO_UNUSED_BITS, signer.sign(to_be_signed))
        der = _element(_SEQUENCE, to_be_signed, _ECDSA_WITH_SHA256, signature)
        certificate = x509.load_der_x509_certificate(der)
        found = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if found != asked:
            raise ProfileError(f"validity: expected {_dates(asked)}, found {_dates(found)}")
        return Made(der, certificate)


def _dates(validity: tuple[datetime, datetime]) -> str:
    return " to ".join(moment.isoformat() for moment in validity)


def encode_extension(extension: Extension) -> bytes:
    """Return an extension, DER."""
    critical = _TRUE if extension.critical else b""
    return _element(_SEQUENCE, _oid(extension.oid), critical, _element(_OCTETS, extension.value.public_bytes()))


@cache  # there are a dozen kinds of extensions
def _oid(oid: x509.ObjectIdentifier) -> bytes:
    first, second, *others = map(int, oid.dotted_string.split("."))
    return _element(_OID, *map(_base_128, (40 * first + second, *others)))


def _base_128(arc: int) -> bytes:
    """Return an arc, seven bits an octet, all but the last with the highest bit (X.690 §8.19.2)."""
    octets = [arc & 0x7F]
    while arc := arc >> 7:
        octets.insert(0, 0x80 | arc & 0x7F)
    return bytes(octets)


@lru_cache  # what is issued in a second has the same times
def _validity(not_before: datetime, not_after: datetime) -> bytes:
    return _element(_SEQUENCE, _time(not_before), _time(not_after))


def _time(moment: datetime) -> bytes:
    if moment.year < _FIRST_GENERALIZED_YEAR:
        return _element(_UTC_TIME, f"{moment:%y%m%d%H%M%SZ}".encode())
    return _element(_GENERALIZED_TIME, f"{moment:%Y%m%d%H%M%SZ}".encode())


def _element(tag: int, *contents: bytes) -> bytes:
    """Return an element with a definite length in as few octets as it needs (X.690 §10.1)."""
    content = b"".join(contents)
    length = len(content)
    if length < _SHORT:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, _SHORT | len(octets))) + octets + content
