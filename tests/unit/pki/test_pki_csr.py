"""Certificate signing requests: one thing wrong per case."""

import hashlib
import ipaddress
import re
from pathlib import Path

import azuresphere_imagemetadata
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from pki.csr import MAX_CSR_BYTES, make_csr, verify_idevid_csr, verify_ldevid_csr, verify_service_csr
from pki.errors import CsrError
from pki.weak_keys import weakness
from protocol.identity import FULL_ACCESS_POLICY, device_id_of, device_uri, spki_der
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import OpaqueSigner, Tree, csr_builder, signed

TREE = Tree()
DEVICE_ID = TREE.device_id
IDENTITY_KEY = TREE.identity.public_key
GOOD = signed(csr_builder(DEVICE_ID), TREE.operational)
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def test_good_ldevid_request_is_verified() -> None:
    """DER or PEM; the verified request names the device and carries the fresh key, which is of no device so far."""
    pem = x509.load_der_x509_csr(GOOD).public_bytes(Encoding.PEM)
    for unverified in (GOOD, pem):
        verified = verify_ldevid_csr(unverified, DEVICE_ID, identity_key=IDENTITY_KEY)
        assert (verified.device_id, verified.public_key) == (DEVICE_ID, TREE.operational.public_key)
        assert verified.key_device_id == device_id_of(TREE.operational.public_key)


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


def test_request_for_a_reserved_key_is_refused() -> None:
    """Keys of authorities and of the service itself."""
    reserved = {hashlib.sha256(spki_der(TREE.operational.public_key)).hexdigest()}
    with pytest.raises(CsrError, match="expected a fresh key, found one of the service or of an authority"):
        verify_ldevid_csr(GOOD, DEVICE_ID, identity_key=IDENTITY_KEY, reserved_keys=reserved)
    other = {hashlib.sha256(spki_der(IDENTITY_KEY)).hexdigest()}
    verify_ldevid_csr(GOOD, DEVICE_ID, identity_key=IDENTITY_KEY, reserved_keys=other)


@pytest.mark.parametrize("usage", ["key_cert_sign", "crl_sign"])
def test_request_to_sign_certificates_is_refused(usage: str) -> None:
    """Asked for by key usage instead of basic constraints."""
    wanted = dict.fromkeys(_KEY_USAGES, False) | {usage: True}
    builder = csr_builder(DEVICE_ID).add_extension(x509.KeyUsage(**wanted), critical=True)
    _refused(signed(builder, TREE.operational), "expected an end entity, found a request for an authority")


def test_request_for_what_the_profile_decides_is_taken() -> None:
    """Key usage, purposes, policies and unknown extensions of a request are ignored; the certificate has our own."""
    usage = x509.KeyUsage(**(dict.fromkeys(_KEY_USAGES, False) | {"digital_signature": True}))
    builder = csr_builder(DEVICE_ID).add_extension(usage, critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
    policies = x509.CertificatePolicies([x509.PolicyInformation(FULL_ACCESS_POLICY, None)])
    builder = builder.add_extension(policies, critical=True)
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    request = signed(builder.add_extension(unknown, critical=True), TREE.operational)
    assert verify_ldevid_csr(request, DEVICE_ID, identity_key=IDENTITY_KEY).public_key == TREE.operational.public_key


# Each request has exactly one thing wrong with its names, in the manner of x509-limbo.
NAMES: dict[str, tuple[list[x509.GeneralName], str]] = {
    "empty": ([], "expected exactly one URI, found 0 names"),
    "dns": ([x509.DNSName("device.example")], "found 1 names"),
    "ip": ([x509.IPAddress(ipaddress.ip_address("192.0.2.1"))], "found 1 names"),
    "directory": (
        [x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DEVICE_ID[:64])]))],
        "found 1",
    ),
    "twice": ([x509.UniformResourceIdentifier(device_uri(DEVICE_ID))] * 2, "found 2 names"),
    "operator": ([x509.UniformResourceIdentifier("urn:tinyfleet:operator:admin")], "expected urn:tinyfleet:device:"),
    "capitals": ([x509.UniformResourceIdentifier("urn:tinyfleet:device:" + DEVICE_ID.upper())], "128 lower-case hex"),
    "short": ([x509.UniformResourceIdentifier(device_uri(DEVICE_ID)[:-1])], "128 lower-case hex"),
    "long": ([x509.UniformResourceIdentifier(device_uri(DEVICE_ID) + "0")], "128 lower-case hex"),
    "newline": ([x509.UniformResourceIdentifier(device_uri(DEVICE_ID) + "\n")], "128 lower-case hex"),
    "nul": ([x509.UniformResourceIdentifier(device_uri(DEVICE_ID) + "\0")], "128 lower-case hex"),
    "query": ([x509.UniformResourceIdentifier(device_uri(DEVICE_ID) + "?x")], "128 lower-case hex"),
    "prefix": ([x509.UniformResourceIdentifier("x" + device_uri(DEVICE_ID))], "expected urn:tinyfleet:device:"),
}


