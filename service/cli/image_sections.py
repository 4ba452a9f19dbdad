"""Explain an unverified image package section by section.

The package is taken apart here and not by azuresphere-imagemetadata, which trusts the section count: for bytes that
nobody has verified, a count of four thousand million would keep it busy for an hour. Layout: see protocol/image.py.
"""

import struct
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from azuresphere_imagemetadata.metadata_sections.identity import ImageType

from protocol.errors import ProtocolError
from protocol.image import MIN_PACKAGE_BYTES, digest_of
from protocol.model import MAGIC as MODEL_MAGIC
from protocol.model import parse_model_payload
from protocol.signing import RAW_SIGNATURE_BYTES
from service.cli.offered import PackageFileError

HEADER_MAGIC = 0x4D345834
_HEADER = struct.Struct("<II")  # magic, section count
_SECTION = struct.Struct("<HH")  # id, length
_LENGTH = struct.Struct("<I")  # of the metadata, itself included


def explain_package(unverified_package: bytes) -> dict[str, str]:
    """Return what each part of a package says, in words, in the order of the file.

    Raises:
        PackageFileError: the bytes are no image package.
    """
    payload, metadata = _split(unverified_package)
    facts = {"package": f"{len(unverified_package):,} bytes, SHA-256 {digest_of(unverified_package)}"}
    facts |= {"payload": _payload(payload)}
    for section_id, body in _sections(metadata):
        name, explain = _SECTIONS.get(section_id, (f"section {section_id:#06x}", _unknown))
        try:
            facts[name] = explain(body)
        except (struct.error, ValueError, OverflowError, OSError) as error:
            raise PackageFileError(f"section {name}: expected its fields, found {len(body)} other bytes") from error
    facts["signature"] = f"ECDSA P-256, r‖s {unverified_package[-RAW_SIGNATURE_BYTES:].hex()[:16]}…; not checked here"
    return facts


def _split(package: bytes) -> tuple[bytes, bytes]:
    if len(package) < MIN_PACKAGE_BYTES:
        raise PackageFileError(f"image package: expected at least {MIN_PACKAGE_BYTES} bytes, found {len(package)}")
    end = len(package) - RAW_SIGNATURE_BYTES
    (length,) = _LENGTH.unpack_from(package, end - _LENGTH.size)
    if not _HEADER.size + _LENGTH.size <= length <= end:
        raise PackageFileError(f"image metadata: expected 12 to {end} bytes, found {length}")
    return package[: end - length], package[end - length : end - _LENGTH.size]


def _sections(metadata: bytes) -> Iterator[tuple[int, bytes]]:
    magic, count = _HEADER.unpack_from(metadata)
    if magic != HEADER_MAGIC:
        raise PackageFileError(f"image metadata: expected the magic {HEADER_MAGIC:#010x}, found {magic:#010x}")
    offset, found = _HEADER.size, 0
    while offset < len(metadata):
        if len(metadata) - offset < _SECTION.size:
            raise PackageFileError(
                f"image metadata: expected a section of 4 bytes or more, found {metadata[offset:]!r}"
            )
        section_id, length = _SECTION.unpack_from(metadata, offset)
        body = metadata[offset + _SECTION.size : offset + _SECTION.size + length]
        if len(body) != length:
            raise PackageFileError(f"section {section_id:#06x}: expected {length} bytes, found {len(body)}")
        yield section_id, body
        offset, found = offset + _SECTION.size + length, found + 1
    if found != count:
        raise PackageFileError(f"image metadata: expected {count} sections, found {found}")


def _payload(payload: bytes) -> str:
    if not payload.startswith(MODEL_MAGIC):
        return f"{len(payload):,} bytes"
    try:
        card = parse_model_payload(payload).card
    except ProtocolError as error:
        return f"{len(payload):,} bytes that begin as a model, but: {error}"
    return (
        f"model {card.name}@{card.version} for {card.core}: {card.measured.model_bytes:,} bytes, "
        f"arena {card.measured.arena_bytes:,} bytes, {card.measured.macs:,} MACs, labels {', '.join(card.labels)}"
    )


def _identity(body: bytes) -> str:
    image_type, _, component, image = struct.unpack("<HH16s16s", body)
    return (
        f"image type {image_type} ({ImageType.get_name(image_type)}), component {uuid.UUID(bytes_le=component)}, "
        f"image {uuid.UUID(bytes_le=image)}: what it is, and which build of it"
    )


def _signature(body: bytes) -> str:
    thumbprint, signing_type = struct.unpack("<20sI", body)
    kind = {1: "ECDSA P-256", 2: "ECDSA P-384"}.get(signing_type, f"type {signing_type}")
    return f"{kind}, by the key with SHA-1 thumbprint {thumbprint.hex()}: a hint, not a proof"


def _debug(body: bytes) -> str:
    built, name = struct.unpack("<Q32s", body)
    return f"{name.rstrip(bytes(1)).decode()!r}, built {datetime.fromtimestamp(built, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _revocation(body: bytes) -> str:
    (version,) = struct.unpack("<I", body)
    return f"security version {version}: refused by a device whose fuse is higher (anti-rollback)"


def _temporary(body: bytes) -> str:
    (flags,) = struct.unpack("<I", body)
    names = [name for bit, name in ((1, "remove at boot"), (2, "under development")) if flags & bit]
    return ", ".join(names) or "no flags"


def _compression(body: bytes) -> str:
    size, kind = struct.unpack("<II", body)
    return f"{size:,} bytes when uncompressed, {'LZMA' if kind == 1 else f'type {kind}'}"


def _interfaces(body: bytes) -> str:
    (count,) = struct.unpack_from("<I", body)
    pairs = struct.iter_unpack("<II", body[4:])
    names = {0: "nothing", 1: "secure world", 2: "OS", 3: "application"}
    return f"{count} runtimes: " + ", ".join(f"{names.get(kind, kind)} ABI {version}" for version, kind in pairs)


def _unknown(body: bytes) -> str:
    return f"{len(body)} bytes of an unknown section"


_SECTIONS: Mapping[int, tuple[str, Callable[[bytes], str]]] = MappingProxyType(
    {
        0x4449: ("identity", _identity),
        0x4753: ("signature section", _signature),
        0x4244: ("debug", _debug),
        0x5652: ("revocation", _revocation),
        0x5054: ("temporary image", _temporary),
        0x4D43: ("compression", _compression),
        0x444E: ("depends on", _interfaces),
        0x504E: ("provides", _interfaces),
    }
)
