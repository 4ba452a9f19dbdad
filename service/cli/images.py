"""`tinyfleet image`: make, sign anew, explain and verify image packages.

Models are made by `tinyfleet model pack`, which measures them first.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pki.keystore import KeyStore
from pki.packages import SIGNING_KEY, sign_package
from protocol.geometry import Core, ImageKind, Slot
from protocol.image import (
    IMAGE_TYPE,
    MAX_PACKAGE_BYTES,
    ImageInfo,
    VerifiedImage,
    digest_of,
    read_info,
    resign,
    verify_package,
)
from protocol.payloads import check_payload
from service.cli import clock
from service.cli.bills import check_maker_bom
from service.cli.errors import BadArgumentError
from service.cli.image_arguments import (
    CORE_KINDS,
    SLOTLESS,
    TemporaryChoice,
    flags_of,
    interfaces_of,
    kind_for,
    kind_of,
    kinds_of,
    labels_for,
    place_of,
    requirements_of,
)
from service.cli.image_payloads import read_payload, requires_of_card
from service.cli.image_sections import explain_package
from service.cli.offered import (
    Note,
    PackageFileError,
    check_size,
    note_of,
    note_path,
    read_input,
    read_note,
    write_package,
)
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, SecurityVersionOption
from service.cli.output import print_facts, print_json
from service.cli.package_keys import KeyOption, known_keys, signer_before, signer_of, trusted_for

app = typer.Typer(help="Image packages: make, sign, explain and verify them.", no_args_is_help=True)

_INTERFACES = "such as os@3 (secure-world, os or application); may be repeated."
RequiresOption = Annotated[list[str] | None, typer.Option(help="NAME=VERSIONS of an image beside it, such as a=>=2.1.")]
PackageArgument = Annotated[Path, typer.Argument(help="Package file.")]


@app.command()
def create(
    payload: Annotated[Path, typer.Argument(help="What the image holds; YAML for a trust store or a board.")],
    *,
    version: Annotated[str, typer.Option(help="Version, such as 1.2.0.")],
    kind: Annotated[ImageKind | None, typer.Option(help="Default: what the core runs.")] = None,
    core: Annotated[Core, typer.Option(help="Core that runs it.")] = Core.A7,
    name: Annotated[str | None, typer.Option(help="Name of the image; may come from the manifest.")] = None,
    component_id: Annotated[str | None, typer.Option(help="GUID that stays; may come from the manifest.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="app_manifest.json of an Azure Sphere application.")] = None,
    security_version: SecurityVersionOption = 1,
    depends: Annotated[list[str] | None, typer.Option(help=f"Interface that it uses, {_INTERFACES}")] = None,
    provides: Annotated[list[str] | None, typer.Option(help=f"Interface that it offers, {_INTERFACES}")] = None,
    requires: RequiresOption = None,
    temporary: Annotated[list[TemporaryChoice] | None, typer.Option(help="For devices in development.")] = None,
    bom: Annotated[Path | None, typer.Option(help="Its maker's bill of materials: CycloneDX 1.4 to 1.6, JSON.")] = None,
    out: Annotated[Path | None, typer.Option(help="Package file; default {name}-{version}.img.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Make and sign an image of any kind but a model (see `model pack`)."""
    made = kind_for(kind, core)
    slot, labels = place_of(made, core), labels_for(made, manifest, name=name, component_id=component_id)
    info = ImageInfo(
        image_type=IMAGE_TYPE[made],
        component_id=labels.component_id,
        image_id=str(uuid.uuid4()),
        name=f"{labels.name}@{version}",
        security_version=security_version,
        built_at=clock.now().replace(microsecond=0),
        temporary=flags_of(temporary),
        depends=interfaces_of(depends),
        provides=interfaces_of(provides),
    )
    needed, keys = requirements_of(requires), offline_keys(operator_dir)
    package = sign_package(read_payload(payload, made), info, kind=made, keys=keys)
    image = _verify_ours(package, made, slot, keys)
    path = out or Path(f"{labels.name}-{version}.img")
    write_package(
        path, package, note_of(image, slot=slot, kind=made, requires=needed, bom=_bom_beside(path, bom, slot, image))
    )
    print_packed(path, image, slot=slot, as_json=as_json)


def _bom_beside(package: Path, bom: Path | None, slot: Slot | None, image: VerifiedImage) -> str | None:
    """Return where a maker's bill of materials is from the package, if we can take it in."""
    if bom is None:
        return None
    if slot is None:
        raise BadArgumentError(f"bom: expected an image that is released, found {image.info.name}, which has no slot")
    check_maker_bom(bom, slot, image)
    return os.path.relpath(bom, package.parent)


def _verify_ours(package: bytes, kind: ImageKind, slot: Slot | None, keys: KeyStore) -> VerifiedImage:
    """Verify what we have signed as a device would, temporary images as one in development."""
    image = verify_package(package, [keys.load(SIGNING_KEY[kind]).public_key], kind=kind, allow_development=True)
    check_payload(image)
    if slot is not None:
        check_size(len(package), slot)
    return image


