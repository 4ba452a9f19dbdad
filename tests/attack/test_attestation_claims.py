"""Attacks on claiming: each after a legitimate claim, and each leaves the registry as it was."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.evidence import bind_nonce, sign_evidence
from protocol.messages import ClaimProof
from protocol.signing import SoftwareSigner
from service.application.claims import ClaimProofError
from service.application.identity import CertificateRefusedError
from service.domain.device import AlreadyClaimedError
from service.domain.product import UnknownGroupError
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import (
    CHALLENGE_SECONDS,
    OPERATOR,
    TARGET,
    DeviceWorld,
    open_world,
)
from tests.service_folder import make_folders


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[DeviceWorld]:
    async with open_world(f"sqlite:///{tmp_path / 'control.db'}", make_folders(tmp_path)) as opened:
        await opened.claimed()
        yield opened


async def registry(world: DeviceWorld) -> list[str]:
    async with world.unit_of_work(read_only=True) as work:
        return [device.device_id for device in await work.devices.page(after_id=None, limit=10)]


async def challenge(world: DeviceWorld) -> bytes:
    return (await world.claims.challenge(OPERATOR)).challenge


async def test_proof_over_an_expired_challenge_is_refused(world: DeviceWorld) -> None:
    """A proof that somebody kept for later is worth nothing then."""
    before, device = await registry(world), AttestingDevice(world.folders)
    proof = device.proof(await challenge(world))
    world.clock.advance(CHALLENGE_SECONDS)
    with pytest.raises(ClaimProofError, match="expected evidence over a challenge in force"):
        await world.claims.claim(OPERATOR, proof, TARGET)
    assert await registry(world) == before


async def test_proof_over_a_made_up_challenge_is_refused(world: DeviceWorld) -> None:
    """Only the service makes challenges."""
    before, device = await registry(world), AttestingDevice(world.folders)
    with pytest.raises(ClaimProofError, match="expected evidence over a challenge in force"):
        await world.claims.claim(OPERATOR, device.proof(b"\x42" * 32), TARGET)
    assert await registry(world) == before


async def test_replayed_proof_is_refused(world: DeviceWorld) -> None:
    """A proof claims once."""
    device = AttestingDevice(world.folders)
    proof = device.proof(await challenge(world))
    await world.claims.claim(OPERATOR, proof, TARGET)
    before = await registry(world)
    with pytest.raises(AlreadyClaimedError):
        await world.claims.claim(OPERATOR, proof, TARGET)
    assert await registry(world) == before


async def test_evidence_of_another_device_is_no_proof(world: DeviceWorld) -> None:
    """One cannot claim a device by the evidence of another that is at hand."""
    before, wanted, at_hand = await registry(world), AttestingDevice(world.folders), AttestingDevice(world.folders)
    now = await challenge(world)
    forged = wanted.proof(now).model_copy(update={"evidence": at_hand.proof(now).evidence})
    with pytest.raises(ClaimProofError, match="proof: "):
        await world.claims.claim(OPERATOR, forged, TARGET)
    renamed = at_hand.proof(now).model_copy(update={"device_id": wanted.device_id})
    with pytest.raises(ClaimProofError, match="expected the IDevID of"):
        await world.claims.claim(OPERATOR, renamed, TARGET)
    assert await registry(world) == before


async def test_attestation_evidence_is_no_proof(world: DeviceWorld) -> None:
    """Evidence over a challenge that is bound to another key, as in an attestation, claims nothing."""
    before, device, key = await registry(world), AttestingDevice(world.folders), SoftwareSigner.generate()
    now = await challenge(world)
    evidence = sign_evidence(replace(device.evidence, nonce=bind_nonce(now, key.public_key)), device.identity)
    proof = device.proof(now).model_copy(update={"evidence": evidence})
    with pytest.raises(ClaimProofError, match="expected evidence over a challenge in force"):
        await world.claims.claim(OPERATOR, proof, TARGET)
    assert await registry(world) == before


@pytest.mark.parametrize("chain", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_chain_that_is_none_is_refused(world: DeviceWorld, chain: str) -> None:
    """Whatever comes in the place of a birth certificate is refused with words, not with a traceback."""
    before, device = await registry(world), AttestingDevice(world.folders)
    proof = device.proof(await challenge(world)).model_copy(update={"idevid_chain": chain})
    with pytest.raises(CertificateRefusedError, match="certificate chain"):
        await world.claims.claim(OPERATOR, proof, TARGET)
    assert await registry(world) == before


async def test_operational_certificate_is_no_birth_certificate(world: DeviceWorld) -> None:
    """An LDevID, which the online CA issues, claims nothing: only the factory says who was born."""
    device = await world.claimed()
    chain = await world.attest(device)
    before = await registry(world)
    proof = ClaimProof(
        device_id=device.device_id, idevid_chain=chain, evidence=device.proof(await challenge(world)).evidence
    )
    with pytest.raises(CertificateRefusedError, match="expected one by the authority of its kind"):
        await world.claims.claim(OPERATOR, proof, TARGET)
    assert await registry(world) == before


async def test_refused_claim_leaves_the_challenge_unused(world: DeviceWorld) -> None:
    """A claim into a group that does not exist changes nothing, and can be made right."""
    before, device = await registry(world), AttestingDevice(world.folders)
    proof = device.proof(await challenge(world))
    with pytest.raises(UnknownGroupError, match="Nowhere"):
        await world.claims.claim(OPERATOR, proof, replace(TARGET, group="Nowhere"))
    assert await registry(world) == before
    await world.claims.claim(OPERATOR, proof, TARGET)
    assert len(await registry(world)) == len(before) + 1
