"""Attacks on attestation: each follows a legitimate attestation, and leaves the device as it was."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.evidence import Evidence, LifeCycle, sign_evidence
from protocol.geometry import Slot
from protocol.messages import AttestationRequest, NonceRequest
from protocol.signing import SoftwareSigner
from service.application.attestation import AttestationRefusedError
from service.application.identity import CsrRefusedError
from service.domain.attestation import Verdict
from service.domain.device import Device
from tests.attesting_device import HONEST, AttestingDevice, component
from tests.integration.service_devices.device_world import (
    NONCE_SECONDS,
    OPERATOR,
    DeviceWorld,
    open_world,
)
from tests.service_folder import make_folders


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DeviceWorld]:
    async with open_world(f"sqlite:///{tmp_path / 'control.db'}", make_folders(tmp_path)) as opened:
        yield opened


@pytest.fixture
async def device(world: DeviceWorld) -> AttestingDevice:
    """A device that has attested honestly."""
    device = await world.claimed()
    await world.attest(device)
    return device


async def stored(world: DeviceWorld, device: AttestingDevice) -> Device:
    """What is stored of the device, but for the evidence that it showed last, which is kept whatever came of it."""
    return replace((await world.devices.get(device.device_id)).device, evidence=None, evidence_at=None)


async def test_replayed_request_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """The same evidence and CSR a second time find their nonce used."""
    key = SoftwareSigner.generate()
    request = device.request(await world.nonce(device), key)
    await world.attestation.attest(device.peer, request)
    before = await stored(world, device)
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.attest(device.peer, request)
    assert await stored(world, device) == before


async def test_evidence_over_an_older_nonce_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """A nonce that was replaced by a newer one is worth nothing, and the newer one is spent by the attempt."""
    key, old = SoftwareSigner.generate(), await world.nonce(device)
    new = await world.nonce(device)
    before = await stored(world, device)
    with pytest.raises(AttestationRefusedError, match="nonce: expected the service's nonce"):
        await world.attestation.attest(device.peer, device.request(old, key))
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.attest(device.peer, device.request(new, key))
    assert await stored(world, device) == before


async def test_expired_nonce_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """Evidence that comes after the nonce's end is too late."""
    request = device.request(await world.nonce(device), SoftwareSigner.generate())
    before = await stored(world, device)
    world.clock.advance(NONCE_SECONDS)
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.attest(device.peer, request)
    assert await stored(world, device) == before


async def test_evidence_of_another_device_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """A tampered device cannot show the evidence of an honest one, not even over its own nonce."""
    other, key = await world.claimed(), SoftwareSigner.generate()
    nonce = await world.nonce(device)
    request = AttestationRequest(evidence=other.token(nonce, key.public_key), csr=device.csr(key))
    before = await stored(world, device)
    with pytest.raises(AttestationRefusedError, match="evidence: expected a PSA token by the device's identity key"):
        await world.attestation.attest(device.peer, request)
    assert await stored(world, device) == before


async def test_nonce_of_another_device_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """A nonce serves the device that asked for it, and stays in force for that one."""
    other = await world.claimed()
    nonce = await world.nonce(other)
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.attest(device.peer, device.request(nonce, SoftwareSigner.generate()))
    await world.attestation.attest(other.peer, other.request(nonce, SoftwareSigner.generate()))


async def test_evidence_relayed_to_another_csr_key_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """Evidence for one key buys no certificate for the attacker's."""
    honest, attackers = SoftwareSigner.generate(), SoftwareSigner.generate()
    nonce = await world.nonce(device)
    request = AttestationRequest(evidence=device.token(nonce, honest.public_key), csr=device.csr(attackers))
    before = await stored(world, device)
    with pytest.raises(AttestationRefusedError, match="nonce: expected the service's nonce bound to the key"):
        await world.attestation.attest(device.peer, request)
    assert await stored(world, device) == before


async def test_csr_for_another_device_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """A device cannot ask for a certificate in another one's name."""
    other, key = await world.claimed(), SoftwareSigner.generate()
    nonce = await world.nonce(device)
    request = AttestationRequest(evidence=device.token(nonce, key.public_key), csr=other.csr(key))
    with pytest.raises(CsrRefusedError, match="CSR"):
        await world.attestation.attest(device.peer, request)


async def test_csr_with_the_identity_key_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """The identity key never becomes an operational one."""
    with pytest.raises(CsrRefusedError, match="expected a fresh key"):
        await world.attest(device, key=device.identity)


