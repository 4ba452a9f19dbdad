"""Vouchers: which catalog a device follows, and which it refuses."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from protocol.document import DocumentError, EnvelopeSignatureError, parse_document, sign_document
from protocol.errors import ProtocolError
from protocol.identity import device_id_of
from protocol.signing import SoftwareSigner
from protocol.voucher import (
    MAX_SEQUENCE,
    VOUCHER_PAYLOAD_TYPE,
    Voucher,
    VoucherError,
    check_roots,
    encode_public_keys,
    public_keys,
    verify_voucher,
)
from tests.voucher_roots import make_roots

NEWER_FIELDS = frozenset({"assertion", "expires_at"})
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


ROOTS = make_roots()
WHOLE = VOUCHER.model_copy(
    update={"tls_root": ROOTS.tls, "director_root": ROOTS.director, "image_root": ROOTS.image},
)


def test_voucher_that_expired_is_refused() -> None:
    """From the moment of its end on, and not before."""
    ends = VOUCHER.issued_at + timedelta(days=1)
    signed = sign_document(VOUCHER.model_copy(update={"expires_at": ends}), VOUCHER_PAYLOAD_TYPE, AUTHORITY)
    key = AUTHORITY.public_key
    assert verify_voucher(signed, DEVICE_ID, voucher_key=key, now=ends - timedelta(seconds=1)).expires_at == ends
    assert verify_voucher(signed, DEVICE_ID, voucher_key=key).expires_at == ends
    with pytest.raises(VoucherError, match="expected one that is valid at 2026-03-02T00:00:00Z, found 2026-03-02"):
        verify_voucher(signed, DEVICE_ID, voucher_key=key, now=ends)


def test_voucher_without_an_end_never_expires() -> None:
    """RFC 8366 makes expires-on optional."""
    never = datetime(9999, 1, 1, tzinfo=UTC)
    assert verify_voucher(SIGNED, DEVICE_ID, voucher_key=AUTHORITY.public_key, now=never) == VOUCHER


def test_voucher_made_before_assertions_still_counts() -> None:
    """Fields that came later have defaults."""
    old = {name: value for name, value in VOUCHER.model_dump(mode="json").items() if name not in NEWER_FIELDS}
    assert parse_document(json.dumps(old).encode(), Voucher) == VOUCHER


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issued_at", "0001-01-01T00:00:00+23:00"),
        ("issued_at", "1969-12-31T23:59:59Z"),
        ("issued_at", "9999-12-31T23:59:59-01:00"),
        ("expires_at", "0001-01-01T00:00:00+23:00"),
        ("sequence", 0),
        ("sequence", MAX_SEQUENCE + 1),
        ("sequence", 10**40),
        ("catalog_name", "demo\x1b[2J"),
        ("catalog_name", ""),
        ("catalog_name", "d" * 51),
    ],
)
def test_value_outside_its_bounds_is_refused(field: str, value: object) -> None:
    """Times that cannot be converted, sequences that no database holds, names that a terminal would obey."""
    changed = VOUCHER.model_dump(mode="json") | {field: value}
    with pytest.raises(DocumentError, match=f"Voucher: {field}: "):
        parse_document(json.dumps(changed).encode(), Voucher)


def test_roots_of_a_whole_voucher_pass() -> None:
    """A CA certificate, two root metadata, P-256 keys."""
    check_roots(WHOLE)


def _end_entity() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(AUTHORITY.public_key)
    builder = builder.serial_number(1).not_valid_before(VOUCHER.issued_at).not_valid_after(VOUCHER.issued_at)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(AUTHORITY.private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _signed_by_another(root: bytes) -> bytes:
    metadata = json.loads(root)
    metadata["signed"]["version"] = 2
    return json.dumps(metadata).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tls_root": b"no certificate"}, "TLS root: expected a DER certificate"),
        ({"tls_root": _end_entity()}, "TLS root: expected an authority, found an end entity"),
        ({"tls_root": ROOTS.issued}, "TLS root: expected a self-signed authority"),
        ({"director_root": b"{}"}, "Director root: expected root metadata that signs itself, found Deserialization"),
        ({"director_root": _signed_by_another(ROOTS.director)}, "Director root: .* found UnsignedMetadataError"),
        ({"image_root": ROOTS.targets}, "Image root: expected root metadata, found Targets"),
        ({"package_keys": (b"garbage",)}, "public key: expected a DER"),
        ({"golden_keys": (b"garbage",)}, "public key: expected a DER"),
    ],
)
def test_voucher_that_hands_over_no_roots_is_refused(changes: dict[str, object], message: str) -> None:
    """A device gives up its old roots for nothing less."""
    with pytest.raises(VoucherError, match=message):
        check_roots(WHOLE.model_copy(update=changes))


def test_catalog_is_its_id_and_its_root_key() -> None:
    """Another root key is another catalog, whatever id it claims; a later voucher of one catalog is the same."""
    later = WHOLE.model_copy(update={"sequence": 8, "catalog_name": "renamed"})
    assert later.is_of_catalog(WHOLE)
    assert not WHOLE.model_copy(update={"tls_root": make_roots().tls}).is_of_catalog(WHOLE)
    other_id = "11111111-1111-4111-8111-111111111111"
    assert not WHOLE.model_copy(update={"catalog_id": other_id}).is_of_catalog(WHOLE)


def test_digest_is_of_the_document_not_of_its_signature() -> None:
    """ECDSA signs the same document differently each time."""
    again = sign_document(VOUCHER, VOUCHER_PAYLOAD_TYPE, AUTHORITY)
    assert again != SIGNED
    assert _verify(again).digest == VOUCHER.digest
    assert WHOLE.digest != VOUCHER.digest
