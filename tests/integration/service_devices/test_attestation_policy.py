"""What a device group's policy makes of evidence: how far its devices come in, for how long, and what is told."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from protocol.evidence import LifeCycle, SoftwareComponent
from protocol.geometry import Slot
from protocol.identity import Access, access_in
from protocol.messages import AttestationReply
from protocol.signing import SoftwareSigner
from service.application.attestation import Attestation, AttestationRefusedError
from service.application.device_repositories import AttestationRecord, NoncePurpose
from service.application.events import EventType
from service.application.operators import RoleError
from service.domain.attestation import Status, Verdict
from service.domain.attestation_policy import AttestationPolicy, UnknownSoftware
from service.domain.device import DeviceState
from service.domain.operator import Actor, Role
from service.domain.product import GroupPolicy
from tests.attesting_device import AttestingDevice, component
from tests.integration.service_devices.device_world import OPERATOR, TARGET, DeviceWorld

ADMIN = Actor("admin", Role.ADMIN)
STRANGER = component(Slot.M4_0_MODEL, b"\x66" * 32)


async def set_policy(world: DeviceWorld, policy: AttestationPolicy, *, actor: Actor = ADMIN) -> None:
    """Change the policy of the group that devices are claimed into."""
    async with world.unit_of_work(read_only=True) as work:
        group = await work.products.get_group(TARGET.group)
    await world.products.change_group(
        actor,
        group.group_id,
        name=None,
        description=None,
        policy=lambda before: replace(before, attestation=policy),
        based_on=None,
    )


async def attest(world: DeviceWorld, device: AttestingDevice) -> AttestationReply:
    request = device.request(await world.nonce(device), SoftwareSigner.generate())
    return await world.attestation.attest(device.peer, request)


async def state_of(world: DeviceWorld, device: AttestingDevice) -> DeviceState:
    return (await world.devices.get(device.device_id)).device.state


async def record_of(world: DeviceWorld, device: AttestingDevice) -> AttestationRecord:
    record = (await world.devices.get(device.device_id)).attestation
    assert record is not None
    return record


def booting(device: AttestingDevice, *others: SoftwareComponent) -> None:
    """Let a device measure other images than the honest ones in some slots."""
    parts = {part.type: part for part in (*device.evidence.components, *others)}
    ordered = [parts[slot.value] for slot in Slot if slot.value in parts]
    device.evidence = replace(device.evidence, components=tuple(ordered))


async def events_of(world: DeviceWorld) -> list[str]:
    async with world.unit_of_work(read_only=True) as work:
        return [f"{stored.event.type}.{stored.event.change}" for stored in await work.events.after(0)]


@pytest.mark.parametrize(
    ("unknown", "verdict", "status", "alarms"),
    [
        (UnknownSoftware.QUARANTINE, Verdict.QUARANTINED, Status.CONTRAINDICATED, 1),
        (UnknownSoftware.UPDATE_ONLY, Verdict.UPDATE_ONLY, Status.WARNING, 0),
    ],
)
async def test_unknown_image_lets_in_to_update_alone_until_it_is_known(
    world: DeviceWorld, unknown: UnknownSoftware, verdict: Verdict, status: Status, alarms: int
) -> None:
    """The certificate says so and lasts an hour; an alarm is raised once; once the image is listed, all is open."""
    await set_policy(world, AttestationPolicy(unknown=unknown))
    device = await world.claimed()
    booting(device, STRANGER)
    await attest(world, device)
    reply = await attest(world, device)
    leaf = x509.load_pem_x509_certificates(reply.certificate_chain.encode())[0]
    assert (reply.access, access_in(leaf)) == (Access.UPDATE_ONLY, Access.UPDATE_ONLY)
    assert leaf.not_valid_after_utc - world.clock.now() == timedelta(hours=1)
    assert await state_of(world, device) is DeviceState.QUARANTINED
    appraisal = (await record_of(world, device)).appraisal
    assert (appraisal.verdict, appraisal.verdict.status) == (verdict, status)
    assert [(part.component, part.status) for part in appraisal.findings if not part.accepted] == [
        ("m4-0/model", status)
    ]
    assert (await events_of(world)).count("security.quarantined") == alarms
    world.listed.list(STRANGER)
    assert (await attest(world, device)).access is Access.FULL
    assert await state_of(world, device) is DeviceState.ACTIVE
    assert [e for e in await events_of(world) if e.startswith("device.")] == [
        "device.claimed",
        "device.quarantined",
        "device.quarantined",  # again, so that whoever heals it tries again
        "device.activated",
    ]


async def test_quarantine_takes_full_access_back(world: DeviceWorld) -> None:
    """From that moment the registry says so, whatever certificate the device still has."""
    await set_policy(world, AttestationPolicy(unknown=UnknownSoftware.QUARANTINE))
    device = await world.claimed()
    kicked: list[str] = []
    world.standings.on_restricted(kicked.append)
    await attest(world, device)
    assert world.standings.access(device.device_id) is Access.FULL
    booting(device, STRANGER)
    await attest(world, device)
    assert world.standings.access(device.device_id) is Access.UPDATE_ONLY
    assert kicked == [device.device_id]
    async with world.unit_of_work(read_only=True) as work:
        installed = await work.installed.of([device.device_id])
    assert installed[device.device_id][Slot.M4_0_MODEL] == STRANGER.measurement.hex()


@pytest.mark.parametrize(
    ("spoiled", "wrong"),
    [
        ({"lifecycle": LifeCycle.NON_PSA_DEBUG}, "life-cycle: expected SECURED, found NON_PSA_DEBUG"),
        ({"lifecycle": LifeCycle.RECOVERABLE_DEBUG}, "life-cycle: expected SECURED, found RECOVERABLE_DEBUG"),
    ],
)
async def test_policy_on_unknown_images_excuses_nothing_else(
    world: DeviceWorld, spoiled: dict[str, int], wrong: str
) -> None:
    """A device that is wrong in another way is refused, unknown image or not."""
    await set_policy(world, AttestationPolicy(unknown=UnknownSoftware.QUARANTINE))
    device = await world.claimed()
    booting(device, STRANGER)
    device.evidence = replace(device.evidence, **spoiled)  # type: ignore[arg-type]  # by name
    with pytest.raises(AttestationRefusedError, match=wrong):
        await attest(world, device)
    assert await state_of(world, device) is DeviceState.CLAIMED


async def test_device_that_stays_in_quarantine_is_told_of_each_time(world: DeviceWorld) -> None:
    """Whoever heals it tries again, although nothing about it has changed."""
    await set_policy(world, AttestationPolicy(unknown=UnknownSoftware.QUARANTINE))
    device = await world.claimed()
    booting(device, STRANGER)
    await attest(world, device)
    async with world.unit_of_work(read_only=True) as work:
        seen = await work.events.last_sequence()
    await attest(world, device)
    async with world.unit_of_work(read_only=True) as work:
        told = [stored.event for stored in await work.events.after(seen)]
    assert [(event.type, event.change) for event in told] == [(EventType.DEVICE, "quarantined")]


async def test_policy_takes_an_admin(world: DeviceWorld) -> None:
    """To change it, to make a group with another one, and to close or open enrolment by EST; the rest does not."""
    lax = AttestationPolicy(unknown=UnknownSoftware.UPDATE_ONLY)
    with pytest.raises(RoleError, match="expected admin to say what devices must show"):
        await set_policy(world, lax, actor=OPERATOR)
    with pytest.raises(RoleError, match="expected admin to say what devices must show"):
        await world.products.create_group(
            OPERATOR, product="Camera", name="Lax", description="", policy=GroupPolicy(attestation=lax)
        )
    with pytest.raises(RoleError, match="expected admin to say whether devices enrol by EST"):
        await world.products.change(OPERATOR, "Camera", name=None, description=None, est=False, based_on=None)
    await set_policy(world, AttestationPolicy(), actor=OPERATOR)
    changed = await world.products.change(OPERATOR, "Camera", name="Lens", description=None, est=True, based_on=None)
    assert (changed.name, changed.est) == ("Lens", True)


async def test_each_finding_keeps_the_time_since_when_it_is_the_same(world: DeviceWorld) -> None:
    """A change of one component leaves the others' times alone."""
    await set_policy(world, AttestationPolicy(unknown=UnknownSoftware.QUARANTINE))
    device = await world.claimed()
    await attest(world, device)
    first = world.clock.now()
    world.clock.advance(60)
    booting(device, STRANGER)
    await attest(world, device)
    world.clock.advance(60)
    await attest(world, device)
    record = await record_of(world, device)
    since = {finding.component: finding.since for finding in record.appraisal.findings}
    assert since["os"] == first
    assert since["m4-0/model"] == record.since == first + timedelta(seconds=60)
    assert (record.times, record.last_at) == (2, first + timedelta(seconds=120))


