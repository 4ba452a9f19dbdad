"""What an image package says of itself, from and to the sections of azuresphere-imagemetadata.

Not trusted of the library: the names of the flags of a temporary image (one of two), and what its sections say of
their size; lengths are checked by `protocol.image_layout` before.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Any

from azuresphere_imagemetadata.exceptions import ImageMetadataConversionError
from azuresphere_imagemetadata.image import Image
from azuresphere_imagemetadata.metadata_sections import (
    ABIDependsSection,
    ABIProvidesSection,
    CompressionSection,
    DebugSection,
    IdentitySection,
    RevocationSection,
    TempImageMetadataSection,
)
from azuresphere_imagemetadata.metadata_sections.abi import ABIDependsType, ABIIdentity, ABISection
from azuresphere_imagemetadata.metadata_sections.identity import ImageType
from azuresphere_imagemetadata.metadata_sections.temporary_image import TempImageMetadataFlags

from protocol.geometry import ImageKind
from protocol.identity import parse_guid
from protocol.image_layout import PackageError, SectionId, check_sections, read_layout

MAX_NAME_BYTES = 31  # debug section: 32 bytes with the terminating zero
MAX_INTERFACES = 16

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
        ImageKind.BOARD_CONFIGURATION: ImageType.CustomerBoardConfig,
        ImageKind.TRUST_STORE: ImageType.TrustedKeystore,
    }
)


class TemporaryFlags(IntFlag):
    """What makes an image a temporary one; both may hold."""

    REMOVE_AT_BOOT = TempImageMetadataFlags.RemoveAtBoot
    UNDER_DEVELOPMENT = TempImageMetadataFlags.UnderDevelopment


NOT_TEMPORARY = TemporaryFlags(0)


class Runtime(IntEnum):
    """Whose interface an image uses or offers."""

    NOTHING = ABIDependsType.NoDependency
    SECURE_WORLD = ABIDependsType.SecureWorldRuntime
    OS = ABIDependsType.OSRuntime
    APPLICATION = ABIDependsType.ApplicationRuntime


@dataclass(frozen=True, slots=True)
class Interface:
    """A version of a runtime's binary interface (ABI); version 32 bits."""

    runtime: Runtime
    version: int


