"""A device that has itself refused on purpose stands as it did: refusals before any judgement hide nothing."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.evidence import LifeCycle
from protocol.geometry import Slot
from protocol.messages import AttestationRequest
from protocol.signing import SoftwareSigner
from service.application.attestation import AttestationRefusedError
from service.application.device_repositories import AttestationRecord
from service.application.events import EventType
from service.application.identity import CsrRefusedError
from service.domain.attestation import Verdict
from service.domain.attestation_policy import AttestationPolicy, UnknownSoftware
from tests.attesting_device import HONEST, AttestingDevice, component
from tests.integration.service_devices.device_world import OPERATOR, DeviceWorld, open_world
from tests.integration.service_devices.test_attestation_policy import set_policy
from tests.service_folder import make_folders

STRANGER = component(Slot.M4_0_MODEL, b"\x66" * 32)


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[DeviceWorld]:
    async with open_world(database, make_folders(tmp_path)) as opened:
        yield opened


async def be_refused(world: DeviceWorld, device: AttestingDevice, used: SoftwareSigner) -> None:
    """Provoke each refusal that a device can have whatever it booted: CSR, evidence, nonce, key."""
    with pytest.raises(CsrRefusedError):
        await world.attest(device, key=device.identity)
    key = SoftwareSigner.generate()
    with pytest.raises(AttestationRefusedError, match="evidence: expected"):
        await world.attestation.attest(device.peer, AttestationRequest(evidence=b"", csr=device.csr(key)))
    with pytest.raises(AttestationRefusedError, match="nonce: expected"):
        await world.attestation.attest(device.peer, device.request(b"\x01" * 32, key))
    with pytest.raises(AttestationRefusedError, match="certificate key: expected"):
        await world.attest(device, key=used)


async def latest(world: DeviceWorld, verdict: Verdict | None = None) -> Sequence[AttestationRecord]:
    return await world.results.page_latest(after_device_id=None, limit=10, verdict=verdict)


async def quarantines_told(world: DeviceWorld) -> int:
    async with world.unit_of_work(read_only=True) as work:
        events = await work.events.page(EventType.SECURITY, before=None, limit=100)
    return sum(stored.event.change == "quarantined" for stored in events)


async def test_quarantined_device_cannot_leave_the_page_of_quarantined_ones(world: DeviceWorld) -> None:
    """It stays there and in the counts; its next certificate of the same quarantine raises no second alarm."""
    await set_policy(world, AttestationPolicy(unknown=UnknownSoftware.QUARANTINE))
    device, used = await world.claimed(), SoftwareSigner.generate()
    device.evidence = replace(HONEST, components=(*HONEST.components, STRANGER))
    await world.attest(device, key=used)
    before = await latest(world)
    await be_refused(world, device, used)
    assert await latest(world, Verdict.QUARANTINED) == before
    async with world.unit_of_work(read_only=True) as work:
        counts = await work.attestations.counts()
    assert (counts[Verdict.QUARANTINED], counts[Verdict.REFUSED]) == (1, 0)
    shown = (await world.devices.get(device.device_id)).attestation
    assert shown is not None
    assert shown.appraisal.reasons[0].startswith("certificate key: expected a fresh one")
    await world.attest(device)
    assert await quarantines_told(world) == 1
    (after,) = await latest(world, Verdict.QUARANTINED)
    assert after.appraisal.findings[0].since == before[0].appraisal.findings[0].since
    history = await world.results.page_history(device.device_id, before_id=None, limit=10)
    verdicts = [record.appraisal.verdict for record in history]
    assert verdicts == [Verdict.QUARANTINED, *[Verdict.REFUSED] * 4, Verdict.QUARANTINED]


async def test_developers_device_stays_one_whatever_it_has_refused(world: DeviceWorld) -> None:
    """What rollouts ask is the life cycle of the evidence that was judged last, not of one that was replayed."""
    await set_policy(world, AttestationPolicy(debug=True))
    device, used = await world.claimed(), SoftwareSigner.generate()
    device.evidence = replace(HONEST, lifecycle=LifeCycle.NON_PSA_DEBUG)
    await world.attest(device, key=used)
    await be_refused(world, device, used)
    device.evidence = HONEST
    with pytest.raises(AttestationRefusedError, match="nonce: expected"):
        await world.attestation.attest(device.peer, device.request(b"\x01" * 32, SoftwareSigner.generate()))
    (record,) = await latest(world)
    shown = {finding.component: finding.found for finding in record.appraisal.findings}
    assert shown["life-cycle"] == LifeCycle.NON_PSA_DEBUG.name


async def test_judged_refusal_is_where_the_device_stands(world: DeviceWorld) -> None:
    """What it booted is refused, so that it is among the refused ones until it boots otherwise."""
    device = await world.claimed()
    await world.attest(device)
    device.evidence = replace(HONEST, lifecycle=LifeCycle.NON_PSA_DEBUG)
    with pytest.raises(AttestationRefusedError, match="life-cycle"):
        await world.attest(device)
    assert [record.device_id for record in await latest(world, Verdict.REFUSED)] == [device.device_id]
    device.evidence = HONEST
    await world.attest(device)
    assert await latest(world, Verdict.REFUSED) == []


async def test_bad_request_of_a_blocked_device_is_refused_for_its_standing(world: DeviceWorld) -> None:
    """Of a blocked and of an unclaimed device the record says so, whatever is wrong with the request."""
    blocked, unclaimed = await world.claimed(), AttestingDevice(world.folders)
    await world.devices.block(OPERATOR, blocked.device_id, reason="lost")
    for device in (blocked, unclaimed):
        for _ in range(2):
            with pytest.raises(CsrRefusedError):
                await world.attestation.attest(device.peer, device.request(b"\x01" * 32, device.identity))
    found = {record.device_id: (record.appraisal.reasons, record.times) for record in await latest(world)}
    assert found == {
        blocked.device_id: (("registry: expected a device in good standing, found a blocked one",), 2),
        unclaimed.device_id: (("registry: expected a claimed device, found an unclaimed one",), 2),
    }
