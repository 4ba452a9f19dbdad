"""Explain an unverified image package part by part: what it says, and what that means on the device.

Works for packages of any signer, and for damaged ones: what is whole is explained, and then where it breaks. Layout:
see protocol/image_layout.py.
"""

import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from azuresphere_imagemetadata.metadata_sections.identity import ImageType

from protocol.board import MAGIC as BOARD_MAGIC
from protocol.board import parse_board
from protocol.errors import ProtocolError
from protocol.image import IMAGE_TYPE, Runtime, TemporaryFlags, flag_names, key_id
from protocol.image_info import MAX_INTERFACES
from protocol.image_layout import (
    HEADER,
    HEADER_MAGIC,
    LENGTH,
    SECTION_HEADER,
    PackageError,
    Section,
    SectionId,
    read_layout,
    read_section,
)
from protocol.model import MAGIC as MODEL_MAGIC
from protocol.model import parse_model_payload
from protocol.signing import RAW_SIGNATURE_BYTES
from protocol.trust_store import MAGIC as TRUST_STORE_MAGIC
from protocol.trust_store import parse_trust_store

_MAGIC_BYTES = HEADER_MAGIC.to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a package.

    Attributes:
        name: of it.
        offset: of its first byte in the file.
        length: bytes, with the section's id and length where it is a section.
        says: what its bytes say.
        means: what the device makes of that.
    """

    name: str
    offset: int
    length: int
    says: str
    means: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A package in words.

    Attributes:
        parts: in the order of the file.
        broken: where it breaks, expected and found; empty for a whole package.
    """

    parts: tuple[Part, ...]
    broken: str = ""


def explain_package(unverified_package: bytes) -> Explanation:
    """Explain every part of a package, or every part before the one that breaks it."""
    try:
        start = len(read_layout(unverified_package).payload)
    except PackageError as error:
        return _explain_broken(unverified_package, str(error))
    end = len(unverified_package) - RAW_SIGNATURE_BYTES - LENGTH.size
    parts, broken = _sections(unverified_package[start:end], start)
    whole = (_payload(unverified_package[:start]), *parts, _signature(unverified_package, end))
    return Explanation(whole, broken)


def _explain_broken(package: bytes, reason: str) -> Explanation:
    """Look for the metadata from the front: of a truncated file, what points there is gone."""
    start = package.rfind(_MAGIC_BYTES)
    if start < 0 or len(package) - start < HEADER.size:
        return Explanation(
            (), f"{reason}; no metadata in {len(package):,} bytes: cut off inside the payload, or no image package"
        )
    parts, broken = _sections(package[start:], start)
    end = parts[-1].offset + parts[-1].length if parts else start + HEADER.size
    left = len(package) - end
    if not broken and left < LENGTH.size + RAW_SIGNATURE_BYTES:
        wanted = LENGTH.size + RAW_SIGNATURE_BYTES
        broken = f"byte {end:,}: expected length and signature of {wanted} bytes, found {left}: the file is cut off"
    return Explanation((_payload(package[:start]), *parts), broken or reason)


def _sections(metadata: bytes, start: int) -> tuple[list[Part], str]:
    """Explain the sections of a header at `start` in the file; returns where that breaks, too."""
    _, count = HEADER.unpack_from(metadata)
    parts: list[Part] = []
    offset = HEADER.size
    for number in range(1, count + 1):
        try:
            section = read_section(metadata, offset)
        except PackageError as error:
            return parts, f"byte {start + offset:,}, section {number} of {count:,}: {error}"
        parts.append(_section(section, start + offset))
        offset += parts[-1].length
    return parts, ""


def _section(section: Section, offset: int) -> Part:
    name, explain, means = _SECTIONS.get(section.section_id, (f"section {section.section_id:#06x}", _unknown, _UNKNOWN))
    try:
        says = explain(section.body)
    except (struct.error, ValueError, OverflowError, OSError):
        says = f"{len(section.body)} bytes that are not its fields"
    return Part(name, offset, SECTION_HEADER.size + len(section.body), says, means)


def _signature(package: bytes, offset: int) -> Part:
    raw = package[-RAW_SIGNATURE_BYTES:].hex()
    return Part(
        "signature",
        offset,
        LENGTH.size + RAW_SIGNATURE_BYTES,
        f"ECDSA P-256 over all before it, r‖s {raw[:16]}…",
        "checked before anything else is read; a package that no trusted key signed is not looked at",
    )


def _payload(payload: bytes) -> Part:
    readers: Mapping[bytes, Callable[[bytes], str]] = {
        MODEL_MAGIC: _model,
        BOARD_MAGIC: _board,
        TRUST_STORE_MAGIC: _trust_store,
    }
    reader = readers.get(payload[:4])
    says = f"{len(payload):,} bytes"
    if reader is not None:
        try:
            says = f"{says}: {reader(payload)}"
        except ProtocolError as error:
            says = f"{says} that begin as a known kind, but: {error}"
    return Part("payload", 0, len(payload), says, "what the slot's core runs or reads; padded with zeros to 4 bytes")