@pytest.mark.parametrize("case", NAMES)
def test_request_with_a_wrong_name_is_refused(case: str) -> None:
    """One SAN URI, exactly that of the device."""
    names, message = NAMES[case]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    _refused(signed(request, TREE.operational), message)


def test_request_with_two_lists_of_extensions_is_refused() -> None:
    """Which of them would be believed must not matter (RFC 2985 §5.4.2: single valued)."""
    twice = bytes.fromhex("06092a864886f70d01090e")  # extensionRequest
    attributes = GOOD[GOOD.index(twice) - 2 :]
    length = 2 + attributes[1]
    doubled = GOOD.replace(attributes[:length], attributes[:length] * 2)
    _refused(doubled, "CSR: expected")


P256 = bytes.fromhex("06082a8648ce3d030107")  # its object identifier


def _with_key(
    point: bytes,
    *,
    parameters: bytes = bytes.fromhex("06082a8648ce3d030107"),
    signer: SoftwareSigner = TREE.operational,
) -> bytes:
    """A well-formed request whose key is given octet by octet, signed by whatever key."""
    algorithm = bytes.fromhex("06072a8648ce3d0201") + parameters
    key = _der(0x30, _der(0x30, algorithm) + _der(0x03, b"\0" + point))
    information = x509.load_der_x509_csr(GOOD).tbs_certrequest_bytes
    content = information[4 if information[1] == 0x82 else 3 :].replace(spki_der(TREE.operational.public_key), key)
    to_be_signed = _der(0x30, content)
    signature = _der(0x03, b"\0" + signer.sign(to_be_signed))
    return _der(0x30, to_be_signed + bytes.fromhex("300a06082a8648ce3d040302") + signature)


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    length = bytes([size]) if size < 0x80 else bytes([0x80 | len(octets)]) + octets  # X.690 §10.1: as short as can be
    return bytes([tag]) + length + content


_X = TREE.operational.public_key.public_numbers().x.to_bytes(32, "big")
_Y = TREE.operational.public_key.public_numbers().y.to_bytes(32, "big")
POINTS: dict[str, bytes] = {
    "infinity": b"\0" + bytes(64),
    "infinity_in_one_octet": b"\0",
    "origin": b"\4" + bytes(64),
    "off_the_curve": b"\4" + _X + _Y[:-1] + bytes([_Y[-1] ^ 1]),
    "x_beyond_the_field": b"\4" + b"\xff" * 32 + _Y,
    "short": b"\4" + _X + _Y[:-1],
    "hybrid_of_the_other_parity": bytes([7 - (_Y[-1] & 1)]) + _X + _Y,
    "unknown_form": b"\5" + _X + _Y,
    "nothing": b"",
}


