"""EST by a shell script of curl and openssl alone, against the running service; enrol.sh is also documentation."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from protocol.identity import device_id_in
from tests.attesting_device import AttestingDevice
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders

SCRIPT = Path(__file__).with_name("enrol.sh")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as running:
        yield running


def device_folder(service: LiveService, device: AttestingDevice, folder: Path) -> Path:
    """Write what the script finds on a device."""
    folder.mkdir()
    key = device.identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "root.pem").write_bytes(service.addresses.ca.read_bytes())
    (folder / "identity.key").write_bytes(key)
    (folder / "idevid.pem").write_text(device.idevid_chain)
    evidence = device.evidence
    lines = [f"{c.type} {c.measurement.hex()} {c.signer_id.hex()} {c.version}\n" for c in evidence.components]
    (folder / "measurements").write_text("".join(lines))
    (folder / "implementation").write_text(evidence.implementation_id.hex())
    (folder / "boot-seed").write_text(evidence.boot_seed.hex())
    return folder


async def run(service: LiveService, folder: Path, command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        SCRIPT,
        folder,
        service.addresses.device_url,
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def succeed(service: LiveService, folder: Path, command: str) -> str:
    status, out, err = await run(service, folder, command)
    assert status == 0, out + err
    return out


def ldevid(folder: Path) -> x509.Certificate:
    certificates = x509.load_pem_x509_certificates((folder / "ldevid.pem").read_bytes())
    assert len(certificates) == 1
    return certificates[0]


async def test_script_enrols_enrols_again_and_polls(service: LiveService, tmp_path: Path) -> None:
    """The whole way of a device that has no code of ours."""
    device = await service.claimed()
    folder = device_folder(service, device, tmp_path / "device")
    await succeed(service, folder, "cacerts")
    authorities = x509.load_pem_x509_certificates((folder / "cacerts.pem").read_bytes())
    root = x509.load_pem_x509_certificate(service.addresses.ca.read_bytes())
    await succeed(service, folder, "enrol")
    first = ldevid(folder)
    assert device_id_in(first) == device.device_id
    assert root in authorities
    assert any(authority.subject == first.issuer for authority in authorities)
    await succeed(service, folder, "reenrol")
    second = ldevid(folder)
    assert second.serial_number != first.serial_number
    assert second.public_key() != first.public_key()
    assert json.loads(await succeed(service, folder, "poll"))["next_poll_seconds"] > 0
    shown = (await service.operator.get(f"/devices/{device.device_id}")).json()
    assert shown["attestation"]["result"] == "accepted"


async def test_script_is_refused_when_it_shows_another_boot(service: LiveService, tmp_path: Path) -> None:
    """One measurement that no metadata lists, and no certificate comes."""
    device = await service.claimed()
    folder = device_folder(service, device, tmp_path / "device")
    measurements = folder / "measurements"
    first = device.evidence.components[0].measurement.hex()
    measurements.write_text(measurements.read_text().replace(first, "66" * 32, 1))
    status, _out, err = await run(service, folder, "enrol")
    assert status != 0
    assert "403" in err
    assert "attestation-refused" in (folder / "answer").read_text()
    assert not (folder / "ldevid.pem").exists()
