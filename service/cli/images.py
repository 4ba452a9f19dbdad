"""`tinyfleet image`: pack an application or a firmware, and show what a package says."""

import uuid
from pathlib import Path
from typing import Annotated

import typer

from pki.packages import sign_package
from protocol.geometry import Core, ImageKind, Slot, slot_for
from protocol.identity import parse_guid
from protocol.image import IMAGE_TYPE, MAX_PACKAGE_BYTES, ImageInfo
from service.cli import clock
from service.cli.bills import check_maker_bom
from service.cli.errors import BadArgumentError
from service.cli.image_sections import explain_package
from service.cli.offered import OfferedImage, read_input, verify_offered, write_offered
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json

app = typer.Typer(help="Image packages: pack and show them.", no_args_is_help=True)


@app.command()
def pack(
    payload: Annotated[Path, typer.Argument(help="What the image holds.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the image.")],
    version: Annotated[str, typer.Option(help="Version, such as 1.2.0.")],
    component_id: Annotated[str, typer.Option(help="GUID of what the image is; stays the same from build to build.")],
    core: Annotated[Core, typer.Option(help="Core that runs it.")] = Core.A7,
    security_version: Annotated[int, typer.Option(min=0, help="Anti-rollback counter, checked against a fuse.")] = 1,
    bom: Annotated[Path | None, typer.Option(help="Its maker's bill of materials: CycloneDX 1.4 to 1.6, JSON.")] = None,
    out: Annotated[Path | None, typer.Option(help="Package file; default {name}-{version}.img.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Pack and sign an application (a7) or the firmware of a real-time core (m4-0, m4-1)."""
    info = ImageInfo(
        image_type=IMAGE_TYPE[_slot(core).kind],
        component_id=parse_guid(component_id),
        image_id=str(uuid.uuid4()),
        name=f"{name}@{version}",
        security_version=security_version,
        built_at=clock.now().replace(microsecond=0),
    )
    keys = offline_keys(operator_dir)
    content = read_input(payload, max_bytes=MAX_PACKAGE_BYTES)
    package = sign_package(content, info, kind=_slot(core).kind, keys=keys)
    offered = OfferedImage(_slot(core), package, verify_offered(package, _slot(core), keys))
    path = out or Path(f"{name}-{version}.img")
    if bom is not None:
        check_maker_bom(bom, offered)
    write_offered(path, offered, bom=bom)
    print_packed(path, offered, as_json=as_json)


def print_packed(path: Path, offered: OfferedImage, *, as_json: bool) -> None:
    """Say what was packed."""
    facts = {
        "package": str(path),
        "name": offered.image.info.name,
        "slot": offered.slot.value,
        "component_id": offered.image.info.component_id,
        "image_id": offered.image.info.image_id,
        "security_version": offered.image.info.security_version,
        "bytes": len(offered.package),
        "sha256": offered.image.digest,
    }
    print_json(facts) if as_json else print_facts(facts)


@app.command()
def show(
    package: Annotated[Path, typer.Argument(help="Package file.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain each section of a package in words; nothing is verified."""
    facts = explain_package(read_input(package, max_bytes=MAX_PACKAGE_BYTES))
    print_json(facts) if as_json else print_facts(facts)


def _slot(core: Core) -> Slot:
    kind = ImageKind.APPLICATION if core == Core.A7 else ImageKind.FIRMWARE
    slot = slot_for(core, kind)
    if slot is None:
        raise BadArgumentError(f"core: expected one with a slot for a {kind}, found {core}")
    return slot
