"""The papers of a move from one catalog to another, each a DSSE envelope signed by a catalog's root key.

    handover.json   of the catalog that gets devices: the roots and keys that their vouchers are to hand over
    release.json    of the catalog that lets them go: which devices, which voucher of each it ends, and for whom

A catalog is known by its fingerprint, the SHA-256 of its X.509 root (DER): it is told apart from the papers, by a way
that the other side trusts.

Verification of an unverified handover, in this order:
    1. length, form, document;
    2. the root is the one of the fingerprint;
    3. its key signed the envelope;
    4. the rest are roots and keys, as in every voucher (`protocol.voucher.check_roots`).
"""

import hashlib
from datetime import datetime
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from pki.errors import HandoverError
from protocol.document import Document, Moment, Name, Printable, peek_document, sign_document, verify_document
from protocol.errors import ProtocolError
from protocol.identity import DeviceId, IdentityError, p256_key
from protocol.model import Guid, Sha256Hex
from protocol.signing import Signer
from protocol.voucher import MAX_VOUCHER_BYTES, Assertion, Base64Bytes, Voucher, VoucherSequence, check_roots

HANDOVER_PAYLOAD_TYPE = "application/vnd.tinyfleet.handover+json"
RELEASE_PAYLOAD_TYPE = "application/vnd.tinyfleet.device-release+json"
MAX_RELEASED_DEVICES = 10_000
MAX_REASON = 500  # characters
_MAX_RELEASE_BYTES = 4 * 1024 * 1024
_NO_DEVICE = "0" * 128
_DeviceIdText = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class Handover(Document):
    """What every voucher of a catalog hands over; see `Voucher`.

    Attributes:
        made_at: UTC, aware.
    """

    catalog_id: Guid
    catalog_name: Name
    made_at: Moment
    tls_root: Base64Bytes
    director_root: Base64Bytes
    image_root: Base64Bytes
    package_keys: tuple[Base64Bytes, ...]
    golden_keys: tuple[Base64Bytes, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the X.509 root, lower-case hex: what the catalog is known by."""
        return hashlib.sha256(self.tls_root).hexdigest()

    def voucher(
        self,
        device_id: str,
        *,
        sequence: int,
        issued_at: datetime,
        assertion: Assertion,
        expires_at: datetime | None = None,
    ) -> Voucher:
        """Make the voucher of one device; arguments as its attributes."""
        return Voucher(
            device_id=device_id,
            catalog_id=self.catalog_id,
            catalog_name=self.catalog_name,
            sequence=sequence,
            issued_at=issued_at,
            expires_at=expires_at,
            assertion=assertion,
            tls_root=self.tls_root,
            director_root=self.director_root,
            image_root=self.image_root,
            package_keys=self.package_keys,
            golden_keys=self.golden_keys,
        )

    def root_key(self) -> ec.EllipticCurvePublicKey:
        """Return the P-256 key of the X.509 root.

        Raises:
            HandoverError: it is of another kind, or there is no certificate.
        """
        try:
            return root_key_of(self._sample())
        except ProtocolError as error:
            raise HandoverError(f"handover: {error}") from error

    def check(self) -> None:
        """Check what it hands over as a device would.

        Raises:
            HandoverError: step 4.
        """
        # Step 4: roots and keys.
        try:
            check_roots(self._sample())
        except ProtocolError as error:
            raise HandoverError(f"handover: {error}") from error

    def _sample(self) -> Voucher:
        return self.voucher(_NO_DEVICE, sequence=1, issued_at=self.made_at, assertion=Assertion.LOGGED)


class DeviceRelease(Document):
    """A catalog's word that it lets devices go to another one.

    Attributes:
        from_catalog_id: GUID of the catalog that lets them go.
        to_catalog_id: GUID of the catalog that gets them.
        to_fingerprint: of that catalog's root.
        released_at: UTC, aware.
        reason: for people.
        devices: device id → sequence of the voucher that this ends; a later voucher needs a new release.
    """

    from_catalog_id: Guid
    to_catalog_id: Guid
    to_fingerprint: Sha256Hex
    released_at: Moment
    reason: Annotated[Printable, Field(max_length=MAX_REASON)]
    devices: Annotated[dict[_DeviceIdText, VoucherSequence], Field(min_length=1, max_length=MAX_RELEASED_DEVICES)]


def root_key_of(voucher: Voucher) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a voucher's X.509 root, which signs its catalog's papers.

    Raises:
        VoucherError: there is no certificate.
        HandoverError: the key is of another kind.
    """
    try:
        return p256_key(voucher.tls_root_certificate)
    except IdentityError as error:
        raise HandoverError(f"catalog's root: {error}") from error


def sign_handover(handover: Handover, root: Signer) -> bytes:
    """Sign a handover by the catalog's root key; a DSSE envelope, JSON bytes."""
    return sign_document(handover, HANDOVER_PAYLOAD_TYPE, root)


def peek_handover(unverified: bytes) -> Handover:
    """Return what a handover says, so that an operator can compare its fingerprint; nothing is verified.

    Raises:
        HandoverError: step 1.
    """
    try:
        return peek_document(unverified, HANDOVER_PAYLOAD_TYPE, Handover, max_bytes=MAX_VOUCHER_BYTES)
    except ProtocolError as error:
        raise HandoverError(f"handover: expected one by `tinyfleet catalog export`, found: {error}") from error


def verify_handover(unverified: bytes, *, fingerprint: str) -> Handover:
    """Verify a handover, by the steps of the module.

    Args:
        unverified: DSSE envelope.
        fingerprint: of the catalog that it must be of, SHA-256, lower-case hex.

    Raises:
        HandoverError: any step.
    """
    # Step 1: form.
    claimed = peek_handover(unverified)
    # Step 2: fingerprint.
    if claimed.fingerprint != fingerprint:
        raise HandoverError(f"handover: expected the catalog of {fingerprint}, found {claimed.fingerprint}")
    # Step 3: signature.
    try:
        handover = verify_document(
            unverified,
            HANDOVER_PAYLOAD_TYPE,
            Handover,
            trusted_keys=[claimed.root_key()],
            max_bytes=MAX_VOUCHER_BYTES,
        )
    except ProtocolError as error:
        raise HandoverError("handover: expected a signature by its own root key, found none") from error
    handover.check()
    return handover


def sign_device_release(release: DeviceRelease, root: Signer) -> bytes:
    """Sign a device release by the root key of the catalog that lets go; a DSSE envelope, JSON bytes."""
    return sign_document(release, RELEASE_PAYLOAD_TYPE, root)


def verify_device_release(unverified: bytes, *, root_key: ec.EllipticCurvePublicKey) -> DeviceRelease:
    """Verify a device release: length, form, signature of the root key, document.

    Args:
        unverified: DSSE envelope.
        root_key: of the catalog that holds the devices.

    Raises:
        HandoverError: it is none, or by another key.
    """
    try:
        return verify_document(
            unverified, RELEASE_PAYLOAD_TYPE, DeviceRelease, trusted_keys=[root_key], max_bytes=_MAX_RELEASE_BYTES
        )
    except ProtocolError as error:
        raise HandoverError(f"release: expected one by the catalog that holds the device, found: {error}") from error


def ends_voucher(release: DeviceRelease, device_id: DeviceId, sequence: int, *, handover: Handover) -> bool:
    """Say whether a release lets this device go, from this very voucher, to the catalog of the handover."""
    return (
        release.devices.get(device_id) == sequence
        and release.to_catalog_id == handover.catalog_id
        and release.to_fingerprint == handover.fingerprint
    )
