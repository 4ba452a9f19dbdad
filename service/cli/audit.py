"""`tinyfleet audit`: who changed what."""

from typing import Annotated

import typer

from service.cli.client import JsonObject, connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_json, print_table, short

app = typer.Typer(help="Audit log.", no_args_is_help=True)


@app.command("list")
def list_entries(
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many entries at most.")] = 50,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List the latest changes."""
    with connect(operator_dir) as client:
        entries = client.get("/audit", limit=limit)["items"]
    if as_json:
        print_json(entries)
        return
    rows = (
        (moment(entry["at"]), entry["actor"], entry["action"], short(entry["subject"]), _changes(entry))
        for entry in entries
    )
    print_table("Audit log", ("at", "who", "what", "on", "changed to"), rows)


def _changes(entry: JsonObject) -> dict[str, object]:
    before = entry["before"]
    return {name: value for name, value in entry["after"].items() if before.get(name) != value}
