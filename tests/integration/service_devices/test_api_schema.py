"""The OpenAPI document against the running service: generated requests, and no answer that it does not describe."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.integration.service_devices.test_serve_process import SERVE
from tests.service_folder import ADMIN_TOKEN, Folders, make_folders

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 6  # requests per operation


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Run the service and return its ready file."""
    folders = make_folders(tmp_path_factory.mktemp("schema"))
    file = folders.service / "settings.toml"
    file.write_text(f'data_dir = "{folders.service}"\noperator_port = 0\ndevice_port = 0\nmqtt_port = 0\n')
    command = [sys.executable, "-c", SERVE, str(file)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield _ready(process, folders)
        process.terminate()
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait() == 0, log


def _ready(process: "subprocess.Popen[str]", folders: Folders) -> dict[str, str]:
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line).get("event") == "ready":
            content: dict[str, str] = json.loads((folders.service / "service.json").read_text())
            return content
    raise AssertionError("the service ended before it was ready")


def test_every_answer_is_described(service: dict[str, str]) -> None:
    """Whatever is sent, no 500, and status, content type and body are those of the document."""
    url, ca = f"{service['operator_url']}/api/v1/openapi.json", service["ca"]
    schema = schemathesis.openapi.from_url(url, verify=ca).exclude(path_regex="/stream$")  # these answer for ever
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    found = list(schema.get_all_operations())
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    assert len(operations) == len(found)
    assert len(operations) > 40
    for operation in operations:

        @given(operation.as_strategy())
        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def answers(case: "schemathesis.Case[Any]") -> None:
            case.call_and_validate(verify=ca, headers=headers, checks=CHECKS)

        answers()