@dataclass(frozen=True, slots=True)
class Compression:
    """How a payload is compressed; method 1 is LZMA."""

    uncompressed_bytes: int
    method: int


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
        temporary: flags of an image for development; none for one that stays.
        depends: interfaces that the image uses.
        provides: interfaces that it offers.
        compression: of the payload; None where it is not compressed, as in every verified image.
    """

    image_type: int
    component_id: str
    image_id: str
    name: str
    security_version: int
    built_at: datetime
    temporary: TemporaryFlags = NOT_TEMPORARY
    depends: tuple[Interface, ...] = ()
    provides: tuple[Interface, ...] = ()
    compression: Compression | None = None

    @property
    def version(self) -> str:
        """The part of the name after `@`, or an empty string."""
        return self.name.partition("@")[2]


def to_sections(info: ImageInfo) -> list[Any]:
    """Return the library's sections for an image, but for the signature section.

    Raises:
        PackageError: a field does not fit the format.
    """
    return [_identity_section(info), _revocation_section(info), *_optional_sections(info), _debug_section(info)]


def _identity_section(info: ImageInfo) -> IdentitySection:
    if info.image_type not in IMAGE_TYPE.values():
        raise PackageError(f"image type: expected one of {sorted(set(IMAGE_TYPE.values()))}, found {info.image_type}")
    section = IdentitySection()
    section.image_type = info.image_type
    section.component_uid = parse_guid(info.component_id)
    section.image_uid = parse_guid(info.image_id)
    return section


def _revocation_section(info: ImageInfo) -> RevocationSection:
    _require_u32("security version", info.security_version)
    section = RevocationSection()
    section.version = info.security_version
    return section


def _optional_sections(info: ImageInfo) -> list[Any]:
    sections: list[Any] = []
    if info.temporary:
        sections.append(TempImageMetadataSection())
        sections[-1].flags.flags = int(info.temporary)
    for section_type, interfaces in ((ABIDependsSection, info.depends), (ABIProvidesSection, info.provides)):
        if len(interfaces) > MAX_INTERFACES:
            raise PackageError(f"interfaces: expected at most {MAX_INTERFACES}, found {len(interfaces)}")
        if interfaces:
            sections.append(section_type())
            sections[-1].versions = [_abi(interface) for interface in interfaces]
    return sections


def _abi(interface: Interface) -> ABIIdentity:
    _require_u32("interface version", interface.version)
    return ABIIdentity(struct.pack("<II", interface.version, interface.runtime))


def _require_u32(name: str, value: int) -> None:
    if not 0 <= value < 1 << 32:
        raise PackageError(f"{name}: expected 0 to 2^32 − 1, found {value}")


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


def read_info(unverified_package: bytes) -> ImageInfo:
    """Return what a package says of itself, whoever signed it; compressed and temporary images, too.

    Raises:
        PackageError: the layout, the sections or a field of them is not as in `protocol.image`, steps 1 and 3.
    """
    check_sections(read_layout(unverified_package))
    return parse_sections(unverified_package)


def parse_sections(package: bytes) -> ImageInfo:
    """Have the library parse a package whose layout and sections have been checked.

    Raises:
        PackageError: a field's value is none.
    """
    try:
        metadata = Image(package).metadata
        sections = {section.section_id: section for section in metadata.sections}
        identity, debug = sections[SectionId.IDENTITY], sections[SectionId.DEBUG]
        return ImageInfo(
            image_type=identity.image_type,
            component_id=parse_guid(identity.component_uid),
            image_id=parse_guid(identity.image_uid),
            name=_name(debug.image_name_raw),
            security_version=sections[SectionId.REVOCATION].version,
            built_at=datetime.fromtimestamp(debug.debug_time, UTC),
            temporary=_temporary(sections.get(SectionId.TEMPORARY)),
            depends=_interfaces(sections.get(SectionId.DEPENDS)),
            provides=_interfaces(sections.get(SectionId.PROVIDES)),
            compression=_compression(sections.get(SectionId.COMPRESSION)),
        )
    except (ImageMetadataConversionError, struct.error, ValueError, OverflowError, OSError) as error:
        raise PackageError(f"image metadata: expected Azure Sphere sections, found {error}") from error


def _name(raw: bytes) -> str:
    text, _, rest = raw.partition(b"\0")
    if len(text) > MAX_NAME_BYTES or any(rest):
        raise PackageError(f"image name: expected at most {MAX_NAME_BYTES} bytes and zeros after them, found {raw!r}")
    return text.decode()


def _temporary(section: TempImageMetadataSection | None) -> TemporaryFlags:
    # The library's own names for the flags are those of one alone where both are set.
    flags = 0 if section is None else section.flags.flags
    if flags & ~sum(TemporaryFlags):
        raise PackageError(f"temporary image: expected flags of {sum(TemporaryFlags)}, found {flags:#x}")
    return TemporaryFlags(flags)


def _interfaces(section: ABISection | None) -> tuple[Interface, ...]:
    found = [] if section is None else section.versions
    if len(found) > MAX_INTERFACES:
        raise PackageError(f"interfaces: expected at most {MAX_INTERFACES}, found {len(found)}")
    return tuple(Interface(Runtime(each.type), each.version) for each in found)


def _compression(section: CompressionSection | None) -> Compression | None:
    return section and Compression(section.uncompressed_size, section.compression_type.compression_type)


def flag_names(flags: TemporaryFlags) -> str:
    """Return the names of the flags that are set, both of them where both are."""
    return ", ".join(str(flag.name).lower().replace("_", " ") for flag in TemporaryFlags if flag in flags)