async def test_refused_csr_is_on_record(world: DeviceWorld, device: AttestingDevice) -> None:
    """An operator sees why a device gets no certificate, although its evidence was never judged."""
    await world.attest(device)
    before = await stored(world, device)
    with pytest.raises(CsrRefusedError):
        await world.attest(device, key=device.identity)
    record = (await world.devices.get(device.device_id)).attestation
    assert record is not None
    found = "CSR: expected a fresh key, found the identity key"
    assert record.appraisal.reasons == (f"certificate request: expected one that may be certified, found {found}",)
    assert await stored(world, device) == before


async def test_key_of_the_certificate_before_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """A stolen LDevID key is worth a day, because the next certificate is for another key."""
    stolen = SoftwareSigner.generate()
    await world.attest(device, key=stolen)
    before = await stored(world, device)
    with pytest.raises(AttestationRefusedError, match="certificate key: expected a fresh one"):
        await world.attest(device, key=stolen)
    assert await stored(world, device) == before


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        (replace(HONEST, lifecycle=LifeCycle.NON_PSA_DEBUG), "life-cycle: expected SECURED, found NON_PSA_DEBUG"),
        (replace(HONEST, lifecycle=0x7000), "life-cycle: expected SECURED, found 0x7000"),
        (replace(HONEST, components=HONEST.components[1:]), "boot-loader: expected a measured image"),
        (replace(HONEST, components=HONEST.components[::-1]), "boot-order"),
        (replace(HONEST, components=(HONEST.components[0], *HONEST.components)), "boot-order"),
        (
            replace(HONEST, components=(*HONEST.components, component(Slot.M4_0_MODEL, b"\x66" * 32))),
            "m4-0/model: expected a listed model for mt3620-m4-0, .*which no release lists",
        ),
        (
            replace(
                HONEST, components=(*HONEST.components, component(Slot.M4_0_MODEL, HONEST.components[0].measurement))
            ),
            "m4-0/model: expected a listed model for mt3620-m4-0, found .* a boot-loader for mt3620-a7",
        ),
        (
            replace(HONEST, components=(*HONEST.components, replace(HONEST.components[0], type="m4-2/model"))),
            "m4-2/model: expected a slot of the MT3620",
        ),
    ],
)
async def test_device_that_booted_otherwise_is_refused(
    world: DeviceWorld, device: AttestingDevice, spoiled: Evidence, reason: str
) -> None:
    """Validly signed evidence of a boot that no release allows gets no certificate, and says why."""
    before = await stored(world, device)
    device.evidence = spoiled
    with pytest.raises(AttestationRefusedError, match=reason):
        await world.attest(device)
    assert await stored(world, device) == replace(before, access=None)  # what it had is taken back
    device.evidence = HONEST
    await world.attest(device)


async def test_foreign_and_malformed_evidence_is_refused(world: DeviceWorld, device: AttestingDevice) -> None:
    """Evidence that anybody else signed, and bytes that are none."""
    before = await stored(world, device)
    foreign = sign_evidence(HONEST, SoftwareSigner.generate())
    for evidence in (b"", b"\x00" * 5000, foreign):
        key = SoftwareSigner.generate()
        await world.nonce(device)
        with pytest.raises(AttestationRefusedError, match="evidence: expected a PSA token"):
            await world.attestation.attest(device.peer, AttestationRequest(evidence=evidence, csr=device.csr(key)))
    assert await stored(world, device) == before


async def test_unclaimed_device_gets_neither_nonce_nor_certificate(world: DeviceWorld) -> None:
    """A birth certificate alone opens nothing; the operator sees who knocked."""
    stranger = AttestingDevice(world.folders)
    with pytest.raises(AttestationRefusedError, match="registry: expected a claimed device, found an unclaimed one"):
        await world.nonce(stranger)
    request = stranger.request(b"\x00" * 32, SoftwareSigner.generate())
    with pytest.raises(AttestationRefusedError, match="found an unclaimed one"):
        await world.attestation.attest(stranger.peer, request)
    refused = await world.results.page_latest(after_device_id=None, limit=10, verdict=Verdict.REFUSED)
    assert [(record.device_id, record.times) for record in refused] == [(stranger.device_id, 2)]


async def test_device_blocked_between_nonce_and_evidence_is_refused(
    world: DeviceWorld, device: AttestingDevice
) -> None:
    """A block holds for what was begun before it."""
    request = device.request(await world.nonce(device), SoftwareSigner.generate())
    await world.devices.block(OPERATOR, device.device_id, reason="stolen")
    before = await stored(world, device)
    with pytest.raises(AttestationRefusedError, match="found a blocked one"):
        await world.attestation.attest(device.peer, request)
    with pytest.raises(AttestationRefusedError, match="found a blocked one"):
        await world.attestation.nonce(device.peer, NonceRequest(device_nonce=b"\x01" * 32))
    assert await stored(world, device) == before
