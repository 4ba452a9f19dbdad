"""Suspected clones on both databases: told of once with evidence, blocked where that is the rule, cleared by hand."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from protocol.messages import NonceRequest
from protocol.signing import SoftwareSigner
from service.application.attestation import AttestationRefusedError
from service.application.events import EventType, StoredEvent
from service.application.unit_of_work import UnitOfWork
from service.domain.clone import CloneSuspicion
from service.domain.device import Device, DeviceState
from tests.attesting_device import AttestingDevice
from tests.integration.service_devices.device_world import OPERATOR, DeviceWorld, open_world
from tests.service_folder import Folders


@pytest.fixture
async def strict(database: str, folders: Folders) -> AsyncIterator[DeviceWorld]:
    async with open_world(database, folders, blocks_clones=True) as opened:
        yield opened


def boot(device: AttestingDevice, number: int) -> None:
    device.evidence = replace(device.evidence, boot_seed=number.to_bytes(32, "big"))


async def attest_boots(world: DeviceWorld, device: AttestingDevice, *boots: int) -> None:
    for number in boots:
        boot(device, number)
        await world.attest(device)


async def stored(world: DeviceWorld, device: AttestingDevice) -> Device:
    return (await world.devices.get(device.device_id)).device


async def security_events(world: DeviceWorld) -> list[StoredEvent]:
    async with world.unit_of_work(read_only=True) as work:
        return [stored for stored in await work.events.after(0) if stored.event.type is EventType.SECURITY]


async def test_returning_boot_seed_raises_one_alarm(world: DeviceWorld) -> None:
    """Two instances that attest in turns are told of once; they go on, because an alarm is all that is asked for."""
    device = await world.claimed()
    await attest_boots(world, device, 1, 2, 1, 2, 1)
    found = await stored(world, device)
    assert found.clone_suspected_at is not None
    assert found.clone_detail.startswith("boot-seed: expected the seed of a new boot")
    assert found.state is DeviceState.ACTIVE
    (event,) = await security_events(world)
    assert (event.event.subject_id, event.event.change) == (device.device_id, "clone-suspected")
    assert event.event.data["signal"] == "boot-seed"
    async with world.unit_of_work(read_only=True) as work:
        audit = await work.audit.page(before_id=None, limit=10, subject_id=device.device_id)
        suspected = await work.devices.page(after_id=None, limit=10, suspected_clone=True)
        assert await work.devices.count_suspected() == 1
        assert await work.devices.page(after_id=None, limit=10, suspected_clone=False) == []
    assert [entry.change.action for entry in audit if entry.actor == "service"] == ["device.clone-suspected"]
    assert [one.device_id for one in suspected] == [device.device_id]


async def test_device_that_reboots_often_is_not_suspected(world: DeviceWorld) -> None:
    """Each boot has a seed of its own, and attests more than once."""
    device = await world.claimed()
    await attest_boots(world, device, *(number for number in range(12) for _ in range(2)))
    found = await stored(world, device)
    assert found.clone_suspected_at is None
    assert len(found.boot_seeds) == 8
    assert await security_events(world) == []


async def test_played_back_evidence_raises_no_alarm(world: DeviceWorld) -> None:
    """Somebody without the key cannot make a device look cloned with a token of an earlier boot."""
    device, key = await world.claimed(), SoftwareSigner.generate()
    boot(device, 1)
    old = device.request(await world.nonce(device), key)
    await world.attestation.attest(device.peer, old)
    await attest_boots(world, device, 2)
    await world.attestation.nonce(device.peer, NonceRequest(device_nonce=b"\x07" * 32))
    with pytest.raises(AttestationRefusedError, match="found another value"):
        await world.attestation.attest(device.peer, old)
    assert (await stored(world, device)).clone_suspected_at is None


async def test_strict_catalog_blocks_a_clone_and_gives_no_certificate(strict: DeviceWorld) -> None:
    """Neither the copy nor the original gets in until an operator has looked."""
    device = await strict.claimed()
    await attest_boots(strict, device, 1, 2)
    serial = (await stored(strict, device)).certificate_serial
    boot(device, 1)
    with pytest.raises(AttestationRefusedError, match="identity: expected one live device, found boot-seed"):
        await strict.attest(device)
    found = await stored(strict, device)
    assert (found.state, found.blocked_reason) == (DeviceState.BLOCKED, "suspected clone")
    assert found.certificate_serial == serial
    with pytest.raises(AttestationRefusedError, match="found a blocked one"):
        await strict.nonce(device)


async def test_unblock_keeps_the_suspicion_until_an_operator_clears_it(strict: DeviceWorld) -> None:
    """Then the same device begins anew, and a return is found again."""
    device = await strict.claimed()
    await attest_boots(strict, device, 1, 2)
    boot(device, 1)
    with pytest.raises(AttestationRefusedError, match="expected one live device"):
        await strict.attest(device)
    await strict.devices.unblock(OPERATOR, device.device_id)
    assert (await stored(strict, device)).clone_suspected_at is not None
    await strict.devices.clear_clone(OPERATOR, device.device_id, reason="test bench")
    cleared = await stored(strict, device)
    assert (cleared.clone_suspected_at, cleared.clone_detail, cleared.boot_seeds) == (None, "", ())
    await attest_boots(strict, device, 1, 2)
    assert (await stored(strict, device)).state is DeviceState.ACTIVE
    boot(device, 1)
    with pytest.raises(AttestationRefusedError, match="expected one live device"):
        await strict.attest(device)


async def test_collected_suspicions_are_stored_once_each(strict: DeviceWorld) -> None:
    """What the gateway saw is stored in the background; an unknown device's is dropped."""
    device = await strict.claimed()
    for name in (device.device_id, "f" * 128):
        for turn in range(12):
            addresses = [f"192.0.2.{turn % 2}", f"192.0.2.{1 - turn % 2}"]
            strict.clones.took_over(name, source=addresses[0], displaced=addresses[1], at=strict.clock.now())
    for _ in range(2):
        await strict.clones.flush()
    found = await stored(strict, device)
    assert found.clone_detail.startswith("take-over: expected one MQTT connection, found it taken over 6 times")
    assert found.state is DeviceState.BLOCKED
    assert [stored.event.subject_id for stored in await security_events(strict)] == [device.device_id]


