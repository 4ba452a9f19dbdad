"""Image packages on the operator's disk: the package, and beside it a small JSON file that says where it belongs.

A package does not say which core it is for, nor which golden vectors a model must pass; `{package}.json` does. It is a
note, not a proof: the package must be the one that it names, by SHA-256, and must bear the signature of its kind. The
catalog's public keys verify it, as the service will: who offers a package need not be who signed it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from pki.catalog import Catalog, PublicKeys
from pki.files import PUBLIC_MODE, replace_file
from pki.packages import trusted_keys
from protocol.cyclonedx import MAX_BOM_BYTES
from protocol.document import Document, canonical_json, parse_document, verify_document
from protocol.geometry import HOME_BYTES, SPARE_BYTES, SYSTEM_SLOTS, ImageKind, Slot
from protocol.image import MAX_PACKAGE_BYTES, VerifiedImage, digest_of, verify_package
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVectors, Guid, Sha256Hex
from protocol.versions import Requirements
from service.cli.errors import CliError


class PackageFileError(CliError):
    """A file that should hold a package, a note or golden vectors holds something else."""


class NoSlotError(CliError):
    """An image of a kind that has no slot on the device cannot be released."""


class PackageSizeError(CliError):
    """A package does not fit the flash of its slot."""


class Note(Document):
    """Where a package belongs.

    Attributes:
        slot: where it goes; None for a kind that has no slot on the device yet.
        kind: of such an image.
        sha256: of the package.
        golden: file of the signed golden vectors, relative to the note; models only.
        requires: of the images that run beside it; the Image repository's targets will say so, signed.
        bom: file of its maker's bill of materials, relative to the note.
    """

    slot: Slot | None
    kind: ImageKind | None = None
    hardware_ids: tuple[str, ...]
    component_id: Guid
    image_id: Guid
    sha256: Sha256Hex
    golden: str | None = None
    requires: Requirements = Field(default_factory=dict)
    bom: str | None = None


@dataclass(frozen=True, slots=True)
class OfferedImage:
    """A verified package with its place.

    Attributes:
        slot: where it goes.
        package: the whole package.
        image: what it holds.
        golden: signed golden vectors, a DSSE envelope; None for anything but a model.
        requires: of the images that run beside it: name → versions.
        bom: its maker's bill of materials, unverified; None where there is none.
    """

    slot: Slot
    package: bytes
    image: VerifiedImage
    golden: bytes | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    bom: bytes | None = None


def read_input(path: Path, *, max_bytes: int) -> bytes:
    """Read a file that a command was given.

    Raises:
        PackageFileError: it cannot be read, or is too large.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise PackageFileError(f"{path}: expected at most {max_bytes} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise PackageFileError(f"{path}: expected a readable file, found: {error.strerror}") from error


def note_path(package: Path) -> Path:
    """Return the note of a package file."""
    return package.with_name(package.name + ".json")


def write_offered(path: Path, offered: OfferedImage, *, golden: Path | None = None) -> None:
    """Write a package and its note, each whole or not at all; the note last.

    Args:
        path: the package's file; its folder is made.
        offered: the package and its slot.
        golden: file of the golden vectors.
    """
    note = note_of(
        offered.image,
        slot=offered.slot,
        golden=os.path.relpath(golden, path.parent) if golden else None,
        requires=offered.requires,
    )
    write_package(path, offered.package, note)


def note_of(
    image: VerifiedImage,
    *,
    slot: Slot | None,
    kind: ImageKind | None = None,
    golden: str | None = None,
    requires: Mapping[str, str] | None = None,
    bom: str | None = None,
) -> Note:
    """Return the note of a package; the arguments are its fields."""
    return Note(
        slot=slot,
        kind=kind if slot is None else None,
        hardware_ids=() if slot is None else (slot.core.hardware_id,),
        component_id=image.info.component_id,
        image_id=image.info.image_id,
        sha256=image.digest,
        golden=golden,
        requires=requires or {},
        bom=bom,
    )


def write_package(path: Path, package: bytes, note: Note | None) -> None:
    """Write a package and its note, each whole or not at all; the note last. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, package, mode=PUBLIC_MODE)
    if note is not None:
        replace_file(note_path(path), canonical_json(note), mode=PUBLIC_MODE)


def read_note(path: Path, package: bytes) -> Note:
    """Read the note of a package file.

    Raises:
        PackageFileError: it is missing, or another package's.
        DocumentError: it is malformed.
    """
    note = parse_document(read_input(note_path(path), max_bytes=MAX_PACKAGE_BYTES), Note)
    if digest_of(package) != note.sha256:
        raise PackageFileError(f"{path}: expected SHA-256 {note.sha256} as its note says, found {digest_of(package)}")
    return note


def load_offered(path: Path, catalog: Catalog, *, makers: PublicKeys = ()) -> OfferedImage:
    """Read a package with its note and golden vectors, and verify all three.

    Args:
        path: the package's file.
        catalog: our own.
        makers: keys of trusted manufacturers, which sign system images of their devices.

    Raises:
        PackageFileError: a file is missing, or the package is not the one of the note.
        NoSlotError: its kind has no slot on the device.
        PackageSizeError: it does not fit its slot.
        ProtocolError: the package, the note or the golden vectors are malformed or not signed by our keys.
    """
    package = read_input(path, max_bytes=MAX_PACKAGE_BYTES)
    note = read_note(path, package)
    if note.slot is None:
        raise NoSlotError(
            f"{path}: expected an image with a slot on the device, found a {note.kind}: it can be made, signed and "
            "verified, but no device takes one yet"
        )
    image = verify_offered(package, note.slot, catalog, makers=makers)
    golden = None if note.golden is None else path.parent / note.golden
    is_model = note.slot.kind == ImageKind.MODEL
    vectors = _golden_of_model(golden, image, catalog) if is_model else None
    bom = None if note.bom is None else read_input(path.parent / note.bom, max_bytes=MAX_BOM_BYTES)
    return OfferedImage(note.slot, package, image, vectors, note.requires, bom)


def verify_offered(package: bytes, slot: Slot, catalog: Catalog, *, makers: PublicKeys = ()) -> VerifiedImage:
    """Verify a package against its slot: signature, kind and size.

    Raises:
        PackageSizeError: it does not fit its slot.
        ProtocolError: it is malformed or not signed by a key of its kind.
    """
    foreign = makers if slot in SYSTEM_SLOTS else ()
    image = verify_package(package, [*trusted_keys(catalog, slot.kind), *foreign], kind=slot.kind)
    check_size(len(package), slot)
    return image


def check_size(package_bytes: int, slot: Slot) -> None:
    """Refuse a package that does not fit the home slot or the shared spare.

    Raises:
        PackageSizeError: says by how much.
    """
    limit = min(HOME_BYTES[slot], SPARE_BYTES) if slot in HOME_BYTES else MAX_PACKAGE_BYTES
    if package_bytes > limit:
        raise PackageSizeError(
            f"slot {slot}: expected at most {limit:,} bytes, found {package_bytes:,}, "
            f"{package_bytes - limit:,} too many"
        )


def load_golden(path: Path, catalog: Catalog) -> tuple[bytes, GoldenVectors]:
    """Read signed golden vectors and verify them; returns the envelope and what it holds.

    Raises:
        PackageFileError: the file cannot be read.
        ProtocolError: malformed, or not signed by a golden key of ours.
    """
    envelope = read_input(path, max_bytes=MAX_PACKAGE_BYTES)
    trusted = catalog.golden_keys
    return envelope, verify_document(envelope, GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=trusted)


def check_component(vectors: GoldenVectors, component_id: str, name: str) -> None:
    """Refuse golden vectors of another component.

    Raises:
        PackageFileError: they belong to another.
    """
    if vectors.component_id != component_id:
        raise PackageFileError(
            f"golden vectors for {name}: expected component {component_id}, found {vectors.component_id}"
        )


def _golden_of_model(path: Path | None, image: VerifiedImage, catalog: Catalog) -> bytes:
    if path is None:
        raise PackageFileError(
            f"{image.info.name}: expected golden vectors, without which no device takes a model, found none; "
            "pack it with --golden"
        )
    envelope, vectors = load_golden(path, catalog)
    check_component(vectors, image.info.component_id, image.info.name)
    return envelope
