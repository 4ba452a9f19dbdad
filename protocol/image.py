"""Image packages: a payload, Azure Sphere image metadata and a signature.

Layout (azuresphere-imagemetadata 0.2.2): payload padded with zeros to 4 bytes | metadata sections | u32 metadata
length | r‖s, 64 bytes: ECDSA P-256 over SHA-256 of everything before it.

Verification of unverified bytes, in this order:
    1. length: at least the smallest package, at most `MAX_PACKAGE_BYTES`;
    2. signature: the last 64 bytes, by one of the trusted keys, before anything is parsed;
    3. metadata: of a sane length, at most `MAX_SECTIONS`; parses, with exactly one identity, signature, revocation and
       debug section;
    4. the signature section says P-256 and names the key that verified;
    5. the image type is that of the expected image kind.
The private half of Azure Sphere's `DEVELOPMENT_KEY` is in everybody's hands. Step 2 refuses what it signed, whoever
lists it among the trusted keys, unless the caller allows development: a device with the AppDevelopment capability, and
then applications, firmware and models alone.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from azuresphere_imagemetadata.exceptions import ImageMetadataConversionError
from azuresphere_imagemetadata.image import Image
from azuresphere_imagemetadata.image_metadata import ImageMetadata
from azuresphere_imagemetadata.metadata_sections import DebugSection, IdentitySection, MetadataSectionId
from azuresphere_imagemetadata.metadata_sections.identity import ImageType
from azuresphere_imagemetadata.metadata_sections.revocation import RevocationSection
from azuresphere_imagemetadata.metadata_sections.signature import SigningType
from azuresphere_imagemetadata.signing.app_development import AppDevelopmentSigner
from azuresphere_imagemetadata.signing.signer import Signer as MetadataSigner
from azuresphere_imagemetadata.signing.signer import SigningMap
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from protocol.errors import MalformedError, SignatureError
from protocol.geometry import ImageKind
from protocol.identity import parse_guid, spki_der
from protocol.signing import RAW_SIGNATURE_BYTES, Signer, der_from_raw, verify

MAX_PACKAGE_BYTES = 16 * 1024 * 1024  # the flash of the whole chip
MIN_PACKAGE_BYTES = RAW_SIGNATURE_BYTES + 12
MIN_METADATA_BYTES = 29  # a shorter one would be taken for a first boot loader's
MAX_SECTIONS = 16
MAX_NAME_BYTES = 31  # debug section: 32 bytes with the terminating zero

IMAGE_TYPE: Mapping[ImageKind, int] = MappingProxyType(
    {
        # Not OneBL: the library pads that type to a fixed 16 KiB.
        ImageKind.BOOT_LOADER: ImageType.NormalWorldLoader,
        ImageKind.SECURITY_MONITOR: ImageType.SecurityMonitor,
        ImageKind.OS: ImageType.NormalWorldKernel,
        # As on Azure Sphere, real-time and high-level applications share a type; Uptane's hardware id and the
        # reference values of a slot tell them apart.
        ImageKind.APPLICATION: ImageType.Applications,
        ImageKind.FIRMWARE: ImageType.Applications,
        ImageKind.MODEL: ImageType.Other,
    }
)


DEVELOPMENT_IMAGE_TYPES = frozenset({ImageType.Applications, ImageType.Other})
"""What a development key may sign: never the system, whose images are the maker's."""

_DEVELOPMENT_CERTIFICATE = AppDevelopmentSigner().signing_map.ecdsa_256.cert.certificate
DEVELOPMENT_KEY: ec.EllipticCurvePublicKey = _DEVELOPMENT_CERTIFICATE.public_key()
"""Public half of the key pair that azuresphere-imagemetadata ships for development."""


class PackageError(MalformedError):
    """The bytes are no image package of the expected form."""


class PackageSignatureError(SignatureError):
    """No trusted package key signed the image package."""


class DevelopmentKeyError(PackageSignatureError):
    """The public development key signed the image package, where that does not count."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What an image package says of itself.

    Attributes:
        image_type: Azure Sphere image type, see `IMAGE_TYPE`.
        component_id: GUID of what the image is.
        image_id: GUID of this one build of it.
        name: `name@version`, at most 31 bytes of UTF-8.
        security_version: checked against the device's fuses; never falls. 32 bits.
        built_at: UTC, aware, whole seconds.
    """

    image_type: int
    component_id: str
    image_id: str
    name: str
    security_version: int
    built_at: datetime

    @property
    def version(self) -> str:
        """The part of the name after `@`, or an empty string."""
        return self.name.partition("@")[2]


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
    image = Image()
    image.data = payload
    image.metadata = ImageMetadata(None)
    for section in (_identity_section(info), _revocation_section(info), _debug_section(info)):
        image.metadata.add_section(section)
    return bytes(image.serialize(_PackageSigner(signer)))


def _identity_section(info: ImageInfo) -> IdentitySection:
    if info.image_type not in IMAGE_TYPE.values():
        raise PackageError(f"image type: expected one of {sorted(set(IMAGE_TYPE.values()))}, found {info.image_type}")
    section = IdentitySection()
    section.image_type = info.image_type
    section.component_uid = parse_guid(info.component_id)
    section.image_uid = parse_guid(info.image_id)
    return section


