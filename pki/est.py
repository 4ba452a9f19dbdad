"""EST's structures: evidence in a CSR, the attributes that a CSR should have, certificates in PKCS#7.

Reading the evidence of an unverified CSR, in this order:
    1. length and form: one PKCS#10 request of at most `MAX_CSR_BYTES`, DER;
    2. no challenge password (RFC 7030 §3.5): the evidence links the request to the device that is connected, so that
       a link to the TLS session, which the service could not check in TLS 1.3, is not taken for one;
    3. one EvidenceBundle (draft-ietf-lamps-csr-attestation), as an attribute or an extension, not both;
    4. one statement in it, a PSA token; certificates and hints beside it are not used.
Not checked here: what else the CSR must be (pki/csr.py), and the token (protocol/evidence.py).
"""

from collections.abc import Sequence
from typing import ClassVar

from asn1crypto import core, parser
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import serialize_certificates
from cryptography.x509.oid import AttributeOID, ExtensionOID

from pki.csr import MAX_CSR_BYTES
from pki.errors import CsrError
from protocol.est import EVIDENCE, PSA_TOKEN
from protocol.identity import X509_ERRORS, DeviceId, device_uri

_SEQUENCE, _SET = 16, 17  # tag numbers
_EC_PUBLIC_KEY = "1.2.840.10045.2.1"  # RFC 5480 §2.1.1
_P256 = "1.2.840.10045.3.1.7"
_ECDSA_SHA256 = "1.2.840.10045.4.3.2"
_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"  # RFC 2985 §5.4.2


class _Statement(core.Sequence):  # type: ignore[misc]  # the library has no types
    _fields: ClassVar = [("type", core.ObjectIdentifier), ("stmt", core.Any), ("hint", core.Any, {"optional": True})]


class _Statements(core.SequenceOf):  # type: ignore[misc]
    _child_spec = _Statement


class _Bundle(core.Sequence):  # type: ignore[misc]
    _fields: ClassVar = [("evidences", _Statements), ("certs", core.Any, {"optional": True})]


def evidence_in(unverified_csr: bytes) -> bytes:
    """Return the unverified token that a CSR carries.

    Raises:
        CsrError: any step.
    """
    # Step 1: length and form.
    if len(unverified_csr) > MAX_CSR_BYTES:
        raise CsrError(f"CSR: expected at most {MAX_CSR_BYTES} bytes, found {len(unverified_csr)}")
    try:
        request = x509.load_der_x509_csr(unverified_csr)
        bundles = [*_attributes(request), *_extensions(request)]
    except X509_ERRORS as error:
        raise CsrError(f"CSR: expected one PKCS#10 request in DER, found {type(error).__name__}") from error
    # Step 3: one bundle.
    if len(bundles) != 1:
        raise CsrError(f"CSR: expected one evidence bundle below {EVIDENCE.dotted_string}, found {len(bundles)}")
    return _token(bundles[0])


def csr_attributes(device_id: DeviceId) -> bytes:
    """Return what a device's CSR should have: CsrAttrs (RFC 8951 §3, RFC 9908 §3.2), DER.

    Key type and curve, signature algorithm, the SAN with its value, and that evidence is expected.
    """
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(device_id))])
    extension = _sequence(
        _oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME.dotted_string),
        core.Boolean(value=True).dump(),
        core.OctetString(name.public_bytes()).dump(),
    )
    return _sequence(
        _sequence(_oid(_EC_PUBLIC_KEY), _set(_oid(_P256))),
        _oid(_ECDSA_SHA256),
        _sequence(_oid(_EXTENSION_REQUEST), _set(_sequence(extension))),
        _oid(EVIDENCE.dotted_string),
    )


def certificates_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """Return certificates as a PKCS#7 without content and signature (RFC 5272 §4.1), DER."""
    return serialize_certificates(list(certificates), Encoding.DER)


def _attributes(request: x509.CertificateSigningRequest) -> list[bytes]:
    # Step 2: no challenge password.
    if any(attribute.oid == AttributeOID.CHALLENGE_PASSWORD for attribute in request.attributes):
        raise CsrError("CSR: expected no challenge password, found one")
    # cryptography gives out a value without its header.
    found = [attribute.value for attribute in request.attributes if attribute.oid == EVIDENCE]
    return [_sequence(value) for value in found]


def _extensions(request: x509.CertificateSigningRequest) -> list[bytes]:
    return [
        extension.value.value
        for extension in request.extensions
        if extension.oid == EVIDENCE and isinstance(extension.value, x509.UnrecognizedExtension)
    ]


def _token(unverified_bundle: bytes) -> bytes:
    # Step 4: one statement.
    try:
        statements = _Bundle.load(unverified_bundle, strict=True)["evidences"]
        found = [(str(each["type"].dotted), each["stmt"].parse(core.OctetString).native) for each in statements]
    except (ValueError, TypeError) as error:
        raise CsrError("evidence bundle: expected statements with OCTET STRINGs, found another structure") from error
    kinds = [kind for kind, _ in found]
    if kinds != [PSA_TOKEN.dotted_string]:
        raise CsrError(f"evidence bundle: expected one statement of {PSA_TOKEN.dotted_string}, found {kinds[:4]}")
    return bytes(found[0][1])


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def _sequence(*parts: bytes) -> bytes:
    return bytes(parser.emit(0, 1, _SEQUENCE, b"".join(parts)))


def _set(*parts: bytes) -> bytes:
    return bytes(parser.emit(0, 1, _SET, b"".join(parts)))
