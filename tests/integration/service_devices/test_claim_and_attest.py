"""The way of a device from its claim to its certificate, on both databases."""

from dataclasses import replace

import pytest
from cryptography import x509

from pki.online import request_metadata_key, requested_key
from pki.roles import OnlineKey
from protocol.document import verify_document
from protocol.evidence import LifeCycle
from protocol.geometry import Slot
from protocol.identity import device_id_in
from protocol.messages import TIME_PAYLOAD_TYPE, NonceRequest, SignedTime
from protocol.signing import SoftwareSigner
from service.application.attestation import AttestationRefusedError
from service.domain.attestation import Verdict
from service.domain.device import AlreadyClaimedError, DeviceState
from tests.attesting_device import AttestingDevice, component
from tests.integration.service_devices.device_world import OPERATOR, TARGET, DeviceWorld


async def test_claimed_device_gets_a_certificate_for_a_day(world: DeviceWorld) -> None:
    """The LDevID names the device, holds the CSR's key, and ends 24 hours from now."""
    device, key = await world.claimed(), SoftwareSigner.generate()
    chain = x509.load_pem_x509_certificates((await world.attest(device, key=key)).encode())
    assert device_id_in(chain[0]) == device.device_id
    assert chain[0].public_key() == key.public_key
    assert (chain[0].not_valid_after_utc - world.clock.now()).total_seconds() == 86_400
    view = await world.devices.get(device.device_id)
    assert view.device.state is DeviceState.ACTIVE
    assert view.attestation is not None
    assert view.attestation.appraisal.accepted


async def test_nonce_comes_with_the_time_signed_by_the_director(world: DeviceWorld) -> None:
    """A device without a clock learns the time by its own nonce, whichever key of the Director it knows."""
    device = await world.claimed()
    request_metadata_key(world.folders.service, OnlineKey.DIRECTOR)
    reply = await world.attestation.nonce(device.peer, NonceRequest(device_nonce=b"\x09" * 32))
    for name in ("director", "director-2"):
        director = requested_key(world.folders.service, name)
        signed = verify_document(reply.signed_time, TIME_PAYLOAD_TYPE, SignedTime, trusted_keys=[director])
        assert signed.device_nonce == b"\x09" * 32
        assert signed.now == world.clock.now()


async def test_second_claim_of_a_device_is_a_conflict(world: DeviceWorld) -> None:
    """A claimed device stays where it is, whatever fresh proof it gives."""
    device = await world.claimed()
    challenge = await world.claims.challenge(OPERATOR)
    with pytest.raises(AlreadyClaimedError, match="expected an unclaimed device"):
        await world.claims.claim(OPERATOR, device.proof(challenge.challenge), TARGET)


async def test_one_challenge_serves_many_devices(world: DeviceWorld) -> None:
    """An operator claims a whole tray with one challenge."""
    challenge = await world.claims.challenge(OPERATOR)
    for _ in range(2):
        device = AttestingDevice(world.folders)
        await world.claims.claim(OPERATOR, device.proof(challenge.challenge), TARGET)
    async with world.unit_of_work(read_only=True) as work:
        assert (await work.devices.counts())[DeviceState.CLAIMED] == 2


async def test_equal_results_extend_one_record(world: DeviceWorld) -> None:
    """History holds changes, not repetitions."""
    device = await world.claimed()
    for _ in range(3):
        await world.attest(device)
        world.clock.advance(60)
    history = await world.results.page_history(device.device_id, before_id=None, limit=10)
    assert [record.times for record in history] == [3]
    assert (history[0].last_at - history[0].since).total_seconds() == 120


async def test_refusal_says_what_was_expected_and_found(world: DeviceWorld) -> None:
    """Every wrong component is named at once, in the record and in the problem's members."""
    device = await world.claimed()
    await world.attest(device)
    stranger = component(Slot.OS, b"\x66" * 32)
    honest = [part for part in device.evidence.components if part.type != Slot.OS]
    boot_order = sorted([*honest, stranger], key=lambda part: list(Slot).index(Slot(part.type)))
    device.evidence = replace(device.evidence, components=tuple(boot_order), lifecycle=LifeCycle.NON_PSA_DEBUG)
    with pytest.raises(AttestationRefusedError, match="which no release lists") as caught:
        await world.attest(device)
    appraisal = caught.value.members["appraisal"]
    assert isinstance(appraisal, list)
    assert [finding["component"] for finding in appraisal if isinstance(finding, dict)] == ["life-cycle", "os"]
    refused = await world.results.page_latest(after_device_id=None, limit=10, verdict=Verdict.REFUSED)
    assert [record.device_id for record in refused] == [device.device_id]
    history = await world.results.page_history(device.device_id, before_id=None, limit=10)
    assert [record.appraisal.accepted for record in history] == [False, True]


async def test_events_and_audit_tell_the_story_in_order(world: DeviceWorld) -> None:
    """Claim, activation and attestation come out of the feed once each, in the order of their commits."""
    heard: list[str] = []
    world.feed.subscribe(lambda stored: heard.append(f"{stored.event.type}.{stored.event.change}"))
    device = await world.claimed()
    await world.attest(device)
    while await world.feed.catch_up():
        pass
    assert heard == ["product.created", "device.claimed", "device.activated", "attestation.accepted"]
    async with world.unit_of_work(read_only=True) as work:
        audit = await work.audit.page(before_id=None, limit=10, subject_id=device.device_id)
    assert [(entry.actor, entry.change.action) for entry in audit] == [("operator", "device.claim")]
