"""A scenario's file: YAML, read once and as a whole."""

import json
from pathlib import Path

from device_sim.errors import DeviceSimError
from protocol.document import DocumentError, parse_document
from protocol.scenario import Scenario
from protocol.yaml_document import parse_yaml_keys

MAX_SCENARIO_BYTES = 1024 * 1024


class ScenarioError(DeviceSimError):
    """A scenario's file is missing or malformed, or it cannot be run as it is; says where and why."""


def read_scenario(path: Path) -> Scenario:
    """Read a scenario; that of an empty file is a quiet one.

    Raises:
        ScenarioError: names the file and what is wrong where.
    """
    try:
        with path.open("rb") as file:
            unverified = file.read(MAX_SCENARIO_BYTES + 1)
        return parse_document(json.dumps(parse_yaml_keys(unverified, max_bytes=MAX_SCENARIO_BYTES)).encode(), Scenario)
    except OSError as error:
        raise ScenarioError(f"{path}: expected a scenario, found {error.strerror}") from error
    except DocumentError as error:
        raise ScenarioError(f"{path}: {error}") from error
