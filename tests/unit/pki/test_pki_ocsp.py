"""OCSP answers, read back by cryptography; any request gets one."""

from datetime import timedelta
from typing import Any

import pytest
from asn1crypto import ocsp as asn1
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.ocsp import OCSPCertStatus, OCSPResponse, OCSPResponseStatus
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import OcspError
from pki.ocsp import ANSWER_LIFETIME, MAX_CERTIFICATES, MAX_EXTENSIONS, MAX_REQUEST_BYTES, OcspResponder
from pki.profiles import Profile
from pki.revocation import Reason, Revocation, RevocationList, sign_crl
from protocol.signing import SoftwareSigner
from tests.unit.pki.factory_builder import factory_authority
from tests.unit.pki.pki_builder import NOW, Tree

TREE = Tree()
ISSUER = factory_authority(SoftwareSigner.generate())
SIGNER = SoftwareSigner.generate()
LIFETIME = timedelta(days=30)


def responder_certificate(
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.OCSP_SIGNING,),
) -> x509.Certificate:
    name = (x509.DNSName("responder"),)
    return ISSUER.issue(Profile(x509.Name([]), name, None, purposes, NOW, NOW + LIFETIME), SIGNER.public_key)


def crl(revoked: dict[int, Revocation], lifetime: timedelta = LIFETIME) -> RevocationList:
    return sign_crl(ISSUER, number=1, revoked=revoked, now=NOW, lifetime=lifetime)


CERTIFICATE = responder_certificate()
RESPONDER = OcspResponder(ISSUER.certificate, CERTIFICATE, SIGNER)
REVOKED = {7: Revocation(NOW, Reason.KEY_COMPROMISE), 8: Revocation(NOW, Reason.UNSPECIFIED)}
CRL = crl(REVOKED)


def request(
    serial: int = 1,
    *,
    issuer: x509.Certificate = ISSUER.certificate,
    algorithm: hashes.HashAlgorithm | None = None,
    nonce: bytes | None = None,
) -> bytes:
    algorithm = algorithm or hashes.SHA256()
    leaf = Tree().idevid()
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, algorithm)
    parsed = ocsp.load_der_ocsp_request(builder.build().public_bytes(Encoding.DER))
    exact = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        parsed.issuer_name_hash, parsed.issuer_key_hash, serial, algorithm
    )
    if nonce is not None:
        exact = exact.add_extension(x509.OCSPNonce(nonce), critical=False)
    return exact.build().public_bytes(Encoding.DER)


def several(*requests: bytes) -> bytes:
    """One request for the certificates of several."""
    parts = [part for each in requests for part in asn1.OCSPRequest.load(each)["tbs_request"]["request_list"]]
    return bytes(asn1.OCSPRequest({"tbs_request": {"request_list": parts}}).dump())


def answer(unverified: bytes, known: RevocationList | None = CRL) -> OCSPResponse:
    return ocsp.load_der_ocsp_response(RESPONDER.respond(unverified, known, now=NOW).der)


def changed(unverified: bytes, part: str, extension: dict[str, Any]) -> bytes:
    """The same request with one more extension, of itself or of its first certificate."""
    parsed = asn1.OCSPRequest.load(unverified)["tbs_request"].native
    target = parsed if part == "request_extensions" else parsed["request_list"][0]
    target[part] = [*(target[part] or []), extension]
    return bytes(asn1.OCSPRequest({"tbs_request": parsed}).dump())


def extended(number: int) -> bytes:
    """A request with this number of extensions that mean nothing."""
    extensions = [{"extn_id": "1.2.3", "critical": False, "extn_value": b""}] * number
    parts = asn1.OCSPRequest.load(request(1))["tbs_request"]["request_list"]
    return bytes(asn1.OCSPRequest({"tbs_request": {"request_list": parts, "request_extensions": extensions}}).dump())


def test_good_certificate_is_good() -> None:
    """The answer names the certificate, is signed by the delegated key and carries its certificate."""
    found = answer(request(1))
    assert (found.response_status, found.certificate_status) == (OCSPResponseStatus.SUCCESSFUL, OCSPCertStatus.GOOD)
    assert found.serial_number == 1
    assert found.certificates == [CERTIFICATE]
    SIGNER.public_key.verify(found.signature, found.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA384(), hashes.SHA512()])  # noqa: S303 - what clients send
def test_certificate_is_found_by_every_hash(algorithm: hashes.HashAlgorithm) -> None:
    """Clients choose the hash that names the issuer; most send SHA-1."""
    assert answer(request(7, algorithm=algorithm)).certificate_status is OCSPCertStatus.REVOKED


def test_revoked_certificate_is_revoked_with_time_and_reason() -> None:
    """As the list in force says."""
    found = answer(request(7))
    assert found.revocation_reason is x509.ReasonFlags.key_compromise
    assert found.revocation_time_utc == NOW


def test_unspecified_reason_is_left_out_of_the_answer() -> None:
    """As it is of a list."""
    found = answer(request(8))
    assert (found.certificate_status, found.revocation_reason) == (OCSPCertStatus.REVOKED, None)


def test_several_certificates_are_answered_in_one_response() -> None:
    """One of another issuer is unknown, and does not keep the others from their answers."""
    foreign = request(7, issuer=TREE.factory.certificate)
    found = answer(several(request(1), request(7), foreign))
    assert [single.certificate_status for single in found.responses] == [
        OCSPCertStatus.GOOD,
        OCSPCertStatus.REVOKED,
        OCSPCertStatus.UNKNOWN,
    ]


