"""Plan files on the operator's machine: read, checked and merged with their preset before anything is sent."""

import json
from pathlib import Path

from protocol.document import MAX_DOCUMENT_BYTES, DocumentError, parse_document
from protocol.plan import Plan, merge_preset
from protocol.yaml_document import parse_yaml_keys
from service.cli.errors import BadArgumentError


def read_plan(path: Path) -> Plan:
    """Read a plan, YAML or JSON.

    Raises:
        BadArgumentError: names the file, and what is wrong where.
    """
    try:
        with path.open("rb") as file:
            content = parse_yaml_keys(file.read(MAX_DOCUMENT_BYTES + 1))
    except OSError as error:
        raise BadArgumentError(f"{path}: expected a plan, found {error.strerror}") from error
    except DocumentError as error:
        raise BadArgumentError(f"{path}: {error}") from error
    return plan_of(content, where=str(path))


def plan_of(content: dict[str, object], *, where: str) -> Plan:
    """Return the plan that some keys make, with what their preset says.

    Raises:
        BadArgumentError: names where they come from, and what is wrong.
    """
    try:
        return parse_document(json.dumps(merge_preset(content)).encode(), Plan)
    except (DocumentError, ValueError) as error:
        raise BadArgumentError(f"{where}: {error}") from error
