"""`tinyfleet pki revoke` and `tinyfleet pki crl` against the running service."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from pki.authority import issuer_key_id
from pki.errors import CrlError
from pki.revocation import Reason, RevocationList, sign_crl
from service.cli import clock
from service.cli.errors import BadArgumentError, RefusedError
from service.cli.main import make_app
from service.cli.pki_revoke import RevocationError
from service.cli.revocation_lists import RevocationListError
from service.domain.device import DeviceState
from tests.attesting_device import AttestingDevice
from tests.live_service import LiveService, live_service
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.service_folder import ADMIN_TOKEN

LIFE = timedelta(days=30)


@dataclass
class Operator:
    """The command line with an admin's login and the offline keys."""

    service: LiveService

    @property
    def folder(self) -> Path:
        return self.service.folders.operator

    async def run(self, *arguments: str) -> Result:
        command = ["pki", *arguments, "--operator-dir", str(self.folder), "--json"]
        return await asyncio.to_thread(lambda: CliRunner().invoke(make_app(command), command))

    async def succeed(self, *arguments: str) -> Any:
        result = await self.run(*arguments)
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    async def failure(self, *arguments: str) -> BaseException | None:
        return (await self.run(*arguments)).exception

    async def state_of(self, device: AttestingDevice) -> DeviceState:
        return DeviceState((await self.service.operator.get(f"/devices/{device.device_id}")).json()["state"])


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    folders = make_quick_folders(tmp_path)
    monkeypatch.setenv("TINYFLEET_PASSPHRASE", PASSPHRASE)
    async with live_service(folders) as service:
        login = {"url": service.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
        file = folders.operator / "credential.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(login))
        yield Operator(service)


def serial_of(device: AttestingDevice) -> str:
    return f"{x509.load_pem_x509_certificates(device.idevid_chain.encode())[0].serial_number:x}"


async def publish_behind_its_back(operator: Operator, number: int) -> RevocationList:
    """Another copy of the operator's folder signs a list."""
    factory = operator.service.folders.factory
    crl = sign_crl(factory, number=number, revoked={}, now=clock.now(), lifetime=LIFE)
    answer = await operator.service.operator.put(f"/pki/crls/{issuer_key_id(factory.certificate)}", content=crl.der)
    answer.raise_for_status()
    return crl


async def test_revoked_device_is_on_the_list_and_blocked(operator: Operator) -> None:
    """By the beginning of its id; the list says why."""
    device = await operator.service.claimed()
    first = await operator.succeed("crl", "renew")
    answer = await operator.succeed("revoke", device.device_id[:16], "--reason", "key-compromise")
    assert answer["serial"] == serial_of(device)
    assert (answer["number"], answer["revoked"]) == (first["number"] + 1, 1)
    assert await operator.state_of(device) is DeviceState.BLOCKED
    shown = await operator.succeed("crl", "show", "--issuer", "factory")
    assert [(entry["serial"], entry["reason"]) for entry in shown["items"]] == [
        (serial_of(device), Reason.KEY_COMPROMISE)
    ]
    lists = {each["issuer"]: each for each in await operator.succeed("crl", "show")}
    assert (lists["factory"]["state"], lists["factory"]["revoked"]) == ("current", 1)


async def test_device_that_nobody_claimed_is_revoked_by_its_certificate(operator: Operator, tmp_path: Path) -> None:
    """A box of stolen devices is worth nothing to whoever claims them."""
    device, file = AttestingDevice(operator.service.folders), tmp_path / "idevid.pem"
    file.write_text(device.idevid_chain)
    await operator.succeed("revoke", "--certificate", str(file), "--reason", "cessation-of-operation")
    assert (await operator.service.claim(device)).status_code == 403


async def test_hold_is_released(operator: Operator) -> None:
    """And nothing else is."""
    device = await operator.service.claimed()
    await operator.succeed("revoke", device.device_id, "--reason", "certificate-hold")
    answer = (await operator.run("revoke", device.device_id, "--reason", "remove-from-crl")).stdout
    assert json.loads(answer)["revoked"] == 0
    (await operator.service.operator.post(f"/devices/{device.device_id}/unblock")).raise_for_status()
    failure = await operator.failure("revoke", device.device_id, "--reason", "remove-from-crl")
    assert isinstance(failure, RevocationError)
    await operator.succeed("revoke", device.device_id, "--reason", "superseded")
    failure = await operator.failure("revoke", device.device_id, "--reason", "key-compromise")
    assert isinstance(failure, RevocationError)


async def test_every_authority_renews_its_list(operator: Operator) -> None:
    """Root and server CA have one, too."""
    for issuer in ("root", "server-ca"):
        before = await operator.succeed("crl", "renew", "--issuer", issuer, "--days", "30")
        after = await operator.succeed("crl", "renew", "--issuer", issuer, "--days", "30")
        assert after["number"] == before["number"] + 1


async def test_service_that_was_rolled_back_is_caught(operator: Operator) -> None:
    """Nothing is signed on top of an older list than the one that was seen last."""
    await operator.succeed("crl", "renew")
    (copy,) = (operator.folder / "revocation").iterdir()
    factory = operator.service.folders.factory
    newer = sign_crl(factory, number=1000, revoked={}, now=clock.now(), lifetime=LIFE)
    copy.write_bytes(newer.der)
    failure = await operator.failure("crl", "renew")
    assert isinstance(failure, RevocationListError)
    assert "expected above 1000" in str(failure)


async def test_list_of_another_copy_of_the_folder_is_taken_up(operator: Operator) -> None:
    """Two people may hold the factory's key."""
    first = await operator.succeed("crl", "renew")
    behind = await publish_behind_its_back(operator, first["number"] + 5)
    assert (await operator.succeed("crl", "renew"))["number"] == behind.number + 1


async def test_list_that_was_signed_elsewhere_is_published(operator: Operator, tmp_path: Path) -> None:
    """It finds its authority by itself."""
    crl = sign_crl(operator.service.folders.root, number=7, revoked={}, now=clock.now(), lifetime=LIFE)
    file = tmp_path / "root.crl"
    file.write_bytes(crl.der)
    lists = {each["issuer"]: each["number"] for each in await operator.succeed("crl", "publish", str(file))}
    assert lists["root"] == 7


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("revoke", "--reason", "key-compromise"), BadArgumentError),
        (("revoke", "a" * 128, "--reason", "boredom"), BadArgumentError),
        (("revoke", "a" * 128, "--reason", "key-compromise"), RefusedError),
    ],
    ids=["no device", "no reason", "unknown device"],
)
async def test_wrong_use_says_what_was_expected(
    operator: Operator, arguments: tuple[str, ...], error: type[BaseException]
) -> None:
    """Nothing is signed."""
    assert isinstance(await operator.failure(*arguments), error)
    assert not (operator.folder / "revocation").exists()


async def test_damaged_copy_is_no_reason_to_trust_the_service(operator: Operator) -> None:
    """The operator looks into it."""
    await operator.succeed("crl", "renew")
    (copy,) = (operator.folder / "revocation").iterdir()
    copy.write_bytes(b"damaged")
    assert isinstance(await operator.failure("crl", "renew"), CrlError)