def _model(payload: bytes) -> str:
    card = parse_model_payload(payload).card
    return (
        f"model {card.name}@{card.version} for {card.core}: {card.measured.model_bytes:,} bytes, "
        f"arena {card.measured.arena_bytes:,} bytes, {card.measured.macs:,} MACs, labels {', '.join(card.labels)}"
    )


def _board(payload: bytes) -> str:
    board = parse_board(payload)
    cores = "; ".join(f"{core}: {', '.join(sorted(taken)) or 'nothing'}" for core, taken in sorted(board.cores.items()))
    return f"board {board.model}, revision {board.hardware_revision}: {cores}"


def _trust_store(payload: bytes) -> str:
    keys = parse_trust_store(payload)
    listed = ", ".join(f"{key.role.name.lower()} {key_id(key.public_key).hex()[:16]}…" for key in keys)
    return f"{len(keys)} trusted keys: {listed}"


def _identity(body: bytes) -> str:
    image_type, _, component, image = struct.unpack("<HH16s16s", body)
    kinds = " or ".join(kind.value for kind, number in IMAGE_TYPE.items() if number == image_type) or "of no kind here"
    return (
        f"image type {image_type} ({ImageType.get_name(image_type)}: {kinds}), "
        f"component {uuid.UUID(bytes_le=component)}, image {uuid.UUID(bytes_le=image)}"
    )


def _signature_section(body: bytes) -> str:
    thumbprint, signing_type = struct.unpack("<20sI", body)
    kind = {1: "ECDSA P-256", 2: "ECDSA P-384"}.get(signing_type, f"type {signing_type}")
    return f"{kind}, by the key with SHA-1 thumbprint {thumbprint.hex()}"


def _debug(body: bytes) -> str:
    built, name = struct.unpack("<Q32s", body)
    return f"{name.rstrip(bytes(1)).decode()!r}, built {datetime.fromtimestamp(built, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _revocation(body: bytes) -> str:
    (version,) = struct.unpack("<I", body)
    return f"security version {version}"


def _temporary(body: bytes) -> str:
    (flags,) = struct.unpack("<I", body)
    rest = flags & ~sum(TemporaryFlags)
    names = [flag_names(TemporaryFlags(flags - rest)), f"unknown flags {rest:#x}" if rest else ""]
    return ", ".join(filter(None, names)) or "no flags"


def _compression(body: bytes) -> str:
    size, method = struct.unpack("<II", body)
    return f"{size:,} bytes when unpacked, {'LZMA' if method == 1 else f'method {method}'}"


def _interfaces(body: bytes) -> str:
    (count,) = struct.unpack_from("<I", body)
    pairs = list(struct.iter_unpack("<II", body[4:]))
    if count != len(pairs):
        raise ValueError(count)
    return ", ".join(_interface(version, runtime) for version, runtime in pairs[:MAX_INTERFACES]) or "nothing"


def _interface(version: int, runtime: int) -> str:
    known = runtime in set(Runtime)
    name = Runtime(runtime).name.lower().replace("_", " ") if known else f"runtime {runtime}"
    return f"{name} interface {version}"


def _number(body: bytes) -> str:
    (number,) = struct.unpack("<I", body)
    return f"{number:#x}"


def _unknown(body: bytes) -> str:
    return f"{len(body)} bytes"


_ANTI_ROLLBACK = (
    "a device whose fuse for the slot is higher refuses to boot it; the fuse rises to it when the image is confirmed, "
    "and never falls (anti-rollback)"
)
_UNKNOWN = "nobody here knows it; a device refuses the package"
_SECTIONS: Mapping[int, tuple[str, Callable[[bytes], str], str]] = MappingProxyType(
    {
        SectionId.IDENTITY: (
            "identity",
            _identity,
            "the type must be the slot's; the component stays from build to build, each build has its own image id",
        ),
        SectionId.SIGNATURE: (
            "signature section",
            _signature_section,
            "a hint which key to try; must name the key whose signature verifies, and proves nothing by itself",
        ),
        SectionId.DEBUG: (
            "debug",
            _debug,
            "name@version: what people see, what other images may require, and what tells the older of two builds",
        ),
        SectionId.REVOCATION: (
            "revocation",
            _revocation,
            _ANTI_ROLLBACK,
        ),
        SectionId.TEMPORARY: (
            "temporary image",
            _temporary,
            "for development: runs on a device with the AppDevelopment capability alone, whoever signed it",
        ),
        SectionId.COMPRESSION: (
            "compression",
            _compression,
            "no device here unpacks it, so each refuses it",
        ),
        SectionId.DEPENDS: (
            "depends on",
            _interfaces,
            "binary interfaces that it uses; shown, not checked: what images require of one another is in the release",
        ),
        SectionId.PROVIDES: ("provides", _interfaces, "binary interfaces that it offers; shown, not checked"),
        SectionId.FLASH_OFFSET: (
            "flash offset",
            _number,
            "where it must lie; not looked at: the simulated device has slots",
        ),
        SectionId.POLICY: (
            "image policy",
            _number,
            "what the OS may do with it; not looked at",
        ),
    }
)