def test_nonce_is_echoed_and_keeps_the_answer_out_of_caches() -> None:
    """RFC 9654: up to 128 octets."""
    nonce = bytes(range(128))
    found = RESPONDER.respond(request(1, nonce=nonce), CRL, now=NOW)
    assert found.fresh_until is None
    echoed = ocsp.load_der_ocsp_response(found.der).extensions.get_extension_for_class(x509.OCSPNonce)
    assert echoed.value.nonce == nonce


def test_answer_without_nonce_is_fresh_for_an_hour_at_most() -> None:
    """And never longer than the list that it comes from."""
    assert RESPONDER.respond(request(1), CRL, now=NOW).fresh_until == NOW + ANSWER_LIFETIME
    short = crl(REVOKED, lifetime=timedelta(minutes=10))
    assert RESPONDER.respond(request(1), short, now=NOW).fresh_until == NOW + timedelta(minutes=10)
    assert answer(request(1), short).next_update_utc == NOW + timedelta(minutes=10)


def test_another_authority_is_none_of_its_business() -> None:
    """Nothing is said of certificates that it does not answer for."""
    assert answer(request(7, issuer=TREE.factory.certificate)).response_status is OCSPResponseStatus.UNAUTHORIZED


def test_without_a_list_in_force_the_client_tries_later() -> None:
    """Neither none nor a stale one lets it say good."""
    for known in (None, crl(REVOKED, lifetime=timedelta(seconds=1))):
        late = NOW + timedelta(seconds=1)
        found = ocsp.load_der_ocsp_response(RESPONDER.respond(request(7), known, now=late).der)
        assert found.response_status is OCSPResponseStatus.TRY_LATER


@pytest.mark.parametrize(
    "unverified",
    [
        b"",
        b"\x30" * (MAX_REQUEST_BYTES + 1),
        request(1) + b"\x00",
        several(),
        several(*[request(1)] * (MAX_CERTIFICATES + 1)),
        extended(MAX_EXTENSIONS + 1),
        request(1, nonce=b""),
        request(1, nonce=bytes(129)),
        changed(request(1, nonce=b"1"), "request_extensions", {"extn_id": "nonce", "extn_value": b"2"}),
        changed(request(1), "request_extensions", {"extn_id": "1.2.3", "critical": True, "extn_value": b"\x05\x00"}),
        changed(
            request(1), "single_request_extensions", {"extn_id": "1.2.3", "critical": True, "extn_value": b"\x05\x00"}
        ),
    ],
    ids=[
        "empty",
        "long",
        "trailing",
        "none",
        "many",
        "extensions",
        "no nonce",
        "long nonce",
        "two nonces",
        "critical",
        "single",
    ],
)
def test_malformed_request_is_said_to_be_so(unverified: bytes) -> None:
    """An error response, never an exception."""
    assert answer(unverified).response_status is OCSPResponseStatus.MALFORMED_REQUEST


def test_extension_that_is_not_critical_is_left_alone() -> None:
    """Clients add preferred algorithms and the like."""
    extension = {"extn_id": "1.2.3", "critical": False, "extn_value": b"\x05\x00"}
    for part in ("request_extensions", "single_request_extensions"):
        assert answer(changed(request(1), part, extension)).certificate_status is OCSPCertStatus.GOOD


def test_largest_request_is_answered() -> None:
    """As many certificates and extensions as may be, named by the longest hash, fit into a request."""
    longest = several(*[request(1, algorithm=hashes.SHA512())] * MAX_CERTIFICATES)
    assert len(longest) <= MAX_REQUEST_BYTES
    assert len(list(answer(longest).responses)) == MAX_CERTIFICATES
    assert answer(extended(MAX_EXTENSIONS)).certificate_status is OCSPCertStatus.GOOD


def test_request_too_many_is_put_off() -> None:
    """By the error response that clients know."""
    put_off = RESPONDER.try_later()
    assert put_off.fresh_until is None
    assert ocsp.load_der_ocsp_response(put_off.der).response_status is OCSPResponseStatus.TRY_LATER


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(unverified: bytes) -> None:
    """Nobody makes the responder fail."""
    assert answer(unverified).response_status is OCSPResponseStatus.MALFORMED_REQUEST


@given(st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_gets_an_answer(damage: list[tuple[int, int]]) -> None:
    """A request that was spoilt anywhere."""
    spoilt = bytearray(GOOD_REQUEST)
    for position, value in damage:
        spoilt[position % len(spoilt)] = value
    assert isinstance(answer(bytes(spoilt)).response_status, OCSPResponseStatus)


GOOD_REQUEST = request(1, nonce=bytes(16))


@pytest.mark.parametrize(
    ("issuer", "certificate", "signer", "rule"),
    [
        (TREE.factory.certificate, CERTIFICATE, SIGNER, "found another issuer"),
        (ISSUER.certificate, CERTIFICATE, SoftwareSigner.generate(), "expected that of the responder's key"),
        (ISSUER.certificate, responder_certificate(()), SIGNER, "OCSP signing, found none"),
        (ISSUER.certificate, responder_certificate((ExtendedKeyUsageOID.CLIENT_AUTH,)), SIGNER, "found another"),
    ],
)
def test_responder_without_delegation_is_refused(
    issuer: x509.Certificate, certificate: x509.Certificate, signer: SoftwareSigner, rule: str
) -> None:
    """Clients would refuse its answers; it shows when the service starts."""
    with pytest.raises(OcspError, match=rule):
        OcspResponder(issuer, certificate, signer)
