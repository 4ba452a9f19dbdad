"""Plan files on the operator's machine: read, checked and merged with their preset before anything is sent."""

import json
from pathlib import Path

import yaml

from protocol.document import DocumentError, parse_document
from protocol.plan import Plan, merge_preset
from service.cli.errors import BadArgumentError


def read_plan(path: Path) -> Plan:
    """Read a plan, YAML or JSON.

    Raises:
        BadArgumentError: names the file, and what is wrong where.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise BadArgumentError(f"{path}: expected a plan, found {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadArgumentError(f"{path}: expected YAML, found {error}") from error
    if not isinstance(content, dict):
        raise BadArgumentError(f"{path}: expected a plan's keys, found {type(content).__name__}")
    return plan_of(content, where=str(path))


def plan_of(content: dict[str, object], *, where: str) -> Plan:
    """Return the plan that some keys make, with what their preset says.

    Raises:
        BadArgumentError: names where they come from, and what is wrong.
    """
    try:
        return parse_document(json.dumps(merge_preset(content), default=str).encode(), Plan)
    except (DocumentError, ValueError) as error:
        raise BadArgumentError(f"{where}: {error}") from error