async def test_certificate_lasts_as_long_as_the_policy_says_and_never_longer_than_the_setting(
    world: DeviceWorld,
) -> None:
    """Two hours where the group wants that; a day, the setting, where it would have a week."""
    device = await world.claimed()
    for wanted, found in ((timedelta(hours=2), timedelta(hours=2)), (timedelta(days=7), timedelta(days=1))):
        await set_policy(world, AttestationPolicy(certificate_lifetime=wanted))
        assert (await attest(world, device)).not_after - world.clock.now() == found


async def test_old_os_is_treated_as_the_policy_says(world: DeviceWorld) -> None:
    """The version is that of the listed image, not of the device's word."""
    device = await world.claimed()
    boasting = tuple(replace(part, version="os@9.9.9") for part in device.evidence.components)
    device.evidence = replace(device.evidence, components=boasting)
    await set_policy(world, AttestationPolicy(minimum_os="1.0.1"))
    with pytest.raises(AttestationRefusedError, match=r"os: expected .*version 1.0.1 or newer, found os@1.0.0"):
        await attest(world, device)
    await set_policy(world, AttestationPolicy(minimum_os="1.0.1", unknown=UnknownSoftware.UPDATE_ONLY))
    assert (await attest(world, device)).access is Access.UPDATE_ONLY
    await set_policy(world, AttestationPolicy(minimum_os="1"))
    assert (await attest(world, device)).access is Access.FULL


