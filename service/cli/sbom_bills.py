"""What `tinyfleet sbom show` and `export` do: bills of materials, verified against the signed targets.

Its imports (metadata, CycloneDX) take longer than `sbom find` may, so service/cli/sbom.py imports it when it is asked.
"""

import json
from pathlib import Path

from pki.files import PUBLIC_MODE, replace_file
from protocol.cyclonedx import Bom, every_component, read_bom
from service.cli import clock
from service.cli.bills import is_complete
from service.cli.client import connect
from service.cli.errors import BadArgumentError
from service.cli.evidence import Reader, image_bill, release_evidence
from service.cli.output import print_json, print_line, print_table, short


def show(operator_dir: Path, what: str, *, as_json: bool) -> None:
    """Show what is inside an image, or inside each image of a release.

    Raises:
        CliError: there are no bills, or one does not verify.
    """
    bills = [(read_bom(content), content) for content in _bills(operator_dir, what)]
    if as_json:
        print_json([json.loads(content) for _bom, content in bills])
        return
    for bom, _content in bills:
        _print_bill(bom)


def export(operator_dir: Path, what: str, *, output: Path, as_json: bool) -> None:
    """Write bills of materials as they were signed; verified before anything is written. Raises as `show`."""
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
