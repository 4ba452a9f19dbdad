"""OCSP responder (RFC 6960, RFC 9654): says of an authority's certificates whether they are revoked.

Answers are signed by a delegated key (RFC 6960 §4.2.2.2), so that the authority's own key stays offline, and come from
the authority's revocation list in force. Handling of an unverified request, in this order:
    1. length: at most `MAX_REQUEST_BYTES`;
    2. form: one DER OCSPRequest that asks for 1 to `MAX_CERTIFICATES` certificates and has at most `MAX_EXTENSIONS`
       extensions, of itself and for each certificate; they are counted before they are decoded;
    3. extensions: nothing critical but the nonce;
    4. nonce: 1 to 128 octets (RFC 9654 §2.1), echoed;
    5. issuer: at least one certificate is of the authority; of another one the status is unknown;
    6. knowledge: the revocation list is in force; otherwise the client shall try later.
What fails is answered by an unsigned error response (RFC 6960 §4.2.1): 1 to 4 malformed, 5 unauthorized, 6 try later.
Not checked here: a request's own signature, which the standard leaves optional: everybody may ask; and that a serial
number was ever issued. What the factory has issued is in the log beside its key, which is offline, and the service
learns of a device when it is claimed, so that "unknown" would be wrong of every device on its way there. RFC 6960 §2.2
lets "good" say that a certificate is not revoked, and no more.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from asn1crypto import ocsp as asn1
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.ocsp import OCSPResponseBuilder, OCSPResponseStatus
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.authority import issuer_key_id
from pki.chains import issued_by
from pki.errors import OcspError
from pki.revocation import Reason, Revocation, RevocationList
from protocol.signing import Signer

Asn1Value: TypeAlias = Any  # asn1crypto has no types

MAX_REQUEST_BYTES = 2048
MAX_CERTIFICATES = 8  # of one request
MAX_EXTENSIONS = 4  # of a request, and for each of its certificates
MAX_NONCE_BYTES = 128
ANSWER_LIFETIME = timedelta(hours=1)
_HASHES = ("sha1", "sha256", "sha384", "sha512")
# What asn1crypto raises on bytes that are not of the expected form, some of it only when a part is read.
_PARSE_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)
_REASONS: Mapping[Reason, str] = {
    Reason.KEY_COMPROMISE: "key_compromise",
    Reason.AFFILIATION_CHANGED: "affiliation_changed",
    Reason.SUPERSEDED: "superseded",
    Reason.CESSATION_OF_OPERATION: "cessation_of_operation",
    Reason.CERTIFICATE_HOLD: "certificate_hold",
    Reason.PRIVILEGE_WITHDRAWN: "privilege_withdrawn",
}


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A response.

    Attributes:
        der: OCSPResponse.
        fresh_until: until when a cache may repeat it, UTC; None for an error, or where a nonce makes it one client's.
    """

    der: bytes
    fresh_until: datetime | None


@dataclass(frozen=True, slots=True)
class _Question:
    """A request whose steps 1 to 4 passed.

    Attributes:
        certificate_ids: asn1crypto's CertId, as they are echoed.
        nonce: the extension's value, or None.
    """

    certificate_ids: Sequence[Asn1Value]
    nonce: bytes | None


class _RefusedError(Exception):
    """A request that gets an error response."""

    def __init__(self, status: OCSPResponseStatus) -> None:
        super().__init__(status.name)
        self.status = status


class OcspResponder:
    """Answers for the certificates of one authority.

    Args:
        issuer: the authority.
        certificate: the responder's, by the authority, for OCSP signing.
        signer: private key of that certificate.

    Attributes:
        issuer_key_id: the authority's subject key identifier, hex.

    Raises:
        OcspError: the certificate is not the authority's, has another purpose, or is of another key.
    """

    def __init__(self, issuer: x509.Certificate, certificate: x509.Certificate, signer: Signer) -> None:
        _check_delegation(issuer, certificate, signer)
        self._certificate = certificate.public_bytes(Encoding.DER)
        self._signer = signer
        self.issuer_key_id = issuer_key_id(issuer)
        self._responder_key_hash = hashlib.sha1(_key_bits(certificate), usedforsecurity=False).digest()
        name, key = issuer.subject.public_bytes(), _key_bits(issuer)
        self._issuer_hashes = {
            algorithm: (hashlib.new(algorithm, name).digest(), hashlib.new(algorithm, key).digest())
            for algorithm in _HASHES
        }

    def try_later(self) -> OcspAnswer:
        """Answer without a look at the request; for a service that has too many of them."""
        return OcspAnswer(error_response(OCSPResponseStatus.TRY_LATER), None)

    def respond(self, unverified_request: bytes, crl: RevocationList | None, *, now: datetime) -> OcspAnswer:
        """Answer a request, whatever it is; the steps are those of the module.

        Args:
            unverified_request: DER, or any bytes.
            crl: the authority's verified list in force, or None if there is none yet.
            now: UTC, aware.
        """
        try:
            question = _parse(unverified_request)
            known = self._known(question)
            in_force = _in_force(crl, now)
        except _RefusedError as refused:
            return OcspAnswer(error_response(refused.status), None)
        return self._answer(question, known, in_force, now=now)

    def _known(self, question: _Question) -> list[bool]:
        # Step 5: issuer.
        known = [self._is_ours(certificate_id) for certificate_id in question.certificate_ids]
        if not any(known):
            raise _RefusedError(OCSPResponseStatus.UNAUTHORIZED)
        return known

    def _is_ours(self, certificate_id: Asn1Value) -> bool:
        algorithm = certificate_id["hash_algorithm"]["algorithm"].native
        found = certificate_id["issuer_name_hash"].native, certificate_id["issuer_key_hash"].native
        return self._issuer_hashes.get(algorithm) == found

    def _answer(self, question: _Question, known: Sequence[bool], crl: RevocationList, *, now: datetime) -> OcspAnswer:
        this_update = now.astimezone(UTC).replace(microsecond=0)
        next_update = min(this_update + ANSWER_LIFETIME, crl.next_update)
        responses = [
            {
                "cert_id": certificate_id,
                "cert_status": _status(certificate_id, crl)
                if ours
                else asn1.CertStatus("unknown", asn1.StatusUnknown()),
                "this_update": this_update,
                "next_update": next_update,
            }
            for certificate_id, ours in zip(question.certificate_ids, known, strict=True)
        ]
        data = {
            "responder_id": asn1.ResponderId("by_key", self._responder_key_hash),
            "produced_at": this_update,
            "responses": responses,
        }
        if question.nonce is not None:
            data["response_extensions"] = [{"extn_id": "nonce", "extn_value": question.nonce}]
        return OcspAnswer(self._signed(asn1.ResponseData(data)), next_update if question.nonce is None else None)

    def _signed(self, data: Asn1Value) -> bytes:
        basic = asn1.BasicOCSPResponse(
            {
                "tbs_response_data": data,
                "signature_algorithm": {"algorithm": "sha256_ecdsa"},
                "signature": self._signer.sign(data.dump()),
                "certs": [asn1.Certificate.load(self._certificate)],
            }
        )
        body = {"response_type": "basic_ocsp_response", "response": basic}
        return bytes(asn1.OCSPResponse({"response_status": "successful", "response_bytes": body}).dump())