async def test_suspicion_that_cannot_be_stored_holds_up_no_other(
    world: DeviceWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to the end, and is stored as soon as it can be."""
    devices, suspect = [await world.claimed(), await world.claimed()], world.clones.suspect
    for device in devices:
        for turn in range(12):
            addresses = [f"192.0.2.{turn % 2}", f"192.0.2.{1 - turn % 2}"]
            world.clones.took_over(device.device_id, source=addresses[0], displaced=addresses[1], at=world.clock.now())

    async def fails(work: UnitOfWork, device: Device, suspicion: CloneSuspicion) -> None:
        if device.device_id == devices[0].device_id:
            raise OSError("away")
        await suspect(work, device, suspicion)

    monkeypatch.setattr(world.clones, "suspect", fails)
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            await world.clones.flush()
    assert [event.event.subject_id for event in await security_events(world)] == [devices[1].device_id]
    monkeypatch.setattr(world.clones, "suspect", suspect)
    await world.clones.flush()
    assert (await stored(world, devices[0])).clone_suspected_at is not None


async def test_decommissioned_device_is_suspected_of_nothing(world: DeviceWorld) -> None:
    """What is gone for good keeps its history as it was."""
    device = await world.claimed()
    async with world.unit_of_work() as work:
        before = await work.devices.get(device.device_id)
        await work.devices.save(before.decommission(world.clock.now()), replaces_version=before.version)
        await work.commit()
    for turn in range(6):
        addresses = [f"192.0.2.{turn % 2}", f"192.0.2.{1 - turn % 2}"]
        world.clones.took_over(device.device_id, source=addresses[0], displaced=addresses[1], at=world.clock.now())
    await world.clones.flush()
    assert (await stored(world, device)).clone_suspected_at is None
