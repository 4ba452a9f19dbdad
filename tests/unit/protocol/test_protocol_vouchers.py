"""Vouchers: which catalog a device follows, and which it refuses."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from protocol.document import DocumentError, EnvelopeSignatureError, sign_document
from protocol.errors import ProtocolError
from protocol.identity import device_id_of
from protocol.signing import SoftwareSigner
from protocol.voucher import (
    VOUCHER_PAYLOAD_TYPE,
    Voucher,
    VoucherError,
    encode_public_keys,
    public_keys,
    verify_voucher,
)

AUTHORITY = SoftwareSigner.generate()
DEVICE_ID = device_id_of(SoftwareSigner.generate().public_key)
VOUCHER = Voucher(
    device_id=DEVICE_ID,
    catalog_id="253ee667-88ae-4f55-acf6-2cdaa9ca15bc",
    catalog_name="demo",
    sequence=7,
    issued_at=datetime(2026, 3, 1, tzinfo=UTC),
    tls_root=b"no certificate",
    director_root=b"{}",
    image_root=b"{}",
    package_keys=encode_public_keys([AUTHORITY.public_key]),
    golden_keys=(),
)
SIGNED = sign_document(VOUCHER, VOUCHER_PAYLOAD_TYPE, AUTHORITY)


def _verify(unverified: bytes, *, sequence_in_force: int = 0) -> Voucher:
    return verify_voucher(unverified, DEVICE_ID, voucher_key=AUTHORITY.public_key, sequence_in_force=sequence_in_force)


def test_newer_voucher_supersedes() -> None:
    """A higher sequence than the one in force."""
    assert _verify(SIGNED, sequence_in_force=6) == VOUCHER


@pytest.mark.parametrize("in_force", [7, 8])
def test_voucher_that_is_not_newer_is_refused(in_force: int) -> None:
    """A replayed voucher does not bring a sold device back."""
    with pytest.raises(VoucherError, match=f"expected a sequence above {in_force}, found 7"):
        _verify(SIGNED, sequence_in_force=in_force)


def test_voucher_of_another_device_is_refused() -> None:
    """Each device has its own."""
    other = device_id_of(SoftwareSigner.generate().public_key)
    with pytest.raises(VoucherError, match=f"expected device {other[:12]}…, found {DEVICE_ID[:12]}…"):
        verify_voucher(SIGNED, other, voucher_key=AUTHORITY.public_key)


def test_voucher_of_another_authority_is_refused() -> None:
    """Only the manufacturer hands devices over."""
    forged = sign_document(VOUCHER, VOUCHER_PAYLOAD_TYPE, SoftwareSigner.generate())
    with pytest.raises(EnvelopeSignatureError, match="Voucher: expected a signature"):
        _verify(forged)


def test_signed_document_that_is_no_voucher_is_refused() -> None:
    """Another payload type by the same key."""
    with pytest.raises(DocumentError, match="payload type: expected application/vnd"):
        _verify(sign_document(VOUCHER, "application/vnd.tinyfleet.golden-vectors+json", AUTHORITY))


def test_public_keys_survive_encoding() -> None:
    """DER SubjectPublicKeyInfo and back."""
    assert public_keys(VOUCHER.package_keys) == [AUTHORITY.public_key]


def _spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"garbage", "expected a DER SubjectPublicKeyInfo"),
        (_spki(ec.generate_private_key(ec.SECP384R1()).public_key()), "expected P-256, found another type"),
        (_spki(ed25519.Ed25519PrivateKey.generate().public_key()), "expected P-256, found another type"),
    ],
)
def test_key_of_another_kind_is_refused(encoded: bytes, message: str) -> None:
    """P-256 alone."""
    with pytest.raises(VoucherError, match=message):
        public_keys([encoded])


def test_root_that_is_no_certificate_is_refused() -> None:
    """Our error, when it is read."""
    with pytest.raises(VoucherError, match="TLS root: expected a DER certificate"):
        _ = VOUCHER.tls_root_certificate


def test_root_is_loaded_from_the_voucher() -> None:
    """The certificate that TLS is to trust."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(AUTHORITY.public_key)
    builder = builder.serial_number(1).not_valid_before(VOUCHER.issued_at).not_valid_after(VOUCHER.issued_at)
    root = builder.sign(AUTHORITY.private_key, hashes.SHA256())
    voucher = VOUCHER.model_copy(update={"tls_root": root.public_bytes(Encoding.DER)})
    assert voucher.tls_root_certificate == root


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(unverified: bytes) -> None:
    """As a voucher and as a key."""
    with pytest.raises(ProtocolError):
        _verify(unverified)
    with pytest.raises(VoucherError):
        public_keys([unverified])
