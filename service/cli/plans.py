"""Plan files on the operator's machine: read, checked and merged with their preset before anything is sent."""

import json
from collections.abc import Iterator
from pathlib import Path

from protocol.document import MAX_DOCUMENT_BYTES, DocumentError, parse_document
from protocol.plan import EvidenceGates, Plan, merge_preset
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


def weaknesses(plan: Plan) -> Iterator[str]:
    """Yield what a plan says that its error budget does not cover, for people."""
    gates = plan.gates
    if not isinstance(gates, EvidenceGates):
        return
    sites = sorted({gate.group_by for gate in gates.failures if gate.group_by})
    compared = [*(gate.name for gate in gates.control), *(gate.name for gate in gates.means)]
    single = [*(gate.name for gate in gates.failures if not gate.group_by), *compared]
    if sites and single:
        yield (
            f"devices fail together by {', '.join(sites)}, and for {', '.join(single)} each of them counts by itself: "
            "what strikes a whole site may halt a healthy release more often than alpha says"
        )
    chosen = [str(number) for number, stage in enumerate(plan.stages, 1) if stage.where is not None]
    if compared and chosen:
        yield (
            f"stage {', '.join(chosen)} holds chosen devices (where), and {', '.join(compared)} compare them with "
            "devices of the whole group: what else they differ in counts as the release's"
        )
