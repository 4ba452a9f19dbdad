"""The voucher: the manufacturer's signed word on which catalog a device belongs to (in the spirit of RFC 8366).

A DSSE envelope signed by the voucher authority, whose public key the device got at manufacture. It carries every
root that the device will trust. Without a voucher a device follows no catalog; a higher sequence supersedes.

RFC 8366 §5.3 → here: created-on → issued_at, expires-on → expires_at, assertion → assertion, serial-number →
device_id, pinned-domain-cert → tls_root. There is no nonce, because the sequence tells an old voucher from a new one
on a device without a clock, and no idevid-issuer, because a device id belongs to one key wherever it was made.

Verification of an unverified voucher, in this order:
    1. length, form, signature of the voucher authority, document (`protocol.document.verify_document`);
    2. the device is this one;
    3. the sequence is above the one in force;
    4. it has not expired (RFC 8366 §5.3: it limits when a voucher may be taken, not how long it then holds);
    5. contents, by `check_roots`: a CA certificate, two root metadata that sign themselves, P-256 keys.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from protocol.document import Document, Moment, Name, canonical_json, verify_document
from protocol.errors import MalformedError
from protocol.identity import X509_ERRORS, DeviceId, spki_der
from protocol.model import Guid

VOUCHER_PAYLOAD_TYPE = "application/vnd.tinyfleet.voucher+json"
MAX_VOUCHER_BYTES = 64 * 1024
MAX_SEQUENCE = (1 << 63) - 1  # what databases hold


class VoucherError(MalformedError):
    """The voucher is for another device, older than the one in force, expired, or hands over what is no root."""


def _decode(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("expected base64 text")  # noqa: TRY004 - pydantic reports a ValueError, not a TypeError
    return base64.b64decode(value, validate=True)


Base64Bytes = Annotated[
    bytes,
    PlainValidator(_decode),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


VoucherSequence = Annotated[int, Field(ge=1, le=MAX_SEQUENCE)]


class Assertion(StrEnum):
    """How the manufacturer knows whose the device is (RFC 8366 §5.3)."""

    VERIFIED = "verified"  # the device proved itself to its new owner, or its last owner let it go
    LOGGED = "logged"  # the device had no owner, and the issue is in the authority's log


class Voucher(Document):
    """What a claimed device trusts.

    Attributes:
        sequence: seconds since 1970 at issue, or one more than the last one's; a device takes only a higher one.
        issued_at: UTC, aware.
        expires_at: until when a device may take it, UTC, aware; None for ever.
        assertion: how the manufacturer knows whose the device is.
        tls_root: DER certificate of the X.509 root that the service's certificates chain to.
        director_root: root.json of the Director repository, first version in force at claim.
        image_root: root.json of the Image repository.
        package_keys: DER SubjectPublicKeyInfo of the keys that may sign image packages.
        golden_keys: DER SubjectPublicKeyInfo of the keys that may sign golden vectors.
    """

    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    catalog_id: Guid
    catalog_name: Name
    sequence: VoucherSequence
    issued_at: Moment
    expires_at: Moment | None = None
    assertion: Assertion = Assertion.LOGGED
    tls_root: Base64Bytes
    director_root: Base64Bytes
    image_root: Base64Bytes
    package_keys: tuple[Base64Bytes, ...]
    golden_keys: tuple[Base64Bytes, ...]

    @property
    def tls_root_certificate(self) -> x509.Certificate:
        """The X.509 root.

        Raises:
            VoucherError: it does not load.
        """
        try:
            return x509.load_der_x509_certificate(self.tls_root)
        except X509_ERRORS as error:
            raise VoucherError("TLS root: expected a DER certificate, found other bytes") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the document, lower-case hex: the same voucher, whoever signed it anew."""
        return hashlib.sha256(canonical_json(self)).hexdigest()

    def is_of_catalog(self, other: "Voucher") -> bool:
        """Say whether both lead to one catalog: same id, and same key of the TLS root.

        Whoever holds another root key is another catalog, whatever id it claims.

        Raises:
            VoucherError: a TLS root does not load.
        """
        same_key = self.tls_root_certificate.public_key() == other.tls_root_certificate.public_key()
        return self.catalog_id == other.catalog_id and same_key


