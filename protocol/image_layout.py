"""Where the parts of an image package are, read without trusting one of its bytes.

Layout (azuresphere-imagemetadata 0.2.2), little-endian: payload, padded with zeros to 4 bytes | u32 magic, u32 number
of sections | sections: u16 id, u16 length, body | u32 length of the metadata from its magic to here | r‖s, 64 bytes.

The package is taken apart here and not by azuresphere-imagemetadata, which tries other layouts too, passes over what
does not fit, and loops as often as the number of sections says. Nothing is verified here; `protocol.image` does that.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from azuresphere_imagemetadata.metadata_headers.image_metadata import ImageMetadataHeader
from azuresphere_imagemetadata.metadata_sections import MetadataSectionId

from protocol.errors import MalformedError
from protocol.signing import RAW_SIGNATURE_BYTES

MAX_PACKAGE_BYTES = 16 * 1024 * 1024  # the flash of the whole chip
MIN_PACKAGE_BYTES = RAW_SIGNATURE_BYTES + 12
MIN_METADATA_BYTES = 29  # a shorter one would be taken for a first boot loader's
MAX_SECTIONS = 16
PAYLOAD_ALIGNMENT_BYTES = 4
HEADER_MAGIC: int = ImageMetadataHeader.CorrectMagicValue
HEADER = struct.Struct("<II")  # magic, number of sections
SECTION_HEADER = struct.Struct("<HH")  # id, length
LENGTH = struct.Struct("<I")  # of the metadata, itself included
ABI_BYTES = 8


class PackageError(MalformedError):
    """The bytes are no image package of the expected form."""


class SectionId(IntEnum):
    """What a section says; two ASCII letters, the first of them in the low byte."""

    IDENTITY = MetadataSectionId.Identity  # ID
    SIGNATURE = MetadataSectionId.Signature  # SG
    DEBUG = MetadataSectionId.Debug  # DB
    REVOCATION = MetadataSectionId.Revocation  # RV
    TEMPORARY = MetadataSectionId.TemporaryImage  # TP
    DEPENDS = MetadataSectionId.ABIDepends  # ND
    PROVIDES = MetadataSectionId.ABIProvides  # NP
    COMPRESSION = MetadataSectionId.Compression  # CM
    FLASH_OFFSET = MetadataSectionId.RequiredFlashOffset  # RO
    POLICY = MetadataSectionId.ImagePolicy  # IP


MANDATORY_SECTIONS = (SectionId.IDENTITY, SectionId.SIGNATURE, SectionId.REVOCATION, SectionId.DEBUG)
BODY_BYTES = {  # of sections that have one length
    SectionId.IDENTITY: 36,
    SectionId.SIGNATURE: 24,
    SectionId.DEBUG: 40,
    SectionId.REVOCATION: 4,
    SectionId.TEMPORARY: 4,
    SectionId.COMPRESSION: 8,
    SectionId.FLASH_OFFSET: 4,
    SectionId.POLICY: 4,
}


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the metadata.

    Attributes:
        section_id: `SectionId` where it is a known one.
        body: without id and length.
    """

    section_id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class PackageLayout:
    """The parts of a package; `payload` holds its padding, too."""

    payload: bytes
    sections: tuple[Section, ...]

    def body(self, section_id: SectionId) -> bytes:
        """Return the body of the one section of an id.

        Raises:
            PackageError: there is none, or another number of them.
        """
        found = [section.body for section in self.sections if section.section_id == section_id]
        if len(found) != 1:
            raise PackageError(f"section {section_id:#06x}: expected exactly one, found {len(found)}")
        return found[0]


def read_layout(unverified_package: bytes) -> PackageLayout:
    """Take a package apart.

    Raises:
        PackageError: too short or too long, a length that points outside, or not as many sections as the header says.
    """
    size = len(unverified_package)
    if not MIN_PACKAGE_BYTES <= size <= MAX_PACKAGE_BYTES:
        raise PackageError(f"image package: expected {MIN_PACKAGE_BYTES} to {MAX_PACKAGE_BYTES} bytes, found {size}")
    end = size - RAW_SIGNATURE_BYTES
    (length,) = LENGTH.unpack_from(unverified_package, end - LENGTH.size)
    if not MIN_METADATA_BYTES <= length <= end:
        raise PackageError(f"image metadata: expected {MIN_METADATA_BYTES} to {end} bytes, found {length}")
    start = end - length
    sections = read_sections(unverified_package[start : end - LENGTH.size])
    return PackageLayout(unverified_package[:start], sections)


def read_sections(unverified_metadata: bytes) -> tuple[Section, ...]:
    """Take the header and the sections apart; nothing may follow the last one.

    Raises:
        PackageError: another magic, too many sections, or one that does not fit.
    """
    magic, count = HEADER.unpack_from(unverified_metadata)
    if magic != HEADER_MAGIC:
        raise PackageError(f"image metadata: expected the magic {HEADER_MAGIC:#010x}, found {magic:#010x}")
    if not 0 < count <= MAX_SECTIONS:
        raise PackageError(f"image metadata: expected 1 to {MAX_SECTIONS} sections, found {count}")
    sections, offset = [], HEADER.size
    for _ in range(count):
        sections.append(read_section(unverified_metadata, offset))
        offset += SECTION_HEADER.size + len(sections[-1].body)
    if offset != len(unverified_metadata):
        rest = len(unverified_metadata) - offset
        raise PackageError(f"image metadata: expected nothing after {count} sections, found {rest} bytes")
    return tuple(sections)


def read_section(unverified_metadata: bytes, offset: int) -> Section:
    """Take one section out of the metadata.

    Raises:
        PackageError: it does not fit.
    """
    left = len(unverified_metadata) - offset
    if left < SECTION_HEADER.size:
        raise PackageError(f"image metadata: expected a section of at least {SECTION_HEADER.size} bytes, found {left}")
    section_id, length = SECTION_HEADER.unpack_from(unverified_metadata, offset)
    body = unverified_metadata[offset + SECTION_HEADER.size : offset + SECTION_HEADER.size + length]
    if len(body) != length:
        raise PackageError(f"section {section_id:#06x}: expected {length} bytes, found {len(body)}")
    return Section(section_id, body)


def check_sections(layout: PackageLayout) -> None:
    """Refuse sections that two readers could understand in two ways: missing, doubled, unknown, or of another length.

    Raises:
        PackageError: the first of them.
    """
    for found in sorted({*MANDATORY_SECTIONS, *(section.section_id for section in layout.sections)}):
        if found not in set(SectionId):
            raise PackageError(f"section {found:#06x}: expected one of Azure Sphere's, found an unknown one")
        section_id = SectionId(found)
        body = layout.body(section_id)
        expected = _expected_bytes(section_id, body)
        if len(body) != expected:
            raise PackageError(f"section {section_id:#06x}: expected {expected} bytes, found {len(body)}")


def _expected_bytes(section_id: SectionId, body: bytes) -> int:
    if section_id not in {SectionId.DEPENDS, SectionId.PROVIDES}:
        return BODY_BYTES[section_id]
    (count,) = LENGTH.unpack(body[: LENGTH.size].ljust(LENGTH.size, b"\0"))
    return LENGTH.size + ABI_BYTES * int(count)


def signed_part(payload: bytes, sections: Sequence[Section]) -> bytes:
    """Put a package together again, without its signature."""
    metadata = HEADER.pack(HEADER_MAGIC, len(sections))
    for section in sections:
        metadata += SECTION_HEADER.pack(section.section_id, len(section.body)) + section.body
    return payload + metadata + LENGTH.pack(len(metadata) + LENGTH.size)