async def test_debug_capability_is_admitted_where_the_policy_says_so(world: DeviceWorld) -> None:
    """A development group may debug its applications."""
    device = await world.claimed()
    device.evidence = replace(device.evidence, lifecycle=LifeCycle.NON_PSA_DEBUG)
    await set_policy(world, AttestationPolicy(debug=True))
    assert (await attest(world, device)).access is Access.FULL


async def test_nonce_serves_its_purpose_alone(world: DeviceWorld) -> None:
    """Evidence over a nonce for one thing is worth nothing for the other, and spends only its own nonce."""
    device, key = await world.claimed(), SoftwareSigner.generate()
    for_est = await world.attestation.give_nonce(device.peer, purpose=NoncePurpose.EST)
    with pytest.raises(AttestationRefusedError, match="nonce: expected a nonce that is in force"):
        await world.attestation.attest(device.peer, device.request(for_est.nonce, key))
    reply = await world.attestation.judge(device.peer, device.request(for_est.nonce, key), purpose=NoncePurpose.EST)
    assert reply.access is Access.FULL


async def test_nonce_of_one_process_serves_once_at_all_of_them(world: DeviceWorld) -> None:
    """Processes agree by the database: of requests at several of them at once, one gets the certificate."""
    device = await world.claimed()
    nonce = await world.nonce(device)
    async with asyncio.TaskGroup() as tasks:
        others = [world.another_attestation() for _ in range(3)]
        running = [tasks.create_task(other.run()) for other in others]
        requests = [device.request(nonce, SoftwareSigner.generate()) for _ in others]
        asked = [_ask(other, device, request) for other, request in zip(others, requests, strict=True)]
        answers = await asyncio.gather(*asked)
        for task in running:
            task.cancel()
    assert sorted(answers) == [False, False, True]
    assert (await record_of(world, device)).device_id == device.device_id


async def _ask(attestation: Attestation, device: AttestingDevice, request: object) -> bool:
    try:
        await attestation.attest(device.peer, request)  # type: ignore[arg-type]  # an AttestationRequest
    except AttestationRefusedError:
        return False
    return True


async def test_many_devices_at_once_each_get_their_own_answer(world: DeviceWorld) -> None:
    """A round holds good and bad ones; two that want one key get none; no device waits for another's mistake."""
    devices = [await world.claimed() for _ in range(6)]
    booting(devices[0], STRANGER)
    stolen = SoftwareSigner.generate()
    keys = [SoftwareSigner.generate() for _ in range(4)] + [stolen, stolen]
    nonces = await asyncio.gather(*(world.nonce(device) for device in devices))
    requests = [device.request(nonce, key) for device, nonce, key in zip(devices, nonces, keys, strict=True)]
    answers = await asyncio.gather(
        *(_ask(world.attestation, device, request) for device, request in zip(devices, requests, strict=True))
    )
    assert answers == [False, True, True, True, False, False]
    states = [await state_of(world, device) for device in devices]
    assert [state is DeviceState.ACTIVE for state in states] == answers
