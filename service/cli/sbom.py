"""`tinyfleet sbom`: what is inside images, and which devices run it now.

`find` asks the service and verifies nothing, so it imports nothing that verifies: it is to answer within a second.
"""

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import BadArgumentError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_line, print_table, remark, short
from service.cli.statements import newest

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
    _bills().show(operator_dir, what, as_json=as_json)


@app.command()
def export(
    what: WhatArgument,
    *,
    output: Annotated[Path, typer.Option(help="Folder that gets {name}-{version}.cdx.json of each image.")] = Path(),
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Write bills of materials as they were signed; verified before anything is written."""
    _bills().export(operator_dir, what, output=output, as_json=as_json)


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


def _bills() -> ModuleType:
    return import_module("service.cli.sbom_bills")
