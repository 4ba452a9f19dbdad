"""The scenario's schema and its guide say what the code takes.

`python -m tests.unit.fleets.test_scenario_reference` writes the schema anew.
"""

import json
import re
from pathlib import Path
from typing import Any

from protocol.scenario import Scenario

GUIDE = Path(__file__).parents[3] / "docs" / "simulator" / "fleets.md"
SCHEMA = GUIDE.with_name("scenario.schema.json")


def schema() -> str:
    """Return the schema as its file has it."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()}
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def keys(described: dict[str, Any]) -> set[str]:
    """Return every key that a scenario may have, wherever."""
    objects = [described, *described["$defs"].values()]
    return {key for each in objects for key in each.get("properties", {})}


def test_schema_is_the_codes() -> None:
    """It is written anew with every change of a scenario's keys."""
    assert SCHEMA.read_text() == schema(), f"python -m {__name__}"


def test_guide_names_every_key() -> None:
    """And only keys, files and values that there are, because each was written for one."""
    named = set(re.findall(r"`([a-z_]+)`", GUIDE.read_text()))
    assert keys(json.loads(schema())) - named == set()


if __name__ == "__main__":
    SCHEMA.write_text(schema())