def print_packed(path: Path, image: VerifiedImage, *, slot: Slot | None, as_json: bool) -> None:
    """Say what was packed."""
    facts = {
        "package": str(path),
        "name": image.info.name,
        "slot": None if slot is None else slot.value,
        "component_id": image.info.component_id,
        "image_id": image.info.image_id,
        "security_version": image.info.security_version,
        "bytes": path.stat().st_size,
        "sha256": image.digest,
    }
    print_json(facts) if as_json else print_facts(facts)


@app.command()
def sign(
    package: PackageArgument,
    *,
    core: Annotated[Core | None, typer.Option(help="Core that is to run it, where no note beside it says so.")] = None,
    requires: RequiresOption = None,
    out: Annotated[Path | None, typer.Option(help="Package file; default {name}-signed.img beside the other.")] = None,
    key: KeyOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Sign an image anew with our key of its kind: the same payload and metadata, another signature."""
    unverified = read_input(package, max_bytes=MAX_PACKAGE_BYTES)
    before = signer_before(unverified, known_keys(operator_dir, key))
    info = read_info(unverified)
    kind = kind_of(info.image_type, core)
    old = read_note(package, unverified) if note_path(package).exists() else None
    slot = _slot_without_note(kind, core) if old is None else old.slot
    keys = offline_keys(operator_dir)
    again = resign(unverified, keys.load(SIGNING_KEY[kind]))
    image = _verify_ours(again, kind, slot, keys)
    path = out or package.with_name(f"{package.stem}-signed{package.suffix}")
    base = note_of(image, slot=slot, kind=kind, requires=requires_of_card(image)) if old is None else old
    note = _note_again(base, image, requires=requirements_of(requires), folders=(package.parent, path.parent))
    write_package(path, again, note if slot is not None or kind in SLOTLESS else None)
    facts = {
        "package": str(path),
        "name": info.name,
        "slot": slot or "not known: no note beside it and no --core, so it cannot be released",
        "signed_before": before,
        "signed_by": f"{SIGNING_KEY[kind]} key ({image.signer_id.hex()[:16]}…)",
        "sha256": image.digest,
    }
    print_json(facts) if as_json else print_facts(facts)


def _note_again(old: Note, image: VerifiedImage, *, requires: Mapping[str, str], folders: tuple[Path, Path]) -> Note:
    """Return the note of a package that was signed anew; what lay beside the old one is seen from the new folder."""
    before, after = folders
    beside = {name: os.path.relpath(before / file, after) for name in ("golden", "bom") if (file := getattr(old, name))}
    return old.model_copy(update={"sha256": image.digest, "requires": {**old.requires, **requires}, **beside})


def _slot_without_note(kind: ImageKind, core: Core | None) -> Slot | None:
    return place_of(kind, core or Core.A7) if core is not None or kind not in CORE_KINDS else None


@app.command()
def show(
    package: PackageArgument,
    *,
    key: KeyOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Explain each part of a package in words, whoever signed it; of a damaged one, where it breaks."""
    unverified = read_input(package, max_bytes=MAX_PACKAGE_BYTES)
    explanation, keys = explain_package(unverified), known_keys(operator_dir, key)
    signer = signer_of(unverified, keys)
    verified = f"by {signer}" if signer else f"no: not by one of the {len(keys)} keys that are known here"
    facts = {"package": f"{package}: {len(unverified):,} bytes, SHA-256 {digest_of(unverified)}", "verified": verified}
    if as_json:
        parts = [asdict(part) for part in explanation.parts]
        label = None if signer is None else str(signer)
        whole = {"bytes": len(unverified), "sha256": digest_of(unverified), "verified_by": label}
        print_json({**whole, "parts": parts, "broken": explanation.broken or None})
    else:
        print_facts(facts | {part.name: f"{part.says}\n→ {part.means}" for part in explanation.parts})
    if explanation.broken:
        raise PackageFileError(f"{package}: {explanation.broken}")


@app.command()
def verify(
    package: PackageArgument,
    *,
    kind: Annotated[ImageKind | None, typer.Option(help="Kind that is expected; default: any.")] = None,
    allow_development: Annotated[
        bool, typer.Option("--allow-development", help="As a device with the AppDevelopment capability does.")
    ] = False,
    key: KeyOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Verify a package as a device does: signature by a key that may sign its kind, form, and what it holds."""
    unverified = read_input(package, max_bytes=MAX_PACKAGE_BYTES)
    keys = known_keys(operator_dir, key)
    trusted = trusted_for(unverified, keys)
    image = verify_package(unverified, trusted, kind=kind, allow_development=allow_development)
    check_payload(image)
    facts = {
        "package": str(package),
        "name": image.info.name,
        "kind": " or ".join(kinds_of(image.info.image_type)),
        "verified_by": str(signer_of(unverified, keys)),
        "security_version": image.info.security_version,
        "sha256": image.digest,
    }
    print_json(facts) if as_json else print_facts(facts)
