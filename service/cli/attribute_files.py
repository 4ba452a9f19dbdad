"""Files of attributes: CSV with the device's id in the first column, or JSON lines; read line by line.

    device,site,ring                       {"device": "3f9a…", "attributes": {"site": "quay-1", "ring": null}}
    3f9a…,quay-1,b

An empty cell leaves an attribute as it is; null removes it.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from protocol.attributes import AttributeRow
from protocol.document import DocumentError, parse_document
from service.cli.errors import CliError

DEVICE_COLUMN = "device"
MAX_LINE_BYTES = 64 * 1024


class AttributeFileError(CliError):
    """A file of attributes is not of the expected form."""


def read_rows(path: Path) -> Iterator[tuple[int, AttributeRow]]:
    """Yield each row with the number of its line, from 1.

    Raises:
        AttributeFileError: the file cannot be read, or a line says something else.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from _csv_rows(path, lines) if path.suffix.lower() == ".csv" else _json_rows(path, lines)
    except (OSError, UnicodeDecodeError) as error:
        raise AttributeFileError(f"{path}: expected a file of attributes in UTF-8, found {error}") from error


def _csv_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, AttributeRow]]:
    reader = csv.reader(lines, strict=True)
    try:
        columns = next(reader, [])
        if len(columns) < 2 or columns[0] != DEVICE_COLUMN or len(set(columns)) < len(columns):  # noqa: PLR2004
            raise AttributeFileError(
                f"{path}: expected a first line device,NAME,… with each name once, found {','.join(columns)[:80]!r}"
            )
        for cells in reader:
            if len(cells) != len(columns):
                raise AttributeFileError(f"{path}:{reader.line_num}: expected {len(columns)} cells, found {len(cells)}")
            values = {name: cell for name, cell in zip(columns[1:], cells[1:], strict=True) if cell}
            yield reader.line_num, _row(path, reader.line_num, {"device": cells[0], "attributes": values})
    except csv.Error as error:
        raise AttributeFileError(f"{path}:{reader.line_num}: expected CSV (RFC 4180), found {error}") from error


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, AttributeRow]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield number, parse_document(line.encode(), AttributeRow, max_bytes=MAX_LINE_BYTES)
            except DocumentError as error:
                raise AttributeFileError(f"{path}:{number}: {error}") from error


def _row(path: Path, number: int, content: object) -> AttributeRow:
    try:
        return AttributeRow.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise AttributeFileError(f"{path}:{number}: {where}: {first['msg']}, found {first['input']!r:.80}") from error
