"""`tinyfleet sbom`: what is inside images, and which devices run it now."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from pki.files import PUBLIC_MODE, replace_file
from protocol.cyclonedx import Bom, every_component, read_bom
from service.cli import clock
from service.cli.bills import is_complete
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import BadArgumentError
from service.cli.evidence import Reader, image_bill, release_evidence
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_line, print_table, remark, short
from service.cli.vex import newest

app = typer.Typer(help="Bills of materials: what is inside images, and where it runs.", no_args_is_help=True)

SHOWN_DEVICES = 20
_OPEN = frozenset({"exploitable", "in_triage"})

WhatArgument = Annotated[str, typer.Argument(help="Image id, or name of a release.")]
Wanted = dict[str, str | None]


@app.command()
def find(
    component: Annotated[
        str | None, typer.Argument(help="NAME, NAME@VERSION, or a package URL with or without version.")
    ] = None,
    *,
    vulnerable_to: Annotated[
        str | None, typer.Option(help="Of releases, what a vulnerability makes exploitable or may do.")
    ] = None,
    all_devices: Annotated[bool, typer.Option("--all", help=f"Not only the first {SHOWN_DEVICES} devices.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Say which images have a component and which devices run it now."""
    with connect(operator_dir) as client:
        found = [_found(client, wanted, every=all_devices) for wanted in _wanted(client, component, vulnerable_to)]
    if as_json:
        print_json(found[0] if component is not None and len(found) == 1 else found)
        return
    if not found:
        print_line(f"nothing is said to be vulnerable to {vulnerable_to}")
    for each in found:
        _print(each)


@app.command()
def show(
    what: WhatArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show what is inside an image, or inside each image of a release; verified against the signed targets."""
    bills = [(read_bom(content), content) for content in _bills(operator_dir, what)]
    if as_json:
        print_json([json.loads(content) for _bom, content in bills])
        return
    for bom, _content in bills:
        _print_bill(bom)


@app.command()
def export(
    what: WhatArgument,
    *,
    output: Annotated[Path, typer.Option(help="Folder that gets {name}-{version}.cdx.json of each image.")] = Path(),
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write bills of materials as they were signed; verified before anything is written."""
    files = {bill_file(read_bom(content)): content for content in _bills(operator_dir, what)}
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        replace_file(output / name, content, mode=PUBLIC_MODE)
    written = [str(output / name) for name in files]
    print_json(written) if as_json else print_line("\n".join(written))


def bill_file(bom: Bom) -> str:
    """Return the name of the file for a bill of materials."""
    component = bom.metadata.component
    kept = "".join(each if each.isalnum() or each in "._-" else "_" for each in f"{component.name}-{component.version}")
    return f"{kept}-{short(component.bom_ref)}.cdx.json"


def parse_component(text: str) -> Wanted:
    """Return the query for NAME, NAME@VERSION or a package URL."""
    if text.startswith("pkg:"):
        return {"purl": text}
    name, _, version = text.partition("@")
    if not name:
        raise BadArgumentError(f"component: expected NAME, NAME@VERSION or a package URL, found {text[:80]!r}")
    return {"name": name, "version": version or None}


def _wanted(client: ApiClient, component: str | None, vulnerability: str | None) -> list[Wanted]:
    if (component is None) == (vulnerability is None):
        raise BadArgumentError("sbom find: expected a component or --vulnerable-to, found both or neither")
    if component is not None:
        return [parse_component(component)]
    said = newest(list(client.items("/sbom/statements", vulnerability=vulnerability)))
    open_ones = {(each["name"], each["version"]) for each in said if each["state"] in _OPEN}
    return [{"name": name, "version": version} for name, version in sorted(open_ones)]


def _found(client: ApiClient, wanted: Wanted, *, every: bool) -> JsonObject:
    images = list(client.items("/sbom/components", **wanted))
    first = client.get("/sbom/devices", **wanted, limit=SHOWN_DEVICES)
    devices = list(client.items("/sbom/devices", **wanted)) if every else first["items"]
    return {
        "component": wanted,
        "devices_by_slot": _by_slot(images),
        "images": images,
        "devices": devices,
        "more": first["next_cursor"] is not None and not every,
    }


def _by_slot(images: Sequence[JsonObject]) -> dict[str, int]:
    """Count devices; an image that lists a component twice is run by them once."""
    counts = Counter[str]()
    for devices in {each["image_sha256"]: each["devices"] for each in images}.values():
        counts.update(devices)
    return dict(counts)


def _print(found: JsonObject) -> None:
    named = sorted(found["images"], key=_named)
    for (name, version, purl), images in groupby(named, key=_named):
        listed = [
            (each["image_name"] or "–", short(each["image_sha256"]), sum(each["devices"].values())) for each in images
        ]
        print_table(f"{name} {version} {purl}".rstrip(), ("image", "sha256", "devices that run it"), listed)
    counts = found["devices_by_slot"]
    print_table("Devices that run it now", ("slot", "devices"), counts.items())
    rows = [(short(each["device_id"]), each["slot"], each["image_name"] or "–") for each in found["devices"]]
    if rows:
        print_table(f"{len(rows)} of them", ("device", "slot", "image"), rows)
    if found["more"]:
        remark("the rest by --all")


def _named(image: JsonObject) -> tuple[str, str, str]:
    return image["name"], image["version"], image["purl"]


def _bills(operator_dir: Path, what: str) -> list[bytes]:
    with connect(operator_dir) as client:
        reader = Reader(client, operator_dir, clock.now())
        if len(what) == 36 and what.count("-") == 4:  # noqa: PLR2004 - a GUID
            return [image_bill(reader, what).content]
        evidence = release_evidence(reader, what)
    bills = [paper.content for paper in evidence.papers if paper.subject in evidence.bills]
    if not bills:
        raise BadArgumentError(f"release {what}: expected bills of materials, found none")
    return bills


def _print_bill(bom: Bom) -> None:
    component = bom.metadata.component
    rows = [(each.type, each.name, each.version or "", each.purl or "") for each in every_component(bom)]
    state = "complete" if is_complete(bom) else "incomplete"
    print_table(f"{component.name} {component.version}, {state}", ("type", "name", "version", "package URL"), rows)
