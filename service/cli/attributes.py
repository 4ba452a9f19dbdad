"""`tinyfleet device attributes`: facts of devices that rollouts may target: show, set, unset, import."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from protocol.attributes import AttributeRow
from service.cli.attribute_files import read_rows
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import BadArgumentError, CliError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import print_facts, print_json, print_line, remark, short

ROWS_PER_REQUEST = 500
MAX_SHOWN = 20  # refused rows

app = typer.Typer(help="Attributes: facts of devices that rollouts may target.", no_args_is_help=True)

DeviceArgument = Annotated[
    str, typer.Argument(help="Device id, or a unique beginning of at least 8 digits.", callback=one_id)
]


class RefusedRowsError(CliError):
    """Rows of an import changed nothing."""


@dataclass(slots=True)
class _Import:
    """What became of the rows so far."""

    changed: int = 0
    unchanged: int = 0
    refused: list[JsonObject] = field(default_factory=list)


@app.command()
def show(
    device: DeviceArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False
) -> None:
    """Show the attributes of a device."""
    with connect(operator_dir) as client:
        _print(client.get(f"/devices/{device}/attributes"), as_json=as_json)


@app.command("set")
def set_attributes(
    device: DeviceArgument,
    attributes: Annotated[list[str], typer.Argument(help="NAME=VALUE, one or more.", metavar="NAME=VALUE...")],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Set attributes of a device; others stay."""
    changes = dict(map(_pair, attributes))
    with connect(operator_dir) as client:
        _print(client.patch(f"/devices/{device}/attributes", changes), as_json=as_json)


@app.command()
def unset(
    device: DeviceArgument,
    names: Annotated[list[str], typer.Argument(help="Names of attributes, one or more.", metavar="NAME...")],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Remove attributes of a device; others stay."""
    with connect(operator_dir) as client:
        _print(client.patch(f"/devices/{device}/attributes", dict.fromkeys(names)), as_json=as_json)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV (device,NAME,…) or JSON lines.", exists=True, dir_okay=False)],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Set attributes of many devices by a file. Rows before one that cannot be read are done; again does no harm."""
    done = _Import()
    with connect(operator_dir) as client:
        for page in _pages(file):
            _send(client, page, done)
            remark(f"{done.changed} devices changed, {done.unchanged} unchanged, {len(done.refused)} rows refused")
    if as_json:
        print_json({"changed": done.changed, "unchanged": done.unchanged, "refused": done.refused})
    else:
        for row in done.refused[:MAX_SHOWN]:
            print_line(f"line {row['line']}: {short(row['device'])}: {row['reason']}")
    if done.refused:
        raise RefusedRowsError(f"{file}: expected rows of devices in the catalog, found {len(done.refused)} others")


def _pages(file: Path) -> Iterator[list[tuple[int, AttributeRow]]]:
    page: list[tuple[int, AttributeRow]] = []
    for numbered in read_rows(file):
        page.append(numbered)
        if len(page) == ROWS_PER_REQUEST:
            yield page
            page = []
    if page:
        yield page


def _send(client: ApiClient, page: Sequence[tuple[int, AttributeRow]], done: _Import) -> None:
    answer = client.post("/device-attributes", {"rows": [row.model_dump(mode="json") for _, row in page]})
    done.changed += answer["changed"]
    done.unchanged += answer["unchanged"]
    done.refused += [{**row, "line": page[row["row"]][0]} for row in answer["refused"]]


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise BadArgumentError(f"attribute: expected NAME=VALUE, found {text[:80]!r}")
    return name, value


def _print(answer: JsonObject, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print_line(answer["device_id"])
    print_facts(answer["attributes"])
