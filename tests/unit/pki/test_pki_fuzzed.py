"""What fuzzing found: certificates that load, and raise only when a part is read."""

from collections.abc import Callable

import pytest
from asn1crypto import parser
from cryptography import x509

from pki import profiles
from pki.authority import CertificateAuthority
from pki.chains import verify_idevid, verify_ldevid
from pki.errors import ChainError, CrlError
from pki.revocation import sign_crl, verify_crl
from protocol.identity import IdentityError, device_id_in, spki_der
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import NOW, Tree, der
from tests.unit.pki.test_pki_est import oid, sequence

TREE, SIGNER = Tree(), SoftwareSigner.generate()
ISSUER = TREE.root.issue(profiles.issuing_ca("demo", now=NOW), SIGNER.public_key)
AUTHORITY = CertificateAuthority([ISSUER], SIGNER)
LEAF = AUTHORITY.issue(profiles.ldevid(TREE.device_id, now=NOW), TREE.operational.public_key)
CRL = sign_crl(AUTHORITY, number=1, revoked={}, now=NOW, lifetime=profiles.LDEVID_LIFETIME)


def signed(body: bytes) -> bytes:
    """A body that the authority signed, whatever it says."""
    signature = parser.emit(0, 0, 3, b"\x00" + SIGNER.sign(body))
    return sequence(body, sequence(oid("1.2.840.10045.4.3.2")), signature)


def bit_string_in_name(der: bytes) -> bytes:
    """The first common name's UTF8String as a BIT STRING, which cryptography refuses by a TypeError."""
    where = der.index(bytes.fromhex("0603550403")) + 5
    return der[:where] + b"\x03" + der[where + 1 :]


def point_off_the_curve(body: bytes) -> bytes:
    """The public key's last byte changed."""
    end = body.index(spki_der(TREE.operational.public_key)) + len(spki_der(TREE.operational.public_key))
    return body[: end - 1] + bytes([body[end - 1] ^ 1]) + body[end:]


def verify(unverified: bytes) -> None:
    verify_ldevid(unverified, issuing_cas=[ISSUER], root=TREE.root.certificate, now=NOW)


def verify_birth(unverified: bytes) -> None:
    verify_idevid(unverified, factory=ISSUER, root=TREE.root.certificate, now=NOW)


@pytest.mark.parametrize("read", [verify, verify_birth])
@pytest.mark.parametrize(
    "unverified",
    [
        bit_string_in_name(der(LEAF)),
        signed(bit_string_in_name(LEAF.tbs_certificate_bytes)),
        signed(point_off_the_curve(LEAF.tbs_certificate_bytes)),
    ],
)
def test_certificate_that_cannot_be_read_is_refused(read: Callable[[bytes], None], unverified: bytes) -> None:
    """By our error, also where the authority itself signed it."""
    with pytest.raises(ChainError, match="device certificate: expected"):
        read(unverified)


def test_revocation_list_whose_issuer_cannot_be_read_is_refused() -> None:
    """A name with a bit string in the place of text."""
    with pytest.raises(CrlError, match="found TypeError"):
        verify_crl(bit_string_in_name(CRL.der), issuer=ISSUER, now=NOW)


def test_certificate_without_names_to_read_names_nobody() -> None:
    """A peer whose certificate TLS let through."""
    body = LEAF.tbs_certificate_bytes.replace(b"urn:tinyfleet:device:", b"urn:tinyfleet:\xff\xff\xff\xff\xff\xff:")
    with pytest.raises(IdentityError, match="subject alternative name"):
        device_id_in(x509.load_der_x509_certificate(signed(body)))