def public_keys(encoded: Sequence[bytes]) -> list[ec.EllipticCurvePublicKey]:
    """Load P-256 keys from DER SubjectPublicKeyInfo.

    Raises:
        VoucherError: a key does not load or is of another type or curve.
    """
    return [_public_key(key) for key in encoded]


def _public_key(encoded: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = load_der_public_key(encoded)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise VoucherError("public key: expected a DER SubjectPublicKeyInfo, found other bytes") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise VoucherError("public key: expected P-256, found another type")
    return key


def encode_public_keys(keys: Sequence[ec.EllipticCurvePublicKey]) -> tuple[bytes, ...]:
    """Return the DER SubjectPublicKeyInfo of each key."""
    return tuple(spki_der(key) for key in keys)


def verify_voucher(
    unverified_voucher: bytes,
    device_id: DeviceId,
    *,
    voucher_key: ec.EllipticCurvePublicKey,
    sequence_in_force: int = 0,
    now: datetime | None = None,
) -> Voucher:
    """Verify a voucher for one device, steps 1 to 4 of the module.

    Args:
        unverified_voucher: DSSE envelope.
        device_id: whom it must name.
        voucher_key: of the authority that the factory burnt in.
        sequence_in_force: what it must be above.
        now: at which it must not have expired, UTC and aware; None does not ask.

    Raises:
        DocumentError: not a voucher.
        EnvelopeSignatureError: not signed by the voucher authority.
        VoucherError: for another device, not newer than the one in force, or expired.
    """
    # Step 1: form and signature.
    voucher = verify_document(
        unverified_voucher,
        VOUCHER_PAYLOAD_TYPE,
        Voucher,
        trusted_keys=[voucher_key],
        max_bytes=MAX_VOUCHER_BYTES,
    )
    # Step 2: device.
    if voucher.device_id != device_id:
        raise VoucherError(f"voucher: expected device {device_id[:12]}…, found {voucher.device_id[:12]}…")
    # Step 3: sequence.
    if voucher.sequence <= sequence_in_force:
        raise VoucherError(f"voucher: expected a sequence above {sequence_in_force}, found {voucher.sequence}")
    # Step 4: expiry.
    if now is not None and voucher.expires_at is not None and voucher.expires_at <= now:
        raise VoucherError(f"voucher: expected one that is valid at {now:%FT%TZ}, found {voucher.expires_at:%FT%TZ}")
    return voucher


def check_roots(voucher: Voucher) -> None:
    """Refuse a voucher that hands over anything but roots and keys, before a device gives up its old ones for them.

    Raises:
        VoucherError: step 5 of the module.
    """
    # Step 5: contents.
    _check_tls_root(voucher.tls_root_certificate)
    _check_root_metadata("Director root", voucher.director_root)
    _check_root_metadata("Image root", voucher.image_root)
    public_keys([*voucher.package_keys, *voucher.golden_keys])


def _check_tls_root(certificate: x509.Certificate) -> None:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(certificate)
    except (x509.ExtensionNotFound, InvalidSignature, TypeError, *X509_ERRORS) as error:
        raise VoucherError("TLS root: expected a self-signed authority, found another certificate") from error
    if not constraints.ca:
        raise VoucherError("TLS root: expected an authority, found an end entity")


def _check_root_metadata(name: str, content: bytes) -> None:
    try:
        metadata = Metadata[Root].from_bytes(content)
        if not isinstance(metadata.signed, Root):
            raise VoucherError(f"{name}: expected root metadata, found {type(metadata.signed).__name__}")
        metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    except RepositoryError as error:
        raise VoucherError(f"{name}: expected root metadata that signs itself, found {type(error).__name__}") from error
