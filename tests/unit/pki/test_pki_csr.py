"""Certificate signing requests: one thing wrong per case."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pki.csr import MAX_CSR_BYTES, make_csr, verify_idevid_csr, verify_ldevid_csr, verify_service_csr
from pki.errors import CsrError
from protocol.identity import device_id_of, device_uri
from tests.unit.pki.pki_builder import OpaqueSigner, Tree, csr_builder, signed

TREE = Tree()
DEVICE_ID = TREE.device_id
IDENTITY_KEY = TREE.identity.public_key
GOOD = signed(csr_builder(DEVICE_ID), TREE.operational)


def test_good_ldevid_request_is_verified() -> None:
    """DER or PEM; the verified request names the device and carries the fresh key."""
    pem = x509.load_der_x509_csr(GOOD).public_bytes(Encoding.PEM)
    for unverified in (GOOD, pem):
        verified = verify_ldevid_csr(unverified, DEVICE_ID, identity_key=IDENTITY_KEY)
        assert (verified.device_id, verified.public_key) == (DEVICE_ID, TREE.operational.public_key)


def test_good_idevid_request_is_verified() -> None:
    """The device id is that of the request's own key."""
    verified = verify_idevid_csr(signed(csr_builder(DEVICE_ID), TREE.identity))
    assert (verified.device_id, verified.public_key) == (DEVICE_ID, IDENTITY_KEY)


def test_idevid_request_for_another_device_is_refused() -> None:
    """A new device cannot be born under another's id."""
    with pytest.raises(CsrError, match=r"CSR: expected device .*, found"):
        verify_idevid_csr(signed(csr_builder(DEVICE_ID), TREE.operational))


def _refused(unverified: bytes, message: str) -> None:
    with pytest.raises(CsrError, match=message):
        verify_ldevid_csr(unverified, DEVICE_ID, identity_key=IDENTITY_KEY)


def test_oversize_request_is_refused() -> None:
    """Before anything is parsed."""
    _refused(GOOD + bytes(MAX_CSR_BYTES), "expected at most 4096 bytes, found")


def test_truncated_request_is_refused() -> None:
    """Half of the bytes are no request."""
    _refused(GOOD[: len(GOOD) // 2], "expected one PKCS#10 request, found ValueError")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
)
def test_key_of_another_kind_is_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    """P-256 alone."""
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = csr_builder(DEVICE_ID).sign(key, algorithm)
    _refused(request.public_bytes(Encoding.DER), "expected a P-256 key, found another type or curve")


def test_other_hash_is_refused() -> None:
    """ECDSA with SHA-384 is not our algorithm."""
    request = csr_builder(DEVICE_ID).sign(TREE.operational.private_key, hashes.SHA384())
    _refused(request.public_bytes(Encoding.DER), "expected ECDSA with SHA-256, found 1.2.840.10045.4.3.3")


def test_request_without_proof_of_possession_is_refused() -> None:
    """A flipped bit in the signature: nobody has shown the private key."""
    request = x509.load_der_x509_csr(GOOD)
    stolen = GOOD.replace(request.signature, request.signature[:-1] + bytes([request.signature[-1] ^ 1]))
    _refused(stolen, "expected a signature by its own key")


def test_request_without_a_name_is_refused() -> None:
    """No subject alternative name."""
    nameless = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    _refused(signed(nameless, TREE.operational), "found subject alternative name: expected one URI")


def test_request_for_another_device_is_refused() -> None:
    """A device cannot ask for another's certificate."""
    other = device_id_of(OpaqueSigner().public_key)
    _refused(signed(csr_builder(other), TREE.operational), f"expected device {DEVICE_ID[:12]}…, found {other[:12]}…")


def test_request_with_two_names_is_refused() -> None:
    """A second name would be carried into nothing, but says that somebody tries."""
    names = [x509.UniformResourceIdentifier(device_uri(DEVICE_ID)), x509.DNSName("service.example")]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    _refused(signed(builder, TREE.operational), "expected exactly one URI, found 2 names")


def test_request_with_a_common_name_is_refused() -> None:
    """Whatever it says, it is no device id."""
    named = csr_builder(DEVICE_ID, common_name=DEVICE_ID[:64])
    _refused(signed(named, TREE.operational), "expected no common name, found 1")


def test_request_for_an_authority_is_refused() -> None:
    """A device never becomes a CA."""
    authority = csr_builder(DEVICE_ID).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    _refused(signed(authority, TREE.operational), "expected an end entity, found a request for an authority")


def test_request_that_says_it_is_no_authority_is_taken() -> None:
    """Basic constraints without CA ask for nothing."""
    modest = csr_builder(DEVICE_ID).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    verified = verify_ldevid_csr(signed(modest, TREE.operational), DEVICE_ID, identity_key=IDENTITY_KEY)
    assert verified.device_id == DEVICE_ID


def test_request_for_the_identity_key_is_refused() -> None:
    """The identity key signs evidence, not traffic."""
    _refused(signed(csr_builder(DEVICE_ID), TREE.identity), "expected a fresh key, found the identity key")


def test_request_with_a_malformed_name_is_refused() -> None:
    """A subject alternative name that does not parse is our error, not the parser's."""
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x82\x01\xff")
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    _refused(signed(builder.add_extension(broken, critical=True), TREE.operational), "CSR: expected")


def test_service_request_is_verified_by_its_common_name() -> None:
    """The file of one online key cannot be taken for another's."""
    signer = OpaqueSigner()
    request = make_csr(signer, "snapshot")
    assert verify_service_csr(request, "snapshot") == signer.public_key
    with pytest.raises(CsrError, match=r"expected the common name director, found \['snapshot'\]"):
        verify_service_csr(request, "director")


@given(st.binary(max_size=600))
def test_any_bytes_give_our_error(unverified: bytes) -> None:
    """No input raises anything but CsrError."""
    for candidate in (unverified, b"-----BEGIN CERTIFICATE REQUEST-----\n" + unverified):
        with pytest.raises(CsrError):
            verify_ldevid_csr(candidate, DEVICE_ID, identity_key=IDENTITY_KEY)


@given(st.integers(min_value=0, max_value=len(GOOD) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    """The signature covers everything that is read; only its own encoding has bits that say nothing."""
    flipped = bytearray(GOOD)
    flipped[bit // 8] ^= 1 << (bit % 8)
    try:
        verified = verify_ldevid_csr(bytes(flipped), DEVICE_ID, identity_key=IDENTITY_KEY)
    except CsrError:
        return
    assert verified == verify_ldevid_csr(GOOD, DEVICE_ID, identity_key=IDENTITY_KEY)


@given(st.integers(min_value=0, max_value=len(GOOD) - 1))
def test_any_truncation_is_refused(length: int) -> None:
    """A request that stops early is none."""
    with pytest.raises(CsrError):
        verify_ldevid_csr(GOOD[:length], DEVICE_ID, identity_key=IDENTITY_KEY)


def test_common_name_attribute_is_found_anywhere_in_the_subject() -> None:
    """Also behind another attribute."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x"), x509.NameAttribute(NameOID.COMMON_NAME, "y")]
    )
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(DEVICE_ID))])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=True)
    _refused(signed(builder, TREE.operational), "expected no common name")
