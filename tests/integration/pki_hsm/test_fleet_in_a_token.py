"""A fleet whose every key is in a token, except the one that OpenSSL reads."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from cryptography import x509

from pki.chains import issued_by
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet
from tests.integration.pki_hsm.token_world import OFFLINE_ROLES, ONLINE_ROLES, folders_in_tokens, run
from tests.live_service import LiveService, live_service
from tests.service_folder import ADMIN_TOKEN
from tests.softhsm import SoftHsm


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


async def _command(module: str, *arguments: object) -> None:
    """Run a command in a process of its own, which opens the token for itself."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _write_login(service: LiveService) -> None:
    login = {"url": service.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
    (service.folders.operator / "credential.json").write_text(json.dumps(login))


async def test_service_with_every_key_in_a_token_admits_a_device(softhsm: SoftHsm, tmp_path: Path) -> None:
    """The ceremony leaves no key file but TLS's; the service starts, and a device claims, attests and connects."""
    folders = folders_in_tokens(tmp_path, softhsm)
    assert (_files(folders.operator / "keys"), _files(folders.service / "keys")) == ([], ["server.pem"])
    async with live_service(folders) as service:
        device = await service.claimed()
        credential = await service.attest(device)
        peer = await service.mqtt(device, credential)
        assert await peer.exchange(connect_packet(device.device_id)) == CONNACK_OK
        await peer.close()


def test_every_role_signs_in_its_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    """Root and golden, director and ocsp: `pki keys list` tries them all."""
    folders = folders_in_tokens(tmp_path, softhsm)
    for option, folder, roles in (
        ("--operator-dir", folders.operator, OFFLINE_ROLES),
        ("--data-dir", folders.service, ONLINE_ROLES),
    ):
        result = run("pki", "keys", "list", option, folder, "--verify", "--json")
        listed = {entry["role"]: (entry["store"], entry["state"]) for entry in json.loads(result.stdout)}
        assert {role: listed[role] for role in roles} == dict.fromkeys(roles, ("hsm", "signs"))


async def test_commands_of_the_operator_sign_in_a_token(softhsm: SoftHsm, tmp_path: Path) -> None:
    """Factory images, targets, an IDevID, a voucher and an operator's certificate, each by an offline key."""
    folders, devices = folders_in_tokens(tmp_path, softhsm), tmp_path / "devices"
    where = ("--operator-dir", folders.operator)
    async with live_service(folders) as service:
        _write_login(service)
        await _command("service.cli.main", "factory", "images", *where)
        await _command("device_sim", "manufacture", "--out", devices, "--count", "1", "--seed", "token")
        await _command("service.cli.main", "factory", "sign", devices, *where)
        await _command("device_sim", "flash", devices)
        claim = ("device", "claim", devices, "--product", "Camera", "--group", "Production")
        await _command("service.cli.main", *claim, *where)
    (device,) = devices.iterdir()
    (idevid, *_) = x509.load_pem_x509_certificates((device / "idevid.pem").read_bytes())
    assert issued_by(idevid, folders.factory.certificate)
    assert (device / "voucher.json").exists()
    result = run("operator", "certificate", "ada", "--out", tmp_path, *where)
    assert result.exit_code == 0, (result.output, result.exception)
    assert issued_by(x509.load_pem_x509_certificate((tmp_path / "ada.pem").read_bytes()), folders.root.certificate)
