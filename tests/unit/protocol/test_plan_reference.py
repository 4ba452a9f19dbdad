"""The plan's schema and its guide say what the code takes.

`python -m tests.unit.protocol.test_plan_reference` writes the schema anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from protocol.plan import PRESETS, Plan, merge_preset

DOCS = Path(__file__).parents[3] / "docs"
GUIDE = DOCS / "rollouts" / "plans.md"
SCHEMA = GUIDE.with_name("plan.schema.json")
EXAMPLES = sorted((DOCS / "examples" / "plans").glob("*.yaml"))


def schema() -> str:
    """Return the schema of a plan's file: the plan's, and beside it the preset that may stand for what is left out."""
    found = Plan.model_json_schema(mode="serialization")
    found["properties"]["preset"] = {"enum": sorted(PRESETS), "title": "Preset"}
    found["anyOf"] = [{"required": [key]} for key in found.pop("required")] + [{"required": ["preset"]}]
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def properties(described: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each key of a plan takes, by `object.key`."""
    objects = {"Plan": described, **described["$defs"]}
    return {
        f"{name}.{key}": value for name, each in objects.items() for key, value in each.get("properties", {}).items()
    }


def rows() -> dict[str, str]:
    """Return the guide's tables: `object.key` and its default as the guide writes it."""
    found, name = {}, ""
    for line in GUIDE.read_text().splitlines():
        if heading := re.match(r"#+ .*\(`(\w+)`\)", line):
            name = heading[1]
        elif row := re.match(r"\| `(\w+)` \| ([^|]*) \|", line):
            found[f"{name}.{row[1]}"] = row[2].strip(" `")
    return found


def test_schema_is_the_codes() -> None:
    """It is written anew with every change of a plan's keys."""
    assert SCHEMA.read_text() == schema(), f"python -m {__name__}"


def test_guide_names_every_key_and_no_other() -> None:
    """A row for each, under the heading of its object."""
    assert rows().keys() == properties(json.loads(schema())).keys()


def test_guide_states_the_defaults_of_the_code() -> None:
    """Where the schema has a default that is a number, a word, a length of time or nothing."""
    for key, found in properties(json.loads(schema())).items():
        default = found.get("default", found.get("const", ...))
        if isinstance(default, str | int | float | bool) or default is None:
            written = "none" if default is None else json.dumps(default).strip('"') or "empty"
            assert rows()[key] in {written, f"{default:g}" if isinstance(default, float) else written}, key


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_plans(path: Path) -> None:
    """Every file of docs/examples/plans is read as a plan."""
    content = merge_preset(yaml.safe_load(path.read_bytes()))
    assert Plan.model_validate_json(json.dumps(content)).stages


if __name__ == "__main__":
    SCHEMA.write_text(schema())
