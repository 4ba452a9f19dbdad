"""`tinyfleet release`: make releases of packages, and list them."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli import clock
from service.cli.catalog_papers import maker_keys
from service.cli.client import JsonObject, connect
from service.cli.errors import BadArgumentError
from service.cli.offered import load_offered
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json, print_table, remark, short
from service.cli.publishing import Proposal, propose, publish
from service.cli.working_copy import WorkingCopy

app = typer.Typer(help="Releases: make and list them.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the release.")],
    packages: Annotated[list[Path], typer.Argument(help="Package files with their notes ({package}.json).")],
    *,
    reference: Annotated[
        bool, typer.Option("--reference", help="Images that devices are made with: known, but never rolled out.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before signing is made known.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Verify the metadata in force, show what changes, sign it here, and hand it to the service."""
    keys, working_copy = offline_keys(operator_dir), WorkingCopy(operator_dir)
    makers = maker_keys(operator_dir)
    images = [load_offered(path, keys, makers=makers) for path in packages]
    with connect(operator_dir) as client:
        in_force = working_copy.fetch(client, now=clock.now())
        proposal = propose(in_force, images, keys, name=name, factory=reference, now=clock.now())
        show_changes(proposal, as_json=as_json)
        if not yes and not typer.confirm("Publish this?", err=True):
            raise BadArgumentError("release: expected a yes, found a no; nothing changed")
        release = publish(client, working_copy, proposal)
    print_json(release) if as_json else print_facts(release | {"images": _slots(release)})


@app.command("list")
def list_releases(
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List releases."""
    with connect(operator_dir) as client:
        releases = list(client.items("/releases"))
    if as_json:
        print_json(releases)
        return
    rows = ((item["counter"], item["name"], "yes" if item["factory"] else "", _slots(item)) for item in releases)
    print_table(f"{len(releases)} releases", ("counter", "name", "factory", "images"), rows)


def show_changes(proposal: Proposal, *, as_json: bool) -> None:
    """Show what a proposal changes in the metadata in force."""
    if as_json:
        remark(f"targets version {proposal.version}: {len(proposal.differences.added)} targets more")
        return
    changes = proposal.differences
    marked = (("+", changes.added), ("changed", changes.changed), ("−", changes.removed))
    rows = [(mark, target, _size(proposal, target)) for mark, targets in marked for target in targets]
    print_table(f"Image repository, targets version {proposal.version}", ("", "target", "bytes"), rows)


def _slots(release: JsonObject) -> dict[str, str]:
    return {image["slot"]: short(image["sha256"]) for image in release.get("images", [])}


def _size(proposal: Proposal, target: str) -> str:
    return f"{len(proposal.contents[target]):,}" if target in proposal.contents else ""
