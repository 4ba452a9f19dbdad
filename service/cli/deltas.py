"""`tinyfleet delta`: the patches that the service makes between images."""

from typing import Annotated

import typer

from service.cli.client import connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json, print_table, short

app = typer.Typer(help="Patches between images: what they save, and why there is none.", no_args_is_help=True)

Digest = Annotated[str, typer.Argument(help="SHA-256 of the package, 64 hex digits.")]


@app.command("list")
def list_deltas(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List patches."""
    with connect(operator_dir) as client:
        deltas = list(client.items("/deltas"))
    if as_json:
        print_json(deltas)
        return
    rows = (
        (
            short(item["from_sha256"]),
            short(item["to_sha256"]),
            item["state"],
            _size(item["patch_length"]),
            item["reason"],
        )
        for item in deltas
    )
    print_table(f"{len(deltas)} patches", ("from", "to", "state", "bytes", "reason"), rows)


@app.command()
def show(
    from_sha256: Digest,
    to_sha256: Digest,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show the patch from one image to another."""
    with connect(operator_dir) as client:
        delta = client.get(f"/deltas/{from_sha256}/{to_sha256}")
    print_json(delta) if as_json else print_facts(delta)


def _size(length: int | None) -> str:
    return "" if length is None else f"{length:,}"
