"""Attacks on the metadata that the service signs: a legitimate check, then the attack, then nothing has changed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update
from tuf.api.metadata import Metadata, Targets

from device_sim.update.errors import MetadataRefusedError, TargetMissingError, UpdateError, WrongDeviceError
from pki.metadata import DirectorSigner
from protocol.geometry import Core, Slot
from protocol.identity import DeviceId
from protocol.image import digest_of
from protocol.messages import ActionState
from protocol.signing import SoftwareSigner
from protocol.updates import DEVICE_FIELD, DirectorDevice
from service.adapters.database.update_tables import director_sets
from service.application.update_repositories import DirectorSet
from service.domain.membership import StagePlan
from tests.attack.director_device import DIRECTOR, ConnectedDevice
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.service_folder import make_folders

TIMESTAMP, SNAPSHOT, TARGETS = (f"{DIRECTOR}{role}.json" for role in ("timestamp", "snapshot", "targets"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    """A service with two devices and a release of an application and a model rolled out to both."""
    async with open_world(make_folders(tmp_path / "init"), f"sqlite:///{tmp_path / 'control.db'}") as opened:
        await opened.add_devices(2)
        model, golden = opened.model("person@1.0.0", Core.M4_0)
        images = {Slot.A7_APPLICATION: opened.package("app@1.0.0"), Slot.M4_0_MODEL: model}
        await opened.hand_over(await opened.prepare("first", images, golden=golden))
        await opened.roll_out("first", (StagePlan(percent=100),))
        await opened.tick()
        yield opened


async def connect(world: UpdateWorld, index: int = 0) -> ConnectedDevice:
    """A device that has taken the legitimate metadata."""
    device = ConnectedDevice(world, DeviceId(list(world.device_keys)[index]))
    instruction = await device.check()
    assert {target.slot for target in instruction.targets} == {Slot.A7_APPLICATION, Slot.M4_0_MODEL}
    assert instruction.action_id == world.pending.waiting(device.device_id)
    return device


async def later(world: UpdateWorld, *, hours: float) -> None:
    """Time passes, and the worker keeps the Image repository fresh."""
    world.clock.advance(hours * 3600)
    await world.repository.refresh()


async def assert_refused(device: ConnectedDevice, error: type[UpdateError], match: str) -> None:
    """The check refuses; without the attacker the device is told what it was told before."""
    with pytest.raises(error, match=match):
        await device.check()
    device.attacker.instead.clear()
    assert len((await device.check()).targets) == 2


async def test_metadata_of_another_device_is_refused(world: UpdateWorld) -> None:
    """Validly signed by the Director, but for another device."""
    device, other = await connect(world), await connect(world, 1)
    # Newer than what the device has, so that nothing but the name is wrong.
    await later(world, hours=24)
    await other.check()
    device.attacker.instead = {path: other.attacker.seen[path] for path in (TIMESTAMP, SNAPSHOT, TARGETS)}
    with pytest.raises(WrongDeviceError, match=f"expected device {device.device_id[:16]}"):
        await device.check()
    device.attacker.instead.clear()
    # Nothing of the foreign set was kept: the device goes on at once with its own, which has the same versions.
    assert len((await device.check()).targets) == 2


async def test_older_director_metadata_is_refused(world: UpdateWorld) -> None:
    """Rollback: what the Director said yesterday, while it says more today."""
    device = await connect(world)
    old = dict(device.attacker.seen)
    await later(world, hours=13)
    await device.check()
    assert device.attacker.seen[TIMESTAMP] != old[TIMESTAMP]
    device.attacker.instead = {path: old[path] for path in (TIMESTAMP, SNAPSHOT, TARGETS)}
    await assert_refused(device, MetadataRefusedError, "timestamp")


async def test_frozen_metadata_is_refused(world: UpdateWorld) -> None:
    """Freeze: the last answer for ever; it ends with its expiry after a day."""
    device = await connect(world)
    device.attacker.instead = {path: device.attacker.seen[path] for path in (TIMESTAMP, SNAPSHOT, TARGETS)}
    await device.check()
    await later(world, hours=24.1)
    await assert_refused(device, MetadataRefusedError, "expired")


async def test_frozen_image_repository_is_refused(world: UpdateWorld) -> None:
    """The Image repository's timestamp ends after a day, too; the service signs it anew before."""
    device = await connect(world)
    path = "/device/v1/uptane/image/timestamp.json"
    old = device.attacker.seen[path]
    await later(world, hours=24.1)
    device.attacker.instead = {path: old}
    await assert_refused(device, MetadataRefusedError, "expired")