def _revocation_section(info: ImageInfo) -> RevocationSection:
    if not 0 <= info.security_version < 1 << 32:
        raise PackageError(f"security version: expected 0 to 2^32 − 1, found {info.security_version}")
    section = RevocationSection()
    section.version = info.security_version
    return section


def _debug_section(info: ImageInfo) -> DebugSection:
    name = info.name.encode()
    if not 0 < len(name) <= MAX_NAME_BYTES or b"\0" in name:
        raise PackageError(f"image name: expected 1 to {MAX_NAME_BYTES} bytes, found {len(name)}: {info.name!r}")
    section = DebugSection()
    section.debug_time = int(info.built_at.timestamp())
    if section.debug_time < 0:
        raise PackageError(f"build time: expected one after 1970, found {info.built_at}")
    section.image_name_raw = name.ljust(MAX_NAME_BYTES + 1, b"\0")
    return section


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
        allow_development: also trust `DEVELOPMENT_KEY`, for `DEVELOPMENT_IMAGE_TYPES`; only for a device with the
            AppDevelopment capability.

    Raises:
        PackageError: steps 1, 3, 4 or 5.
        DevelopmentKeyError: step 2; the development key signed it.
        PackageSignatureError: step 2; no trusted key did.
    """
    # Step 1: length.
    size = len(unverified_package)
    if not MIN_PACKAGE_BYTES <= size <= MAX_PACKAGE_BYTES:
        raise PackageError(f"image package: expected {MIN_PACKAGE_BYTES} to {MAX_PACKAGE_BYTES} bytes, found {size}")
    signing_key = _signing_key(unverified_package, trusted_keys, allow_development=allow_development)
    image, info = _parse(unverified_package, signing_key)
    # Step 5: image type.
    if kind is not None and info.image_type != IMAGE_TYPE[kind]:
        raise PackageError(
            f"image type: expected {IMAGE_TYPE[kind]} ({kind.value}), found {info.image_type} "
            f"({ImageType.get_name(info.image_type)})"
        )
    return VerifiedImage(info, digest_of(unverified_package), bytes(image.data), key_id(signing_key))


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


def _parse(package: bytes, signing_key: ec.EllipticCurvePublicKey) -> tuple[Image, ImageInfo]:
    try:
        # Step 3: metadata.
        _check_layout(package)
        image = Image(package)
        identity = _only_section(image, MetadataSectionId.Identity)
        signature = _only_section(image, MetadataSectionId.Signature)
        revocation = _only_section(image, MetadataSectionId.Revocation)
        debug = _only_section(image, MetadataSectionId.Debug)
        # Step 4: signature section.
        _check_signature_section(signature, signing_key)
        _check_development(identity, signing_key)
        return image, _info(identity, revocation, debug)
    except (
        ImageMetadataConversionError,
        struct.error,
        ValueError,
        IndexError,
        OverflowError,
        OSError,
    ) as error:
        raise PackageError(f"image metadata: expected Azure Sphere sections, found {error}") from error


def _check_layout(package: bytes) -> None:
    # Pins the library to this module's layout: it would also try others, and loop as often as the count says.
    end = len(package) - RAW_SIGNATURE_BYTES
    (length,) = struct.unpack_from("<I", package, end - 4)
    if not MIN_METADATA_BYTES <= length <= end:
        raise PackageError(f"image metadata: expected {MIN_METADATA_BYTES} to {end} bytes, found {length}")
    (count,) = struct.unpack_from("<I", package, end - length + 4)
    if not 0 < count <= MAX_SECTIONS:
        raise PackageError(f"image metadata: expected 1 to {MAX_SECTIONS} sections, found {count}")


def _only_section(image: Image, section_id: int) -> Any:
    sections = image.metadata.sections_by_id(section_id)
    if len(sections) != 1:
        raise PackageError(f"section {section_id:#06x}: expected exactly one, found {len(sections)}")
    return sections[0]


def _check_signature_section(section: Any, signing_key: ec.EllipticCurvePublicKey) -> None:
    if section.signing_type.signing_type != SigningType.ECDsa256:
        raise PackageError(
            f"signing type: expected {SigningType.ECDsa256} (ECDSA P-256), found {section.signing_type.signing_type}"
        )
    if section.signing_cert_thumbprint != key_thumbprint(signing_key):
        raise PackageError("signature section: expected the thumbprint of the signing key, found another")


def _check_development(identity: Any, signing_key: ec.EllipticCurvePublicKey) -> None:
    # Step 2: what the development key may sign, known only after step 3.
    if signing_key == DEVELOPMENT_KEY and identity.image_type not in DEVELOPMENT_IMAGE_TYPES:
        raise DevelopmentKeyError(
            f"image type {ImageType.get_name(identity.image_type)}: expected a signature by the maker, found one by "
            "the public development key, whose are applications, firmware and models alone"
        )


def _info(identity: Any, revocation: Any, debug: Any) -> ImageInfo:
    return ImageInfo(
        image_type=identity.image_type,
        component_id=parse_guid(identity.component_uid),
        image_id=parse_guid(identity.image_uid),
        name=debug.image_name,
        security_version=revocation.version,
        built_at=datetime.fromtimestamp(debug.debug_time, UTC),
    )