def error_response(status: OCSPResponseStatus) -> bytes:
    """Return an unsigned error response (RFC 6960 §4.2.1)."""
    return OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


def _parse(unverified_request: bytes) -> _Question:
    # Step 1: length.
    if len(unverified_request) > MAX_REQUEST_BYTES:
        raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST)
    try:
        # Step 2: form; `native` reads every part.
        request = asn1.OCSPRequest.load(unverified_request, strict=True)["tbs_request"]
        _count(request)
        _ = request.native
        certificate_ids = [_certificate_id(part) for part in request["request_list"]]
        nonce = _nonce(request["request_extensions"])
    except _PARSE_ERRORS as error:
        raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST) from error
    return _Question(certificate_ids, nonce)


def _count(request: Asn1Value) -> None:
    # Step 2: form; what a list holds is counted by its headers alone.
    certificates = request["request_list"]
    if not 0 < len(certificates) <= MAX_CERTIFICATES:
        raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST)
    extensions = [request["request_extensions"], *(part["single_request_extensions"] for part in certificates)]
    if any(len(each) > MAX_EXTENSIONS for each in extensions):
        raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST)


def _certificate_id(part: Asn1Value) -> Asn1Value:
    # Step 3: extensions.
    if any(extension["critical"].native for extension in part["single_request_extensions"]):
        raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST)
    return part["req_cert"]


def _nonce(extensions: Asn1Value) -> bytes | None:
    nonces = []
    for extension in extensions:
        if extension["extn_id"].native == "nonce":
            nonces.append(extension["extn_value"].parsed.native)
        # Step 3: extensions.
        elif extension["critical"].native:
            raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST)
    if not nonces:
        return None
    # Step 4: nonce.
    if len(nonces) > 1 or not 0 < len(nonces[0]) <= MAX_NONCE_BYTES:
        raise _RefusedError(OCSPResponseStatus.MALFORMED_REQUEST)
    return bytes(nonces[0])


def _in_force(crl: RevocationList | None, now: datetime) -> RevocationList:
    # Step 6: knowledge.
    if crl is None or crl.next_update <= now:
        raise _RefusedError(OCSPResponseStatus.TRY_LATER)
    return crl


def _status(certificate_id: Asn1Value, crl: RevocationList) -> Asn1Value:
    revocation = crl.revoked.get(certificate_id["serial_number"].native)
    if revocation is None:
        return asn1.CertStatus("good", asn1.StatusGood())
    return asn1.CertStatus("revoked", _revoked_info(revocation))


def _revoked_info(revocation: Revocation) -> dict[str, object]:
    info: dict[str, object] = {"revocation_time": revocation.revoked_at}
    if revocation.reason in _REASONS:
        info["revocation_reason"] = _REASONS[revocation.reason]
    return info


def _check_delegation(issuer: x509.Certificate, certificate: x509.Certificate, signer: Signer) -> None:
    if not issued_by(certificate, issuer):
        raise OcspError("OCSP certificate: expected one by the authority that it answers for, found another issuer")
    if certificate.public_key() != signer.public_key:
        raise OcspError("OCSP certificate: expected that of the responder's key, found another")
    try:
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise OcspError("OCSP certificate: expected the purpose OCSP signing, found none") from error
    if ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        raise OcspError("OCSP certificate: expected the purpose OCSP signing, found another")


def _key_bits(certificate: x509.Certificate) -> bytes:
    """The subject public key without its header, which RFC 6960 §4.1.1 hashes; of P-256 the uncompressed point."""
    return certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
