"""The service is restored from a backup: what devices saw since is above it, and nothing that they are told falls."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import pytest

from protocol.messages import ActionState, Attack
from service.adapters.database.engine import Database, database_url
from service.adapters.metadata_signer import load_genesis
from tests.attack.director_device import ConnectedDevice
from tests.attack.drill import APPLICATION, FIRMWARE, Drill, open_drill
from tests.integration.service_updates.update_world import UpdateWorld, running

MORE_SETS = 4


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """A device after a legitimate update."""
    async with open_drill(tmp_path) as opened:
        yield opened


def copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as before, closing(sqlite3.connect(target)) as after:
        before.backup(after)


@asynccontextmanager
async def restored(drill: Drill, backup: Path) -> AsyncIterator[UpdateWorld]:
    """Start the service again, in time's order, on the backup; the device is as it was."""
    folders, keys = drill.world.folders, drill.world.device_keys
    clock, entropy = drill.world.clock, drill.world.entropy
    clock.advance(60)
    database = Database(database_url(f"sqlite:///{backup}"))
    world = UpdateWorld(folders, database, clock, entropy)
    try:
        await world.repository.begin(load_genesis(folders.service))
        await world.transparency.begin()
        await world.feed.start()
        world.feed.subscribe(world.pending.hear)
        await world.pending.load(world.unit_of_work)
        world.device_keys = keys
        drill.world, drill.connection = world, ConnectedDevice(world, drill.device_id)
        async with running(world.manifests):
            yield world
    finally:
        await database.close()


async def test_no_version_falls_after_a_restore(drill: Drill, tmp_path: Path) -> None:
    """Several sets later the copy comes back; the device takes what comes next, and each version of it is higher."""
    backup = tmp_path / "backup.db"
    copy_database(tmp_path / "control.db", backup)
    for _ in range(MORE_SETS):
        drill.world.clock.advance(timedelta(hours=13).total_seconds())
        await drill.world.repository.refresh()
        await drill.check()
    assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED
    before = drill.seen_versions()
    async with restored(drill, backup):
        assert (await drill.check()).targets == ()
        # A second release of the same slots: the backup does not know that the device has the first already.
        assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED
        after = drill.seen_versions()
        online = {role for role in before if role.startswith("director/") or role.endswith(("snapshot", "timestamp"))}
        online -= {"director/root"}
        assert len(online) == len({"targets", "snapshot", "timestamp"}) + len({"snapshot", "timestamp"})
        assert all(after[role] > before[role] for role in online)
        assert all(after[role] >= before[role] for role in before)
        assert await drill.security_events() == []


async def test_set_that_the_backup_holds_is_not_served_again(drill: Drill, tmp_path: Path) -> None:
    """Within half of its lifetime the old set would be current, and below what the device saw."""
    await drill.check()
    backup = tmp_path / "backup.db"
    copy_database(tmp_path / "control.db", backup)
    action_id = await drill.roll_out("second")
    assert await drill.run(action_id) is ActionState.CONFIRMED
    await drill.check()
    before = drill.seen_versions()["director/timestamp"]
    async with restored(drill, backup):
        assert (await drill.check()).targets == ()
        assert drill.seen_versions()["director/timestamp"] > before


async def test_release_since_the_backup_is_published_again(drill: Drill, tmp_path: Path) -> None:
    """The operator's offline signatures are not the service's to renew: until they are back, devices refuse."""
    backup = tmp_path / "backup.db"
    copy_database(tmp_path / "control.db", backup)
    drill.packages["third"] = {slot: drill.image(slot, "4.0.0") for slot in (APPLICATION, FIRMWARE)}
    upload = await drill.world.prepare("third", drill.packages["third"])
    await drill.world.hand_over(upload)
    assert await drill.run(await drill.roll_out("third")) is ActionState.CONFIRMED
    before = drill.seen_versions()
    async with restored(drill, backup) as world:
        action_id = await drill.roll_out("second")
        await drill.assert_refused(action_id, Attack.ROLLBACK, "BadVersionNumberError")
        world.clock.advance(2)
        await world.hand_over(upload)
        await drill.release("fourth", "5.0.0")
        assert await drill.run(await drill.roll_out("fourth")) is ActionState.CONFIRMED
        after = drill.seen_versions()
        assert all(after[role] >= version for role, version in before.items())
