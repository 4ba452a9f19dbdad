"""The certificate store: certificates for enterprise Wi-Fi in secure storage. A key never comes out again.

Verification of what is added, in this order:
    1. identifier: 1 to 16 letters, digits or .-_;
    2. type, and that a root CA comes without key or password;
    3. lengths;
    4. certificate: one, PEM, X.509;
    5. key: PEM, opened by the password that it needs and by none where it needs none; it is the certificate's;
    6. room.
"""

import re
from collections.abc import Iterator, Mapping

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from pydantic import Field

from device_sim.hardware.ports import ItemStorage
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import JSON_TYPE, Answer, Request, RequestDocument, Route, json_answer
from protocol.document import Document
from protocol.geometry import KIB

STORE_BYTES = 24 * KIB  # as on the chip, where the client's tests find 24,514 free
MAX_PEM_BYTES = 8 * KIB  # of a certificate, and of a key
MAX_PASSWORD_BYTES = 256
_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]+\Z")
_MAX_IDENTIFIER_CHARACTERS = 16
_STORED = "rest/certificates"  # name in secure storage


class _NewCertificate(RequestDocument):
    cert_type: str
    public_cert: str
    private_key: str = ""
    password: str = ""


class _Certificate(Document):
    type: str
    certificate: str  # PEM
    private_key: str = ""  # PEM, encrypted where it came so
    password: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(len(text.encode()) for text in (self.certificate, self.private_key, self.password))


class _Store(Document):
    certificates: Mapping[str, _Certificate] = Field(default_factory=dict)

    @property
    def free_bytes(self) -> int:
        return STORE_BYTES - sum(each.size_bytes for each in self.certificates.values())


class CertificateStore:
    """Routes of the certificate store.

    Args:
        storage: of the device.
    """

    def __init__(self, storage: ItemStorage) -> None:
        self._storage = storage

    def routes(self) -> Iterator[Route]:
        """Yield them."""
        yield Route("GET", "certstore/certs", lambda _: json_answer({"identifiers": sorted(self._kept)}))
        yield Route("GET", "certstore/space", self._space)
        yield Route("GET", "certstore/certs/*", self._show)
        yield Route("POST", "certstore/certs/*", self._add, content_type=JSON_TYPE)
        yield Route("DELETE", "certstore/certs/*", self._remove)

    @property
    def _kept(self) -> dict[str, _Certificate]:
        return dict(self._load().certificates)

    def _load(self) -> _Store:
        return self._storage.get_document(_STORED, _Store) or _Store()

    def _space(self, _request: Request) -> Answer:
        return json_answer({"AvailableSpace": str(self._load().free_bytes)})

    def _show(self, request: Request) -> Answer:
        certificate = x509.load_pem_x509_certificate(self._require(request.parameter).certificate.encode())
        return json_answer(
            {
                "id": request.parameter,
                "notBefore": certificate.not_valid_before_utc.isoformat(),
                "notAfter": certificate.not_valid_after_utc.isoformat(),
                "subjectName": certificate.subject.rfc4514_string(),
                "issuerName": certificate.issuer.rfc4514_string(),
            }
        )

    def _add(self, request: Request) -> Answer:
        # Step 1: identifier.
        identifier = _check_identifier(request.parameter)
        offered = request.document(_NewCertificate)
        _check(offered)
        certificate = _Certificate(
            type=offered.cert_type,
            certificate=offered.public_cert,
            private_key=offered.private_key,
            password=offered.password,
        )
        # Step 6: room.
        store = _Store(certificates={**self._kept, identifier: certificate})
        if store.free_bytes < 0:
            raise RequestRefusedError(
                Code.CERTIFICATE_SPACE, f"certificate store: expected at most {STORE_BYTES} bytes, found more"
            )
        self._storage.put_document(_STORED, store)
        return Answer()

    def _remove(self, request: Request) -> Answer:
        self._require(request.parameter)
        kept = {name: each for name, each in self._kept.items() if name != request.parameter}
        self._storage.put_document(_STORED, _Store(certificates=kept))
        return Answer()

    def _require(self, identifier: str) -> _Certificate:
        found = self._kept.get(_check_identifier(identifier))
        if found is None:
            raise RequestRefusedError(Code.CERTIFICATE_NOT_FOUND, f"certificate: expected {identifier}, found none")
        return found


def _check_identifier(unverified: str) -> str:
    if not _IDENTIFIER.match(unverified):
        raise RequestRefusedError(Code.CERTIFICATE_ID_INVALID, "certificate id: expected letters, digits, .-_")
    if len(unverified) > _MAX_IDENTIFIER_CHARACTERS:
        raise RequestRefusedError(
            Code.CERTIFICATE_ID_TOO_LONG, f"certificate id: expected 1 to 16 characters, found {len(unverified)}"
        )
    return unverified


def _check(offered: _NewCertificate) -> None:
    # Step 2: type.
    if offered.cert_type not in ("client", "rootca"):
        raise RequestRefusedError(Code.CERTIFICATE_TYPE, "certificate type: expected client or rootca, found another")
    if offered.cert_type == "rootca" and offered.private_key:
        raise RequestRefusedError(Code.KEY_NOT_ALLOWED, "root CA: expected no private key, found one")
    if offered.cert_type == "rootca" and offered.password:
        raise RequestRefusedError(Code.PASSWORD_NOT_ALLOWED, "root CA: expected no password, found one")
    # Step 3: lengths.
    for text, most, code in (
        (offered.public_cert, MAX_PEM_BYTES, Code.CERTIFICATE_TOO_LONG),
        (offered.private_key, MAX_PEM_BYTES, Code.CERTIFICATE_KEY_TOO_LONG),
        (offered.password, MAX_PASSWORD_BYTES, Code.PASSWORD_TOO_LONG),
    ):
        if len(text.encode()) > most:
            raise RequestRefusedError(code, f"certificate: expected at most {most} bytes, found {len(text.encode())}")
    # Step 4: certificate.
    try:
        found = x509.load_pem_x509_certificates(offered.public_cert.encode())
        public_key = found[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RequestRefusedError(Code.CERTIFICATE_INVALID, "certificate: expected X.509 as PEM, found none") from error
    if len(found) != 1:
        raise RequestRefusedError(Code.CERTIFICATE_INVALID, f"certificate: expected one, found {len(found)}")
    # Step 5: key.
    if offered.cert_type == "client":
        _check_key(offered, public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _check_key(offered: _NewCertificate, public_key: bytes) -> None:
    password = offered.password.encode() or None
    try:
        key = load_pem_private_key(offered.private_key.encode(), password)
    except TypeError as error:  # a password too many, or too few
        code = Code.KEY_INVALID if password is None else Code.PASSWORD_NOT_NEEDED
        raise RequestRefusedError(code, "private key: expected the password that it needs, found another") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RequestRefusedError(Code.KEY_INVALID, "private key: expected PEM and its password") from error
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public_key:
        raise RequestRefusedError(Code.KEY_MISMATCH, "private key: expected the certificate's, found another")
