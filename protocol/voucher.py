"""The voucher: the manufacturer's signed word on which catalog a device belongs to (in the spirit of RFC 8366).

A DSSE envelope signed by the voucher authority, whose public key the device got at manufacture. It carries every
root that the device will trust. Without a voucher a device follows no catalog; a higher sequence supersedes.
"""

import base64
from collections.abc import Sequence
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import AwareDatetime, Field, PlainSerializer, PlainValidator, WithJsonSchema

from protocol.document import Document, verify_document
from protocol.errors import MalformedError
from protocol.identity import X509_ERRORS, DeviceId, spki_der
from protocol.model import Guid

VOUCHER_PAYLOAD_TYPE = "application/vnd.tinyfleet.voucher+json"
MAX_VOUCHER_BYTES = 64 * 1024


class VoucherError(MalformedError):
    """The voucher is for another device, or older than the one in force."""


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


class Voucher(Document):
    """What a claimed device trusts.

    Attributes:
        sequence: seconds since 1970 at issue; a device takes only a higher one.
        tls_root: DER certificate of the X.509 root that the service's certificates chain to.
        director_root: root.json of the Director repository, first version in force at claim.
        image_root: root.json of the Image repository.
        package_keys: DER SubjectPublicKeyInfo of the keys that may sign image packages.
        golden_keys: DER SubjectPublicKeyInfo of the keys that may sign golden vectors.
    """

    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    catalog_id: Guid
    catalog_name: str
    sequence: Annotated[int, Field(ge=1)]
    issued_at: AwareDatetime
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
) -> Voucher:
    """Verify a voucher for one device.

    Raises:
        DocumentError: not a voucher.
        EnvelopeSignatureError: not signed by the voucher authority.
        VoucherError: for another device, or not newer than the one in force.
    """
    voucher = verify_document(
        unverified_voucher,
        VOUCHER_PAYLOAD_TYPE,
        Voucher,
        trusted_keys=[voucher_key],
        max_bytes=MAX_VOUCHER_BYTES,
    )
    if voucher.device_id != device_id:
        raise VoucherError(f"voucher: expected device {device_id[:12]}…, found {voucher.device_id[:12]}…")
    if voucher.sequence <= sequence_in_force:
        raise VoucherError(f"voucher: expected a sequence above {sequence_in_force}, found {voucher.sequence}")
    return voucher
