"""Attacks on the key of an operational certificate; each leaves the device and the issuance log as they were."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki.issuance import LogHead
from pki.online import online_keys
from protocol.signing import Signer, SoftwareSigner
from service.application.attestation import AttestationRefusedError
from service.application.identity import CsrRefusedError
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import DeviceWorld, open_world
from tests.service_folder import make_folders

REUSED = "certificate key: expected a fresh one, found one that has been used before"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DeviceWorld]:
    async with open_world(f"sqlite:///{tmp_path / 'control.db'}", make_folders(tmp_path)) as opened:
        yield opened


async def end_of_log(world: DeviceWorld) -> LogHead:
    async with world.unit_of_work(read_only=True) as work:
        return (await work.issuance.page(after=0, limit=1))[1]


async def certificate_of(world: DeviceWorld, device: AttestingDevice) -> str | None:
    return (await world.devices.get(device.device_id)).device.certificate_serial


@pytest.fixture
async def victim(world: DeviceWorld) -> AttestingDevice:
    """A device that has attested honestly."""
    device = await world.claimed()
    await world.attest(device)
    return device


async def test_key_of_another_device_is_refused(world: DeviceWorld) -> None:
    """Two devices with one key could not be told apart by it."""
    shared, first, second = SoftwareSigner.generate(), await world.claimed(), await world.claimed()
    await world.attest(first, key=shared)
    before = await end_of_log(world)
    with pytest.raises(AttestationRefusedError, match=REUSED):
        await world.attest(second, key=shared)
    assert (await certificate_of(world, second), await end_of_log(world)) == (None, before)


async def test_key_of_a_certificate_before_the_last_is_refused(world: DeviceWorld) -> None:
    """The log remembers every key, not the last one alone."""
    device, old = await world.claimed(), SoftwareSigner.generate()
    await world.attest(device, key=old)
    await world.attest(device)
    before = (await certificate_of(world, device), await end_of_log(world))
    with pytest.raises(AttestationRefusedError, match=REUSED):
        await world.attest(device, key=old)
    assert (await certificate_of(world, device), await end_of_log(world)) == before


async def test_identity_key_of_another_device_is_refused(world: DeviceWorld, victim: AttestingDevice) -> None:
    """Whoever has got at an identity key cannot make it a traffic key."""
    other = await world.claimed()
    before = await end_of_log(world)
    with pytest.raises(AttestationRefusedError, match=REUSED):
        await world.attest(other, key=victim.identity)
    assert await end_of_log(world) == before


async def test_one_key_for_two_devices_at_once_is_certified_for_none_or_one(world: DeviceWorld) -> None:
    """In one round or in two, the key makes at most one certificate."""
    shared, devices = SoftwareSigner.generate(), [await world.claimed(), await world.claimed()]
    before = await end_of_log(world)
    answers = await asyncio.gather(*(world.attest(each, key=shared) for each in devices), return_exceptions=True)
    certified = [answer for answer in answers if isinstance(answer, str)]
    assert len(certified) <= 1
    assert (await end_of_log(world)).sequence == before.sequence + len(certified)


async def refused_csr(world: DeviceWorld, device: AttestingDevice, key: Signer, message: str) -> None:
    before = (await certificate_of(world, device), await end_of_log(world))
    assert isinstance(key, SoftwareSigner)
    with pytest.raises(CsrRefusedError, match=message):
        await world.attest(device, key=key)
    assert (await certificate_of(world, device), await end_of_log(world)) == before


@pytest.mark.parametrize("role", ["issuing-ca", "director", "snapshot", "timestamp", "server", "ocsp"])
async def test_key_of_the_service_is_refused(world: DeviceWorld, victim: AttestingDevice, role: str) -> None:
    """Whoever has stolen one does not get it certified as a device's."""
    key = online_keys(world.folders.service).load(role)
    await refused_csr(world, victim, key, "found one of the service or of an authority")


@pytest.mark.parametrize("role", ["root", "factory", "server-ca"])
async def test_key_of_an_authority_is_refused(world: DeviceWorld, victim: AttestingDevice, role: str) -> None:
    """Nor an authority's."""
    await refused_csr(world, victim, world.folders.keys.load(role), "found one of the service or of an authority")


async def test_key_that_everybody_knows_is_refused(world: DeviceWorld, victim: AttestingDevice) -> None:
    """The private number 1."""
    known = SoftwareSigner(ec.derive_private_key(1, ec.SECP256R1()))
    await refused_csr(world, victim, known, "found a published one")
