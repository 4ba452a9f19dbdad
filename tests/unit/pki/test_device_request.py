"""A request that is recognised by its bytes says what a parser finds in it."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pki.csr import verify_ldevid_csr
from pki.device_request import read_device_request
from pki.errors import CsrError
from protocol.identity import DEVICE_URI_PREFIX, DeviceId, device_id_in, device_id_of, spki_der
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import csr_builder, signed

IDENTITY, KEY = SoftwareSigner.generate(), SoftwareSigner.generate()
DEVICE_ID = device_id_of(IDENTITY.public_key)
REQUEST = signed(csr_builder(DEVICE_ID), KEY)
POINT = KEY.public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def check_parsed_alike(unverified: bytes) -> None:
    """What was recognised, `cryptography` reads in the same way, and nothing else is in it."""
    found = read_device_request(unverified, DEVICE_ID)
    if found is None:
        return
    parsed = x509.load_der_x509_csr(unverified)
    assert parsed.tbs_certrequest_bytes == found.signed
    assert parsed.signature == found.signature
    assert parsed.signature_algorithm_oid == x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256
    assert found.spki.endswith(found.point)
    assert found.spki in found.signed
    assert not list(parsed.subject)
    assert device_id_in(parsed) == DEVICE_ID
    assert [type(extension.value) for extension in parsed.extensions] == [x509.SubjectAlternativeName]


def test_request_of_a_device_is_recognised() -> None:
    found = read_device_request(REQUEST, DEVICE_ID)
    assert found is not None
    assert (found.point, found.spki) == (POINT, spki_der(KEY.public_key))
    check_parsed_alike(REQUEST)


def test_signatures_of_every_length_are_recognised() -> None:
    requests = [signed(csr_builder(DEVICE_ID), KEY) for _ in range(64)]
    assert len({len(request) for request in requests}) > 1
    assert all(read_device_request(request, DEVICE_ID) is not None for request in requests)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        REQUEST[:-1],
        REQUEST[:100],
        REQUEST + b"\x00",
        x509.load_der_x509_csr(REQUEST).public_bytes(Encoding.PEM),
        bytes(4096),
        REQUEST.replace(DEVICE_URI_PREFIX.encode(), b"urn:tinyfleet:devicf:"),
        signed(csr_builder(DEVICE_ID, common_name="pump"), KEY),
        signed(csr_builder(DeviceId("0" * 128)), KEY),
        signed(
            csr_builder(DEVICE_ID).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True), KEY
        ),
    ],
)
def test_any_other_bytes_are_not(other: bytes) -> None:
    assert read_device_request(other, DEVICE_ID) is None


def test_every_changed_byte_is_read_as_a_parser_reads_it() -> None:
    for at in range(len(REQUEST)):
        check_parsed_alike(REQUEST[:at] + bytes((REQUEST[at] ^ 0x01,)) + REQUEST[at + 1 :])


@given(at=st.integers(0, len(REQUEST)), end=st.integers(0, len(REQUEST)), instead=st.binary(max_size=80))
def test_any_piece_changed_is_read_as_a_parser_reads_it(at: int, end: int, instead: bytes) -> None:
    try:
        check_parsed_alike(REQUEST[:at] + instead + REQUEST[end:])
    except ValueError:
        # The point is none of the curve, on which the parser stumbles; so does whoever loads the key.
        with pytest.raises(CsrError):
            verify_ldevid_csr(REQUEST[:at] + instead + REQUEST[end:], DEVICE_ID, identity_key=IDENTITY.public_key)


def test_point_that_is_not_on_the_curve_is_refused() -> None:
    off = REQUEST.replace(POINT, POINT[:-1] + bytes((POINT[-1] ^ 1,)))
    assert read_device_request(off, DEVICE_ID) is not None
    with pytest.raises(CsrError, match="expected a P-256 key, found none that loads"):
        verify_ldevid_csr(off, DEVICE_ID, identity_key=IDENTITY.public_key)


def test_signature_of_another_key_is_refused() -> None:
    other = signed(csr_builder(DEVICE_ID), SoftwareSigner.generate())
    begin = other.index(b"\x04", other.index(bytes.fromhex("034200")))
    forged = other[:begin] + POINT + other[begin + len(POINT) :]
    assert read_device_request(forged, DEVICE_ID) is not None
    with pytest.raises(CsrError, match="expected a signature by its own key, found another"):
        verify_ldevid_csr(forged, DEVICE_ID, identity_key=IDENTITY.public_key)
