"""Certificate signing requests: make them, and verify unverified ones.

Verification, in this order:
    1. length: at most `MAX_CSR_BYTES`;
    2. form: one PKCS#10 request (RFC 2986), PEM or DER;
    3. key: a point of P-256 whose private half is not known to everybody (pki/weak_keys.py);
    4. proof of possession: the request is signed by its own key, ECDSA with SHA-256;
    5. name: one SAN URI, that of the device;
    6. no common name: it holds 64 characters and a device id has 128, so whatever it says is no device id;
    7. no authority: neither basic constraints nor key usage ask to sign certificates or revocation lists;
    8. LDevID only: the key is neither the device's identity key, which signs no traffic but its own, nor one of those
       that the caller reserves: authorities' and the service's own.
Everything else in a request is ignored: the profile alone decides what a certificate says. The one request that our
devices make is told by its bytes, which show most steps without a parser (pki/device_request.py).
Not checked here: whether the key is in a certificate already, or another device's identity key; the issuance log and
the registry know that (service/application/attestation.py).
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from pki.device_request import read_device_request
from pki.errors import CsrError
from pki.signer_key import SignerKey
from pki.weak_keys import weakness
from protocol.errors import ProtocolError, SignatureError
from protocol.identity import X509_ERRORS, DeviceId, IdentityError, device_id_in, device_id_of, p256_key, spki_der
from protocol.signing import Signer, verify

MAX_CSR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class VerifiedCsr:
    """A request that may be answered with a device certificate.

    Attributes:
        device_id: the device that the request names.
        public_key: P-256; its possession has been proved.
        spki: the key as DER SubjectPublicKeyInfo.
        key_sha256: of this, hex.
    """

    device_id: DeviceId
    public_key: ec.EllipticCurvePublicKey
    spki: bytes
    key_sha256: str

    @property
    def key_device_id(self) -> DeviceId:
        """The device whose identity key this would be; a fresh key is nobody's."""
        return DeviceId(hashlib.sha512(self.spki).hexdigest())


@dataclass(frozen=True, slots=True)
class _Possessed:
    """A request whose steps 1 to 4 passed, its key, and the key's DER SubjectPublicKeyInfo with its SHA-256, hex."""

    request: x509.CertificateSigningRequest
    public_key: ec.EllipticCurvePublicKey
    spki: bytes
    key_sha256: str


