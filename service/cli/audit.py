"""`tinyfleet audit`: who changed what."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

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


@app.command()
def export(
    *,
    output: Annotated[Path | None, typer.Option(help="File to write; else standard output.")] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC); else from the beginning.")
    ] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Write every change as a line of JSON, the newest first, page after page."""
    with connect(operator_dir) as client, _opened(output) as file:
        for entry in client.items("/audit"):
            if since is not None and datetime.fromisoformat(entry["at"]) < since.replace(tzinfo=UTC):
                break
            file.write(json.dumps(entry, sort_keys=True) + "\n")


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """Open a file that takes its name once it is whole, or standard output."""
    if output is None:
        yield sys.stdout
        return
    unfinished = output.with_name(f"{output.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        yield file
    unfinished.replace(output)


def _changes(entry: JsonObject) -> dict[str, object]:
    before = entry["before"]
    return {name: value for name, value in entry["after"].items() if before.get(name) != value}
