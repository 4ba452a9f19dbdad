"""Every example under docs/ is a scenario that is understood whole."""

import json
from pathlib import Path

import pytest
import yaml

from protocol.document import parse_document
from protocol.scenario import Scenario

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "scenarios"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
WANTED = {"canary-gone-wrong", "flaky-region", "reboot-storm", "drift-in-the-dark", "clone", "thief"}


def test_examples_are_there() -> None:
    """One for each of what a fleet may meet."""
    assert {path.stem for path in EXAMPLES} >= WANTED


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_a_scenario(path: Path) -> None:
    """It parses, and says for people what it shows."""
    scenario = parse_document(json.dumps(yaml.safe_load(path.read_bytes())).encode(), Scenario)
    assert scenario.description
    assert scenario.fleets
