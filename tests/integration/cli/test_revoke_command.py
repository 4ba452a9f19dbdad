"""`tinyfleet pki revoke` and `tinyfleet pki crl` against the running service."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pki.authority import issuer_key_id
from pki.errors import CrlError
from pki.revocation import Reason, RevocationList, sign_crl
from service.cli import clock
from service.cli.errors import BadArgumentError, RefusedError
from service.cli.pki_revoke import RevocationError
from service.cli.revocation_lists import RevocationListError
from service.domain.device import DeviceState
from tests.attesting_device import AttestingDevice
from tests.integration.cli.live_operator import Operator, live_operator

LIFE = timedelta(days=30)


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    async with live_operator(tmp_path, monkeypatch) as opened:
        yield opened


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
    first = await operator.succeed("pki", "crl", "renew")
    answer = await operator.succeed("pki", "revoke", device.device_id[:16], "--reason", "key-compromise")
    assert answer["serial"] == serial_of(device)
    assert (answer["number"], answer["revoked"]) == (first["number"] + 1, 1)
    assert await operator.state_of(device) is DeviceState.BLOCKED
    shown = await operator.succeed("pki", "crl", "show", "--issuer", "factory")
    assert [(entry["serial"], entry["reason"]) for entry in shown["items"]] == [
        (serial_of(device), Reason.KEY_COMPROMISE)
    ]
    lists = {each["issuer"]: each for each in await operator.succeed("pki", "crl", "show")}
    assert (lists["factory"]["state"], lists["factory"]["revoked"]) == ("current", 1)


async def test_device_that_nobody_claimed_is_revoked_by_its_certificate(operator: Operator, tmp_path: Path) -> None:
    """A box of stolen devices is worth nothing to whoever claims them."""
    device, file = AttestingDevice(operator.service.folders), tmp_path / "idevid.pem"
    file.write_text(device.idevid_chain)
    await operator.succeed("pki", "revoke", "--certificate", str(file), "--reason", "cessation-of-operation")
    assert (await operator.service.claim(device)).status_code == 403


@pytest.mark.parametrize(
    ("issuer", "name"), [("root", "issuing-ca"), ("root", "server-ca"), ("server-ca", "server"), ("factory", "ocsp")]
)
async def test_stolen_key_of_the_service_is_put_on_its_issuers_list(operator: Operator, issuer: str, name: str) -> None:
    """By its certificate, which the authority must have issued."""
    file = operator.service.folders.service / "certificates" / f"{name}.pem"
    words = ("pki", "revoke", "--certificate", str(file), "--reason", "key-compromise")
    other = "server-ca" if issuer == "root" else "root"
    failure = await operator.failure(*words, "--issuer", other)
    assert "found another issuer's" in str(failure)
    answer = await operator.succeed(*words, "--issuer", issuer)
    serial = f"{x509.load_pem_x509_certificates(file.read_bytes())[0].serial_number:x}"
    assert (answer["serial"], answer["revoked"]) == (serial, 1)
    shown = await operator.succeed("pki", "crl", "show", "--issuer", issuer)
    assert [(entry["serial"], entry["reason"]) for entry in shown["items"]] == [(serial, Reason.KEY_COMPROMISE)]


async def test_only_what_an_authority_can_revoke_is_revoked(operator: Operator) -> None:
    """No device by the root, and not the root itself."""
    words = ("pki", "revoke", "--reason", "key-compromise", "--issuer", "root")
    assert isinstance(await operator.failure(*words, "ab" * 64), BadArgumentError)
    root = operator.folder / "certificates" / "root.pem"
    assert "found the root's own" in str(await operator.failure(*words, "--certificate", str(root)))


async def test_hold_is_released(operator: Operator) -> None:
    """And nothing else is."""
    device = await operator.service.claimed()
    await operator.succeed("pki", "revoke", device.device_id, "--reason", "certificate-hold")
    answer = (await operator.run("pki", "revoke", device.device_id, "--reason", "remove-from-crl")).stdout
    assert json.loads(answer)["revoked"] == 0
    (await operator.service.operator.post(f"/devices/{device.device_id}/unblock")).raise_for_status()
    failure = await operator.failure("pki", "revoke", device.device_id, "--reason", "remove-from-crl")
    assert isinstance(failure, RevocationError)
    await operator.succeed("pki", "revoke", device.device_id, "--reason", "superseded")
    failure = await operator.failure("pki", "revoke", device.device_id, "--reason", "key-compromise")
    assert isinstance(failure, RevocationError)


async def test_every_authority_renews_its_list(operator: Operator) -> None:
    """Root and server CA have one, too."""
    for issuer in ("root", "server-ca"):
        before = await operator.succeed("pki", "crl", "renew", "--issuer", issuer, "--days", "30")
        after = await operator.succeed("pki", "crl", "renew", "--issuer", issuer, "--days", "30")
        assert after["number"] == before["number"] + 1


async def test_service_that_was_rolled_back_is_caught(operator: Operator) -> None:
    """Nothing is signed on top of an older list than the one that was seen last."""
    await operator.succeed("pki", "crl", "renew")
    (copy,) = (operator.folder / "revocation").iterdir()
    factory = operator.service.folders.factory
    newer = sign_crl(factory, number=1000, revoked={}, now=clock.now(), lifetime=LIFE)
    copy.write_bytes(newer.der)
    failure = await operator.failure("pki", "crl", "renew")
    assert isinstance(failure, RevocationListError)
    assert "expected above 1000" in str(failure)


async def test_list_of_another_copy_of_the_folder_is_taken_up(operator: Operator) -> None:
    """Two people may hold the factory's key."""
    first = await operator.succeed("pki", "crl", "renew")
    behind = await publish_behind_its_back(operator, first["number"] + 5)
    assert (await operator.succeed("pki", "crl", "renew"))["number"] == behind.number + 1


async def test_list_that_was_signed_elsewhere_is_published(operator: Operator, tmp_path: Path) -> None:
    """It finds its authority by itself."""
    crl = sign_crl(operator.service.folders.root, number=7, revoked={}, now=clock.now(), lifetime=LIFE)
    file = tmp_path / "root.crl"
    file.write_bytes(crl.der)
    lists = {each["issuer"]: each["number"] for each in await operator.succeed("pki", "crl", "publish", str(file))}
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
    assert isinstance(await operator.failure("pki", *arguments), error)
    assert not (operator.folder / "revocation").exists()


async def test_damaged_copy_is_no_reason_to_trust_the_service(operator: Operator) -> None:
    """The operator looks into it."""
    await operator.succeed("pki", "crl", "renew")
    (copy,) = (operator.folder / "revocation").iterdir()
    copy.write_bytes(b"damaged")
    assert isinstance(await operator.failure("pki", "crl", "renew"), CrlError)
