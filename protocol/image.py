"""Image packages: a payload, Azure Sphere image metadata and a signature.

Layout: `protocol.image_layout`. The signature, r‖s, 64 bytes, is ECDSA P-256 over SHA-256 of everything before it.

Verification of unverified bytes, in this order:
    1. length: at least the smallest package, at most `MAX_PACKAGE_BYTES`;
    2. signature: the last 64 bytes, by one of the trusted keys, before anything is parsed;
    3. metadata: every section whole, known, of its length and there once; identity, signature, revocation and debug
       section there; all of them parse;
    4. the signature section says P-256 and names the key that verified;
    5. the image type is that of the expected image kind;
    6. the image can be installed: not compressed, and not one for development alone.

The private half of Azure Sphere's `DEVELOPMENT_KEY` is in everybody's hands. Step 2 refuses what it signed, whoever
lists it among the trusted keys, unless the caller allows development: a device with the AppDevelopment capability, and
then applications, firmware and models alone. Temporary images, of whatever key, are for such devices too (step 6).
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from azuresphere_imagemetadata.image import Image
from azuresphere_imagemetadata.image_metadata import ImageMetadata
from azuresphere_imagemetadata.metadata_sections.identity import ImageType
from azuresphere_imagemetadata.metadata_sections.signature import SigningType
from azuresphere_imagemetadata.signing.app_development import AppDevelopmentSigner
from azuresphere_imagemetadata.signing.signer import Signer as MetadataSigner
from azuresphere_imagemetadata.signing.signer import SigningMap
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from protocol.errors import SignatureError
from protocol.geometry import ImageKind
from protocol.identity import spki_der
from protocol.image_info import (
    IMAGE_TYPE,
    MAX_NAME_BYTES,
    Compression,
    ImageInfo,
    Interface,
    Runtime,
    TemporaryFlags,
    flag_names,
    parse_sections,
    read_info,
    to_sections,
)
from protocol.image_layout import (
    BODY_BYTES,
    MANDATORY_SECTIONS,
    MAX_PACKAGE_BYTES,
    MAX_SECTIONS,
    MIN_PACKAGE_BYTES,
    PAYLOAD_ALIGNMENT_BYTES,
    PackageError,
    PackageLayout,
    Section,
    SectionId,
    check_sections,
    read_layout,
    signed_part,
)
from protocol.signing import RAW_SIGNATURE_BYTES, Signer, der_from_raw, raw_from_der, verify

__all__ = [
    "DEVELOPMENT_KEY",
    "IMAGE_TYPE",
    "MAX_NAME_BYTES",
    "MAX_PACKAGE_BYTES",
    "MAX_SECTIONS",
    "MIN_PACKAGE_BYTES",
    "CompressedImageError",
    "Compression",
    "DevelopmentKeyError",
    "ImageInfo",
    "Interface",
    "PackageError",
    "PackageSignatureError",
    "Runtime",
    "TemporaryFlags",
    "TemporaryImageError",
    "VerifiedImage",
    "compose",
    "digest_of",
    "flag_names",
    "is_signed_by",
    "key_id",
    "key_thumbprint",
    "package_bytes",
    "read_info",
    "resign",
    "verify_package",
]

DEVELOPMENT_IMAGE_TYPES = frozenset({ImageType.Applications, ImageType.Other})
"""What a development key may sign: never the system, whose images are the maker's."""

_DEVELOPMENT_CERTIFICATE = AppDevelopmentSigner().signing_map.ecdsa_256.cert.certificate
DEVELOPMENT_KEY: ec.EllipticCurvePublicKey = _DEVELOPMENT_CERTIFICATE.public_key()
"""Public half of the key pair that azuresphere-imagemetadata ships for development."""


class PackageSignatureError(SignatureError):
    """No trusted package key signed the image package."""


class DevelopmentKeyError(PackageSignatureError):
    """The public development key signed the image package, where that does not count."""


class CompressedImageError(PackageError):
    """The payload is compressed, and nothing here uncompresses one."""