@pytest.mark.parametrize("case", POINTS)
def test_key_that_is_no_point_of_the_curve_is_refused(case: str) -> None:
    """Before its signature is looked at."""
    _refused(_with_key(POINTS[case]), "CSR: expected a P-256 key, found none that loads")


def test_key_that_is_given_octet_by_octet_is_taken() -> None:
    """What the cases before change one thing of."""
    request = _with_key(b"\4" + _X + _Y)
    assert verify_ldevid_csr(request, DEVICE_ID, identity_key=IDENTITY_KEY).public_key == TREE.operational.public_key


@pytest.mark.parametrize(
    "parameters",
    ["0500", "06052b8104000a", "06052b81040022", "06082a8648ce3d030101", ""],
    ids=["null", "secp256k1", "P-384", "P-192", "none"],
)
def test_key_of_another_curve_is_refused(parameters: str) -> None:
    """Or of none, or with a point of P-256 on it."""
    _refused(_with_key(b"\4" + _X + _Y, parameters=bytes.fromhex(parameters)), "CSR: expected")


def test_compressed_point_is_the_key_that_it_stands_for() -> None:
    """RFC 5480 §2.2 lets a key be written in two ways; neither makes an identity key or a known key a fresh one."""
    point = TREE.identity.public_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    request = _with_key(point, signer=TREE.identity)
    assert x509.load_der_x509_csr(request).is_signature_valid
    _refused(request, "expected a fresh key, found the identity key")


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
PUBLISHED: dict[str, int] = {
    "RFC 6979 A.2.5": 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721,
    "RFC 5903 8.1": 0xC88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433,
    "RFC 9500 2.3": 0xE6CB5BDD80AA45AE9C95E8C15476679FFEC953C16851E711E743939589C64FC1,
    "RFC 8152 C.7.2": 0x57C92077664146E876760C9520D054AA93C3AFB04E306705DB6090308507B4D3,
    "TF-M: the example key that signs attestation": 0xA9B454B26D6F90A4EA31193564CBA91FEC6F9A002A7DC0504B92A1937134585F,
    "Private scalars 1 to 256": 256,
    "Private scalars n-1 to n-256": ORDER - 7,
    "Private scalars 2": 2**200,
    "Private scalars of one octet": int.from_bytes(b"\x42" * 32, "big"),
}


def _key_sha256(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(spki_der(key)).hexdigest()


@pytest.mark.parametrize("source", PUBLISHED)
def test_key_that_everybody_knows_is_refused(source: str) -> None:
    """Possession of a key from a standard or a guess proves nothing; the message says where it is from."""
    known = SoftwareSigner(ec.derive_private_key(PUBLISHED[source], ec.SECP256R1()))
    message = f"expected a key of the device's own, found a published one ({source}"
    _refused(signed(csr_builder(DEVICE_ID), known), re.escape(message))
    with pytest.raises(CsrError, match="found a published one"):
        verify_idevid_csr(signed(csr_builder(device_id_of(known.public_key)), known))


def test_development_key_of_azure_sphere_is_known() -> None:
    """The one that Microsoft's tools sign with by default."""
    folder = Path(azuresphere_imagemetadata.__file__).with_name("certificates")
    certificate = x509.load_pem_x509_certificate((folder / "tp_app_test_sign.cer").read_bytes())
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert "Azure Sphere's public development key" in str(weakness(_key_sha256(key)))


def test_list_of_weak_keys_holds_every_key_that_a_line_of_it_names() -> None:
    """The derived part of the list is complete: nothing was left out when it was written."""
    scalars = [*range(1, 257), *(ORDER - number for number in range(1, 257)), *(1 << bit for bit in range(9, 256))]
    scalars += [int.from_bytes(bytes([octet]) * 32, "big") for octet in range(1, 255)]
    for scalar in scalars:
        assert weakness(_key_sha256(ec.derive_private_key(scalar, ec.SECP256R1()).public_key())) is not None
    assert weakness(_key_sha256(OpaqueSigner().public_key)) is None