async def test_metadata_by_another_key_is_refused(world: UpdateWorld) -> None:
    """Everything right but the key."""
    device = await connect(world)
    await later(world, hours=24)
    signed = DirectorSigner(SoftwareSigner.generate()).sign_set(
        DirectorDevice(device_id=device.device_id),
        [],
        version=int(world.clock.now().timestamp()),
        expires=world.clock.now().replace(year=world.clock.now().year + 1),
    )
    device.attacker.instead = {TIMESTAMP: signed.timestamp, SNAPSHOT: signed.snapshot, TARGETS: signed.targets}
    await assert_refused(device, MetadataRefusedError, "timestamp")


async def test_mixed_director_files_are_refused(world: UpdateWorld) -> None:
    """Mix and match: today's timestamp over yesterday's targets."""
    device = await connect(world)
    old = device.attacker.seen[TARGETS]
    await later(world, hours=13)
    device.attacker.instead = {TARGETS: old}
    await assert_refused(device, MetadataRefusedError, "targets")


async def test_missing_artifact_stops_the_check(world: UpdateWorld) -> None:
    """A service that lost its artifacts cannot make a device do anything."""
    device = await connect(world)
    folder = world.folders.service / "artifacts"
    hidden = [path.rename(path.with_suffix(".hidden")) for path in folder.iterdir()]
    with pytest.raises(TargetMissingError, match="expected it, found nothing"):
        await device.check()
    for path in hidden:
        path.rename(path.with_suffix(""))
    assert len((await device.check()).targets) == 2


async def test_director_version_rises_after_a_restore(world: UpdateWorld) -> None:
    """A database restored from before the metadata was signed does not sign an older version."""
    device = await connect(world)
    backup = await _stored(world, device)
    for _ in range(3):
        await later(world, hours=13)
        await device.check()
    async with world.unit_of_work() as work:
        assert not await work.director.put(backup)  # the service itself never goes back
    before = (await _stored(world, device)).version
    await _restore(world, backup)
    await later(world, hours=13)
    assert len((await device.check()).targets) == 2
    assert (await _stored(world, device)).version > before > backup.version


async def test_idle_device_gets_empty_targets_of_its_own(world: UpdateWorld) -> None:
    """Metadata without a target names its device, so that it cannot be given to another."""
    device = await connect(world)
    action_id = world.pending.waiting(device.device_id)
    assert action_id is not None
    digests = (await world.releases.get("first")).digests
    await world.report(device.device_id, action_id, ActionState.CONFIRMED, digests=digests)
    instruction = await device.check()
    assert (instruction.targets, instruction.action_id) == ((), None)
    signed = Metadata[Targets].from_bytes(device.attacker.seen[TARGETS]).signed
    assert signed.unrecognized_fields[DEVICE_FIELD]["device_id"] == device.device_id


async def test_wanted_bytes_come_in_ranges(world: UpdateWorld) -> None:
    """A device resumes where it stopped; a range beyond the end is refused with the length."""
    device = await connect(world)
    digest = (await world.releases.get("first")).digests[Slot.A7_APPLICATION]
    path = f"/device/v1/artifacts/{digest}"
    package = (await device.http.get(path)).content
    assert digest_of(package) == digest
    part = await device.http.get(path, headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, package[100:])
    assert part.headers["content-range"] == f"bytes 100-{len(package) - 1}/{len(package)}"
    middle = await device.http.get(path, headers={"Range": "bytes=3-5"})
    assert middle.content == package[3:6]
    tail = await device.http.get(path, headers={"Range": "bytes=-7"})
    assert tail.content == package[-7:]
    beyond = await device.http.get(path, headers={"Range": f"bytes={len(package)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(package)}")
    other = await device.http.get(path, headers={"Range": "bytes=100-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, package)


async def _stored(world: UpdateWorld, device: ConnectedDevice) -> DirectorSet:
    async with world.unit_of_work(read_only=True) as work:
        found = await work.director.find(device.device_id)
    assert found is not None
    return found


async def _restore(world: UpdateWorld, backup: DirectorSet) -> None:
    """Put an old row back, as a restored backup does."""
    async with world.database.engine.begin() as connection:
        await connection.execute(update(director_sets).values(version=backup.version, renew_at=backup.renew_at))