class TemporaryImageError(PackageError):
    """The image is for development, on a device that is not."""


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """An image package whose signature and form have been verified.

    Attributes:
        info: what the package says of itself.
        digest: SHA-256 of the whole package, lower-case hex: the TUF target hash and the measurement.
        payload: the payload with its padding, so up to three zero bytes may follow what was composed.
        signer_id: SHA-256 of the signing key's DER SubjectPublicKeyInfo, 32 bytes.
    """

    info: ImageInfo
    digest: str
    payload: bytes
    signer_id: bytes


class _PackageSigner(MetadataSigner):
    """The subclass point that azuresphere-imagemetadata offers for keys of one's own."""

    def __init__(self, signer: Signer) -> None:
        super().__init__(SigningMap())
        self._signer = signer

    @override
    def thumbprint(self, signing_type: Any = SigningType.ECDsa256) -> str:
        return key_thumbprint(self._signer.public_key).hex()

    @override
    def sign_data(self, data: bytes, signing_type: Any = SigningType.ECDsa256) -> bytes:
        return self._signer.sign(bytes(data))


def key_thumbprint(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the 20-byte key hint of the signature section: SHA-1 of the SubjectPublicKeyInfo, no security.

    The development key has a certificate, whose SHA-1 it is, as everywhere on Azure Sphere; ours have none.
    """
    if public_key == DEVELOPMENT_KEY:
        return bytes(_DEVELOPMENT_CERTIFICATE.fingerprint(hashes.SHA1()))  # noqa: S303 - a hint, no security
    return hashlib.sha1(spki_der(public_key), usedforsecurity=False).digest()


def key_id(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the signer id of a package key: SHA-256 of its DER SubjectPublicKeyInfo, 32 bytes."""
    return hashlib.sha256(spki_der(public_key)).digest()


def digest_of(package: bytes) -> str:
    """Return the SHA-256 of a package as lower-case hex."""
    return hashlib.sha256(package).hexdigest()


def compose(payload: bytes, info: ImageInfo, signer: Signer) -> bytes:
    """Make a signed image package.

    Raises:
        PackageError: the payload is empty or too large, or a field of info does not fit the format.
    """
    if not 0 < len(payload) <= MAX_PACKAGE_BYTES - 1024:
        raise PackageError(f"payload: expected 1 to {MAX_PACKAGE_BYTES - 1024} bytes, found {len(payload)}")
    if info.compression is not None:
        raise CompressedImageError("payload: expected one that is not compressed, found another")
    image = Image()
    image.data = payload
    image.metadata = ImageMetadata(None)
    for section in to_sections(info):
        image.metadata.add_section(section)
    return bytes(image.serialize(_PackageSigner(signer)))


def package_bytes(payload_bytes: int) -> int:
    """Return the length of a package with the mandatory sections alone, for a payload of some length."""
    padded = payload_bytes + -payload_bytes % PAYLOAD_ALIGNMENT_BYTES
    sections = [Section(section_id, bytes(BODY_BYTES[section_id])) for section_id in MANDATORY_SECTIONS]
    return padded + len(signed_part(b"", sections)) + RAW_SIGNATURE_BYTES


def resign(unverified_package: bytes, signer: Signer) -> bytes:
    """Sign a package anew: the same payload and sections, but for the signature section, which names the signer's key.

    Nothing of the package is verified; whoever signs it vouches for it.

    Raises:
        PackageError: the bytes are no package, or its sections are not those of one.
    """
    layout = read_layout(unverified_package)
    check_sections(layout)
    body = key_thumbprint(signer.public_key) + struct.pack("<I", SigningType.ECDsa256)
    sections = [Section(s.section_id, body if s.section_id == SectionId.SIGNATURE else s.body) for s in layout.sections]
    content = signed_part(layout.payload, sections)
    return content + raw_from_der(signer.sign(content))


def verify_package(
    unverified_package: bytes,
    trusted_keys: Sequence[ec.EllipticCurvePublicKey],
    *,
    kind: ImageKind | None,
    allow_development: bool = False,
) -> VerifiedImage:
    """Verify an image package and return what it holds.

    Args:
        unverified_package: the whole package.
        trusted_keys: package keys of the catalog, or the maker's for system images.
        kind: the kind of image that is expected here; None accepts every kind.
        allow_development: also trust `DEVELOPMENT_KEY`, for `DEVELOPMENT_IMAGE_TYPES`, and take temporary images; only
            for a device with the AppDevelopment capability.

    Raises:
        PackageError: steps 1, 3, 4 or 5.
        DevelopmentKeyError: step 2; the development key signed it.
        PackageSignatureError: step 2; no trusted key did.
        CompressedImageError, TemporaryImageError: step 6.
    """
    # Step 1: length.
    size = len(unverified_package)
    if not MIN_PACKAGE_BYTES <= size <= MAX_PACKAGE_BYTES:
        raise PackageError(f"image package: expected {MIN_PACKAGE_BYTES} to {MAX_PACKAGE_BYTES} bytes, found {size}")
    signing_key = _signing_key(unverified_package, trusted_keys, allow_development=allow_development)
    # Step 3: metadata.
    layout = read_layout(unverified_package)
    check_sections(layout)
    _check_signature_section(layout, signing_key)
    info = parse_sections(unverified_package)
    _check_development(info, signing_key)
    # Step 5: image type.
    if kind is not None and info.image_type != IMAGE_TYPE[kind]:
        raise PackageError(
            f"image type: expected {IMAGE_TYPE[kind]} ({kind.value}), found {info.image_type} "
            f"({ImageType.get_name(info.image_type)})"
        )
    _check_installable(info, allow_development=allow_development)
    return VerifiedImage(info, digest_of(unverified_package), layout.payload, key_id(signing_key))


def _signing_key(
    package: bytes, trusted_keys: Sequence[ec.EllipticCurvePublicKey], *, allow_development: bool
) -> ec.EllipticCurvePublicKey:
    # Step 2: signature.
    for key in trusted_keys:
        if key != DEVELOPMENT_KEY and is_signed_by(package, key):
            return key
    if not is_signed_by(package, DEVELOPMENT_KEY):
        raise PackageSignatureError(
            f"image package: expected a signature by one of {len(trusted_keys)} trusted keys, found none"
        )
    if not allow_development:
        raise DevelopmentKeyError(
            "image package: expected a signature by a trusted key, found one by Azure Sphere's public development key, "
            "which counts on a device with the AppDevelopment capability alone"
        )
    return DEVELOPMENT_KEY


def is_signed_by(unverified_package: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    """Say whether the last 64 bytes of a package are the key's signature; nothing else is looked at."""
    try:
        signature = der_from_raw(unverified_package[-RAW_SIGNATURE_BYTES:])
        verify(key, signature, unverified_package[:-RAW_SIGNATURE_BYTES])
    except SignatureError:
        return False
    return True


def _check_signature_section(layout: PackageLayout, signing_key: ec.EllipticCurvePublicKey) -> None:
    # Step 4: signature section.
    thumbprint, signing_type = struct.unpack("<20sI", layout.body(SectionId.SIGNATURE))
    if signing_type != SigningType.ECDsa256:
        raise PackageError(f"signing type: expected {SigningType.ECDsa256} (ECDSA P-256), found {signing_type}")
    if thumbprint != key_thumbprint(signing_key):
        raise PackageError("signature section: expected the thumbprint of the signing key, found another")


def _check_development(info: ImageInfo, signing_key: ec.EllipticCurvePublicKey) -> None:
    # Step 2: what the development key may sign, known only after step 3.
    if signing_key == DEVELOPMENT_KEY and info.image_type not in DEVELOPMENT_IMAGE_TYPES:
        raise DevelopmentKeyError(
            f"image type {ImageType.get_name(info.image_type)}: expected a signature by the maker, found one by "
            "the public development key, whose are applications, firmware and models alone"
        )


def _check_installable(info: ImageInfo, *, allow_development: bool) -> None:
    # Step 6: what can be installed.
    if info.compression is not None:
        raise CompressedImageError(
            f"{info.name}: expected a payload that runs as it is, found a compressed one, which no device here unpacks"
        )
    if info.temporary and not allow_development:
        raise TemporaryImageError(
            f"{info.name}: expected an image that stays, found a temporary one ({flag_names(info.temporary)}), which "
            "runs on a device with the AppDevelopment capability alone"
        )
