"""`tinyfleet group set`, `group show`, `group list` and `device show` against the running service."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from protocol.geometry import Slot
from protocol.signing import SoftwareSigner
from service.cli.errors import AnswerError, RefusedError
from service.cli.main import make_app
from tests.attesting_device import HONEST, AttestingDevice, component
from tests.live_service import LiveService, live_service
from tests.service_folder import ADMIN_TOKEN, make_folders

WIDE = {"COLUMNS": "300"}


@dataclass
class Operator:
    """The command line with an admin's login."""

    service: LiveService

    async def run(self, *arguments: str) -> Result:
        command = [*arguments, "--operator-dir", str(self.service.folders.operator)]
        return await asyncio.to_thread(lambda: CliRunner(env=WIDE).invoke(make_app(command), command))

    async def say(self, *arguments: str) -> str:
        result = await self.run(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    async def facts(self, *arguments: str) -> Any:
        return json.loads(await self.say(*arguments, "--json"))


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    folders = make_folders(tmp_path)
    async with live_service(folders) as service:
        login = {"url": service.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
        file = folders.operator / "credential.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(login))
        yield Operator(service)


async def quarantined(operator: Operator) -> AttestingDevice:
    """A device whose unknown model its group lets in to update alone."""
    await operator.say("group", "set", "Production", "--product", "Camera", "--unknown", "quarantine")
    device = await operator.service.claimed()
    stranger = component(Slot.M4_0_MODEL, b"\x66" * 32)
    device.evidence = replace(HONEST, components=(*HONEST.components, stranger))
    (await operator.service.ask_to_attest(device, SoftwareSigner.generate())).raise_for_status()
    return device


async def test_policy_is_set_field_by_field(operator: Operator) -> None:
    """What is not named stays; list and show say it in words."""
    words = ["group", "set", "Production", "--product", "Camera"]
    await operator.say(*words, "--minimum-os", "1.2", "--debug")
    said = await operator.say(
        *words, "--life-cycle", "secured", "--life-cycle", "provisioning", "--certificate-hours", "2"
    )
    assert said.strip() == (
        "Production: life cycle provisioning or secured or debug, OS 1.2 or newer, certificates for 2 h, "
        "unknown images: refuse"
    )
    shown = await operator.facts("group", "show", "Production", "--product", "Camera")
    assert shown["attestation"]["minimum_os"] == "1.2"
    assert "OS 1.2 or newer" in await operator.say("group", "list", "--product", "Camera")
    await operator.say("group", "set", shown["id"], "--minimum-os", "", "--no-debug", "--certificate-hours", "0")
    after = (await operator.facts("group", "show", shown["id"]))["attestation"]
    assert (after["minimum_os"], after["debug"], after["certificate_hours"]) == ("", False, None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["set", "Production", "--product", "Camera", "--minimum-os", "x"], RefusedError, "minimum OS: expected"),
        (["set", "Nowhere", "--debug"], AnswerError, "expected one of the name Nowhere, found 0"),
        (["show", "00000000-0000-4000-8000-000000000000"], RefusedError, "device group"),
    ],
)
async def test_wrong_group_or_policy_is_refused(
    operator: Operator, arguments: list[str], error: type[Exception], message: str
) -> None:
    """With what was expected and found."""
    result = await operator.run("group", *arguments)
    assert isinstance(result.exception, error), result.exception
    assert message in str(result.exception)


async def test_set_without_anything_to_set_is_wrong_usage(operator: Operator) -> None:
    """Exit code 2, nothing asked."""
    result = await operator.run("group", "set", "Production")
    assert (result.exit_code, "at least one thing to set" in result.output) == (2, True)


async def test_device_show_says_who_it_is_and_why_it_is_restricted(operator: Operator) -> None:
    """In words for people, and the same facts as JSON."""
    device = await quarantined(operator)
    said = await operator.say("device", "show", device.device_id)
    for wanted in (
        "quarantined: admitted, update-only access",
        "attestation quarantined it since",
        "IDevID serial",
        "issuing CA, generation 1",
        "unknown images: quarantine",
        "unlisted, claims to be model@1.0.0",
        "os@1.0.0",
        "contraindicated",
    ):
        assert wanted in said, said
    facts = await operator.facts("device", "show", device.device_id[:16])
    assert facts["admission"]["access"] == facts["certificate"]["access"] == "update-only"


async def test_device_show_of_a_device_that_never_attested(operator: Operator) -> None:
    """What is not there is said."""
    device = await operator.service.claimed()
    said = await operator.say("device", "show", device.device_id)
    for wanted in ("claimed: not admitted", "it has never attested", "it has no operational certificate"):
        assert wanted in said, said
