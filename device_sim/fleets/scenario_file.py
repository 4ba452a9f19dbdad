"""A scenario's file: YAML, read once and as a whole."""

import json
from pathlib import Path

import yaml

from device_sim.errors import DeviceSimError
from protocol.document import DocumentError, parse_document
from protocol.scenario import Scenario

MAX_SCENARIO_BYTES = 1024 * 1024


class ScenarioError(DeviceSimError):
    """A scenario's file is missing or malformed, or it cannot be run as it is; says where and why."""


def read_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Raises:
        ScenarioError: names the file and what is wrong where.
    """
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ScenarioError(f"{path}: expected a scenario, found {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: expected YAML, found {error}") from error
    try:
        text = json.dumps(content or {}, default=str).encode()
        return parse_document(text, Scenario, max_bytes=MAX_SCENARIO_BYTES)
    except DocumentError as error:
        raise ScenarioError(f"{path}: {error}") from error
