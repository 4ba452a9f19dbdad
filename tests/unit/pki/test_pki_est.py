"""EST's structures: evidence in CSRs with one thing wrong per case, attributes, PKCS#7."""

import pytest
from asn1crypto import core, parser
from cryptography import x509
from cryptography.hazmat.primitives.serialization.pkcs7 import load_der_pkcs7_certificates
from cryptography.x509.oid import AttributeOID
from hypothesis import given
from hypothesis import strategies as st

from pki.csr import MAX_CSR_BYTES
from pki.errors import CsrError
from pki.est import certificates_only, csr_attributes, evidence_in
from protocol.est import EVIDENCE, PSA_TOKEN
from protocol.identity import device_uri, spki_der
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import Tree, csr_builder, signed

TREE = Tree()
TOKEN = b"\xd2\x84token"
Builder = x509.CertificateSigningRequestBuilder


def sequence(*parts: bytes) -> bytes:
    return bytes(parser.emit(0, 1, 16, b"".join(parts)))


def oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def statement(token: bytes = TOKEN, kind: x509.ObjectIdentifier = PSA_TOKEN, *further: bytes) -> bytes:
    return sequence(oid(kind.dotted_string), core.OctetString(token).dump(), *further)


def bundle(*statements: bytes) -> bytes:
    return sequence(sequence(*statements))


def csr(value: bytes, builder: Builder | None = None) -> bytes:
    """A CSR with evidence as an extension, as `openssl req` writes it."""
    extension = x509.UnrecognizedExtension(EVIDENCE, value)
    return signed((builder or csr_builder(TREE.device_id)).add_extension(extension, critical=False), TREE.operational)


def csr_with_attribute(value: bytes, signer: SoftwareSigner) -> bytes:
    """A CSR with evidence as an attribute, as the draft has it; cryptography writes texts alone."""
    attribute = sequence(oid(EVIDENCE.dotted_string), parser.emit(0, 1, 17, value))
    info = sequence(b"\x02\x01\x00", sequence(), spki_der(signer.public_key), parser.emit(2, 1, 0, attribute))
    signature = parser.emit(0, 0, 3, b"\x00" + signer.sign(info))
    return sequence(info, sequence(oid("1.2.840.10045.4.3.2")), signature)


def test_evidence_is_found_as_extension_and_as_attribute() -> None:
    """Whichever way a client writes it."""
    assert evidence_in(csr(bundle(statement()))) == TOKEN
    assert evidence_in(csr_with_attribute(bundle(statement()), TREE.operational)) == TOKEN


def test_hint_and_certificates_beside_the_token_are_left_alone() -> None:
    """They say nothing that the service would trust."""
    hint, certs = core.IA5String("verifier").dump(), sequence(sequence())
    assert evidence_in(csr(sequence(sequence(statement(TOKEN, PSA_TOKEN, hint)), certs))) == TOKEN


@pytest.mark.parametrize(
    ("unverified", "rule"),
    [
        (b"\x30" * (MAX_CSR_BYTES + 1), "expected at most"),
        (b"none", "expected one PKCS#10 request in DER"),
        (signed(csr_builder(TREE.device_id), TREE.operational), "expected one evidence bundle .* found 0"),
        (
            csr(
                bundle(statement()), csr_builder(TREE.device_id).add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"tls")
            ),
            "expected no challenge password",
        ),
        (csr(b"text"), "expected statements with OCTET STRINGs"),
        (csr(bundle(statement()) + b"\x00"), "expected statements with OCTET STRINGs"),
        (csr(bundle(sequence(oid("1.2.3"), b"\x02\x01\x05"))), "OCTET STRINGs, found another"),
        (csr(bundle()), "expected one statement"),
        (csr(bundle(statement(), statement())), "expected one statement"),
        (csr(bundle(statement(TOKEN, EVIDENCE))), "expected one statement of 1.2.840.113556"),
    ],
    ids=["long", "no CSR", "none", "challenge", "text", "trailing", "integer", "empty", "two", "other type"],
)
def test_csr_without_one_psa_token_is_refused(unverified: bytes, rule: str) -> None:
    """Each rule by itself."""
    with pytest.raises(CsrError, match=rule):
        evidence_in(unverified)


@given(st.binary(max_size=120))
def test_any_bundle_is_read_or_refused(value: bytes) -> None:
    """Never another exception."""
    with pytest.raises(CsrError):
        evidence_in(csr(value))


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_damaged_bundle_is_read_or_refused(position: int, flip: int) -> None:
    """What is read then is the token's to refuse."""
    value = bytearray(bundle(statement()))
    value[position % len(value)] ^= flip
    try:
        assert isinstance(evidence_in(csr(bytes(value))), bytes)
    except CsrError as error:
        assert "expected" in str(error)  # noqa: PT017 - either way is right


def test_attributes_name_the_device() -> None:
    """The value of the SAN is there, so that a client need not know how it is made."""
    attributes = csr_attributes(TREE.device_id)
    assert device_uri(TREE.device_id).encode() in attributes
    assert oid(EVIDENCE.dotted_string) in attributes


def test_certificates_come_back_from_pkcs7() -> None:
    """Nothing else is in it."""
    both = [TREE.root.certificate, TREE.issuing.certificate]
    assert set(load_der_pkcs7_certificates(certificates_only(both))) == set(both)