def make_csr(signer: Signer, common_name: str) -> bytes:
    """Make the service's request for one of its online keys, PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(SignerKey(signer), hashes.SHA256())
    return request.public_bytes(Encoding.PEM)


def verify_service_csr(unverified_csr: bytes, common_name: str) -> ec.EllipticCurvePublicKey:
    """Verify the service's request for one of its online keys.

    Raises:
        CsrError: steps 1 to 4, or another common name.
    """
    possessed = _possessed(unverified_csr)
    found = _common_names(possessed.request)
    if found != [common_name]:
        raise CsrError(f"CSR: expected the common name {common_name}, found {found}")
    return possessed.public_key


def verify_idevid_csr(unverified_csr: bytes) -> VerifiedCsr:
    """Verify a new device's request for its IDevID; the device id must be that of the request's own key.

    Raises:
        CsrError: steps 1 to 7.
    """
    possessed = _possessed(unverified_csr)
    return _named(possessed, device_id_of(possessed.public_key))


def verify_ldevid_csr(
    unverified_csr: bytes,
    device_id: DeviceId,
    *,
    identity_key: ec.EllipticCurvePublicKey,
    reserved_keys: Collection[str] = (),
) -> VerifiedCsr:
    """Verify a device's request for its LDevID.

    Args:
        unverified_csr: PEM or DER.
        device_id: the device that is connected.
        identity_key: its identity key.
        reserved_keys: SHA-256 of the SubjectPublicKeyInfo, hex, of keys that no device may have.

    Raises:
        CsrError: steps 1 to 8.
    """
    verified = _recognised(unverified_csr, device_id) or _named(_possessed(unverified_csr), device_id)
    # Step 8: a fresh key.
    if verified.public_key == identity_key:
        raise CsrError("CSR: expected a fresh key, found the identity key")
    if verified.key_sha256 in reserved_keys:
        raise CsrError("CSR: expected a fresh key, found one of the service or of an authority")
    return verified


def _possessed(unverified_csr: bytes) -> _Possessed:
    # Step 1: length.
    if len(unverified_csr) > MAX_CSR_BYTES:
        raise CsrError(f"CSR: expected at most {MAX_CSR_BYTES} bytes, found {len(unverified_csr)}")
    try:
        # Step 2: form.
        request = _load(unverified_csr)
        # Step 3: key.
        public_key = p256_key(request)
        spki = spki_der(public_key)
        key_sha256 = hashlib.sha256(spki).hexdigest()
        _check_unpublished(key_sha256)
        # Step 4: proof of possession.
        if request.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
            raise CsrError(f"CSR: expected ECDSA with SHA-256, found {request.signature_algorithm_oid.dotted_string}")
        _check_signature(public_key, request.signature, request.tbs_certrequest_bytes)
    except X509_ERRORS as error:
        raise CsrError(f"CSR: expected one PKCS#10 request, found {type(error).__name__}") from error
    except IdentityError as error:
        raise CsrError(f"CSR: {error}") from error
    return _Possessed(request, public_key, spki, key_sha256)


def _recognised(unverified_csr: bytes, device_id: DeviceId) -> VerifiedCsr | None:
    """Verify a request as our devices make it, whose bytes alone show that steps 1, 2 and 5 to 7 hold.

    Returns:
        None for any other request.
    """
    request = read_device_request(unverified_csr, device_id)
    if request is None:
        return None
    # Step 3: key.
    try:
        public_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), request.point)
    except ValueError as error:
        raise CsrError("CSR: expected a P-256 key, found none that loads") from error
    key_sha256 = hashlib.sha256(request.spki).hexdigest()
    _check_unpublished(key_sha256)
    # Step 4: proof of possession.
    _check_signature(public_key, request.signature, request.signed)
    return VerifiedCsr(device_id, public_key, request.spki, key_sha256)


def _check_unpublished(key_sha256: str) -> None:
    if source := weakness(key_sha256):
        raise CsrError(f"CSR: expected a key of the device's own, found a published one ({source})")


def _check_signature(public_key: ec.EllipticCurvePublicKey, signature: bytes, signed: bytes) -> None:
    try:
        verify(public_key, signature, signed)
    except SignatureError as error:
        raise CsrError("CSR: expected a signature by its own key, found another") from error


def _load(unverified_csr: bytes) -> x509.CertificateSigningRequest:
    if unverified_csr.startswith(b"-----BEGIN"):
        return x509.load_pem_x509_csr(unverified_csr)
    return x509.load_der_x509_csr(unverified_csr)


def _named(possessed: _Possessed, device_id: DeviceId) -> VerifiedCsr:
    request = possessed.request
    try:
        # Step 5: name.
        named = device_id_in(request)
        # Step 6: no common name.
        common_names = _common_names(request)
        # Step 7: no authority.
        asks_for_ca = any(_asks_for_authority(extension.value) for extension in request.extensions)
    except (*X509_ERRORS, ProtocolError) as error:
        raise CsrError(f"CSR: expected the SAN URI of device {device_id[:12]}…, found {error}") from error
    if named != device_id:
        raise CsrError(f"CSR: expected device {device_id[:12]}…, found {named[:12]}…")
    if common_names:
        raise CsrError(f"CSR: expected no common name, found {len(common_names)}")
    if asks_for_ca:
        raise CsrError("CSR: expected an end entity, found a request for an authority")
    return VerifiedCsr(device_id, possessed.public_key, possessed.spki, possessed.key_sha256)


def _asks_for_authority(value: x509.ExtensionType) -> bool:
    if isinstance(value, x509.KeyUsage):
        return value.key_cert_sign or value.crl_sign
    return isinstance(value, x509.BasicConstraints) and value.ca


def _common_names(request: x509.CertificateSigningRequest) -> list[str | bytes]:
    return [attribute.value for attribute in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
