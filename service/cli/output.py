"""What commands print: tables for people, JSON for programs. Results go to stdout, remarks to stderr.

What a terminal would obey instead of showing it is shown as JSON writes it: names and reasons come from the service,
from devices and from other companies' papers.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

SHORT_ID_DIGITS = 12

_STATE_STYLES = {
    "active": "green",
    "running": "cyan",
    "finished": "green",
    "passed": "green",
    "confirmed": "green",
    "halted": "bold red",
    "blocked": "red",
    "moved": "dim",
    "decommissioned": "dim",
    "quarantined": "yellow",
    "affirming": "green",
    "warning": "yellow",
    "contraindicated": "bold red",
    "attested": "green",
    "refused": "bold red",
    "boot-stopped": "bold red",
    "failed": "red",
    "reverted": "yellow",
    "aborted": "red",
    "paused": "yellow",
}


def print_json(value: object) -> None:
    """Print one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line for people on stdout."""
    Console().print(shown(text), markup=False, highlight=False, soft_wrap=True)


def remark(text: str) -> None:
    """Print one line on stderr: progress, hints."""
    Console(stderr=True).print(shown(text), markup=False, highlight=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people; a cell that names a state takes the state's colour."""
    Console().print(table(title, columns, rows))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table; a cell that names a state takes the state's colour."""
    result = Table(title=Text(shown(title), style="bold"), title_justify="left", header_style="dim")
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def print_facts(facts: Mapping[str, object]) -> None:
    """Print names and values of one thing."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")  # a digest is copied whole
    for name, value in facts.items():
        grid.add_row(Text(name.replace("_", " "), style="dim"), _cell(value))
    Console().print(grid)


def shown(text: str) -> str:
    """Return a text as a terminal may get it: line feeds and printable characters, all else escaped as in JSON."""
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def short(identifier: object) -> str:
    """Shorten an identifier for a table."""
    return str(identifier or "")[:SHORT_ID_DIGITS]


def moment(value: object) -> str | None:
    """Shorten a time of the API (RFC 3339, UTC) to seconds, for a table."""
    return None if value is None else str(value)[:19].replace("T", " ")


def _cell(value: object) -> Text:
    if value is None:
        return Text("–", style="dim")
    if isinstance(value, Mapping):
        return Text(shown("\n".join(f"{name}: {part}" for name, part in value.items())))
    if isinstance(value, list | tuple):
        return Text(shown("\n".join(str(part) for part in value)))
    text = shown(str(value))
    return Text(text, style=_STATE_STYLES.get(text, ""))
