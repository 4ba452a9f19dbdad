"""Publications that overlap: each comes into force after the one before it, and the snapshot lists all of them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from tuf.api.metadata import Metadata, Snapshot

from pki.metadata import DELTAS_ROLE, content_target
from protocol.geometry import Slot
from protocol.image import digest_of
from service.adapters.database.engine import Database, database_url
from service.adapters.metadata_signer import load_genesis
from service.adapters.patch_process import make_patch
from service.application.delta_repository import DeltaState
from service.application.deltas import DeltaMaker, DeltaPolicy, DeltaPorts, DeltaQueue
from service.application.publication import Publication
from service.application.releases import Releases
from service.application.repository import KEPT_VERSIONS, ImageRepository
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import MetadataFile, MetadataRole, RepositoryName
from tests.databases import postgresql_url
from tests.integration.service_updates.role_world import People, Roles, Team
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld, open_world
from tests.service_folder import make_folders

__all__ = ["postgresql_url"]

PATCH = content_target(f"deltas/{'a' * 64}/{'b' * 64}.delta", b"patch")
ADVISORY_WAITS = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


class Gate:
    """A listener that keeps its publication's transaction open."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()

    async def published(self, _work: UnitOfWork, _publication: Publication, *, now: object) -> None:
        assert now
        self.reached.set()
        await self.go.wait()


@pytest.fixture
async def postgresql_world(postgresql_url: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    async with open_world(make_folders(tmp_path / "init"), postgresql_url) as opened:
        yield opened


@pytest.fixture
async def other(postgresql_world: UpdateWorld, postgresql_url: str) -> AsyncIterator[UpdateWorld]:
    """Another process on the same database, whose clock shows the next second."""
    database = Database(database_url(postgresql_url))
    world = UpdateWorld(postgresql_world.folders, database)
    world.clock.time = postgresql_world.clock.time + timedelta(seconds=1)
    yield world
    await database.close()


async def waits_for_a_lock(world: UpdateWorld) -> None:
    async with asyncio.timeout(30), world.database.engine.connect() as connection:
        while not await connection.scalar(ADVISORY_WAITS):
            pass


async def listed_versions(world: UpdateWorld) -> dict[str, int]:
    snapshot = await world.repository.file(RepositoryName.IMAGE, MetadataRole.SNAPSHOT)
    meta = Metadata[Snapshot].from_bytes(snapshot.content).signed.meta
    return {name.removesuffix(".json"): file.version for name, file in meta.items()}


async def publish_patch(world: UpdateWorld) -> None:
    async with world.unit_of_work() as work:
        await world.repository.publish_online(work, DELTAS_ROLE, added=[PATCH], removed=(), now=world.clock.now())
        await work.commit()


async def publish_targets(world: UpdateWorld) -> None:
    roles = Roles(world)
    await roles.publish(await roles.add(renewed=["targets"]))


async def change_root(world: UpdateWorld) -> None:
    people = People(world)
    await people.bring(await people.next({}), people.root)


async def start_again(world: UpdateWorld) -> None:
    await world.repository.begin(load_genesis(world.folders.service))


async def refresh_later(world: UpdateWorld) -> None:
    world.clock.advance(5 * 86_400)
    await world.repository.refresh()


@pytest.mark.parametrize("second", [publish_patch, publish_targets, change_root, start_again, refresh_later])
async def test_second_publication_waits_and_keeps_the_first(
    postgresql_world: UpdateWorld, other: UpdateWorld, second: object
) -> None:
    """What the first brought is in the snapshot of the second, in whatever second of time that is signed."""
    world, roles, gate = postgresql_world, Roles(postgresql_world), Gate()
    await roles.publish(await roles.delegate(Team("vision")))
    gated = ImageRepository(world.unit_of_work, metadata=world.metadata, clock=world.clock, listeners=(gate,))
    releases = Releases(world.unit_of_work, repository=gated, clock=world.clock, entropy=world.entropy)
    files = await roles.add(renewed=["vision"])
    async with asyncio.TaskGroup() as group:
        group.create_task(releases.publish(RELEASER, files))
        await gate.reached.wait()
        group.create_task(second(other))  # type: ignore[operator]  # one of the functions above
        await waits_for_a_lock(world)
        gate.go.set()
    assert (await listed_versions(world))["vision"] == 2
    world.clock.time = other.clock.time
    assert (await roles.in_force()).versions["vision"] == 2


class PatchesHere:
    """Makes patches in this process."""

    async def make(self, old: bytes, new: bytes) -> bytes:
        return make_patch(old, new)


async def test_publication_and_settlement_at_once_both_come_to_their_end(
    postgresql_world: UpdateWorld, other: UpdateWorld
) -> None:
    """A publication queues patches and holds the repository; the maker that settles one waits, and locks nothing."""
    world, gate = postgresql_world, Gate()
    package = await _queued_patch(world)
    ports = DeltaPorts(
        other.unit_of_work, other.repository, other.store, PatchesHere(), other.clock, is_leader=lambda: True
    )
    gated = ImageRepository(
        world.unit_of_work, metadata=world.metadata, clock=world.clock, listeners=(gate, DeltaQueue(DeltaPolicy()))
    )
    releases = Releases(world.unit_of_work, repository=gated, clock=world.clock, entropy=world.entropy)
    third = await world.prepare("third", {Slot.A7_APPLICATION: package})
    for content in third.contents.values():
        await world.take(content)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(
            releases.create(
                RELEASER,
                name="third",
                unverified={"targets": world.sign(third)},
                release_target=third.release_target,
            )
        )
        await gate.reached.wait()
        made = group.create_task(DeltaMaker(ports, DeltaPolicy()).work())
        await waits_for_a_lock(world)
        gate.go.set()
    assert made.result()
    async with world.unit_of_work(read_only=True) as work:
        states = [delta.state for delta in await work.deltas.page(after=("", ""), limit=10)]
    assert sorted(states) == [DeltaState.OFFERED, DeltaState.QUEUED]


async def _queued_patch(world: UpdateWorld) -> bytes:
    """Release two applications that are alike, the first on a device; return a third."""
    packages = [world.package(f"app@{number}.0.0", payload=bytes(5000) + bytes([number])) for number in (1, 2, 3)]
    for name, package in zip(("first", "second"), packages, strict=False):
        await world.hand_over(await world.prepare(name, {Slot.A7_APPLICATION: package}))
        if name == "first":
            device = await world.add_device()
            async with world.unit_of_work() as work:
                await work.installed.put(device, {Slot.A7_APPLICATION: digest_of(package)}, at=world.clock.now())
                await work.commit()
    return packages[2]


async def test_snapshot_heals_what_an_earlier_one_missed(world: UpdateWorld) -> None:
    """A file that is in force and was never listed stands in the next snapshot."""
    roles = Roles(world)
    await roles.publish(await roles.delegate(Team("vision")))
    files = await roles.add(renewed=["vision"])
    missed = MetadataFile(RepositoryName.IMAGE, "vision", 2, files["vision"], roles.expires)
    async with world.unit_of_work() as work:
        await work.metadata.put(missed, at=world.clock.now())
        await work.commit()
    assert (await listed_versions(world))["vision"] == 1
    await refresh_later(world)
    assert (await roles.in_force()).versions["vision"] == 2


async def test_old_versions_of_a_role_are_dropped(world: UpdateWorld) -> None:
    """The last ones stay, and every root does."""
    roles, people = Roles(world), People(world)
    await change_root(world)
    for _ in range(KEPT_VERSIONS):
        await roles.publish(await roles.add(renewed=["targets"]))
    async with world.unit_of_work(read_only=True) as work:
        found = [await work.metadata.find(RepositoryName.IMAGE, "targets", version=version) for version in (1, 2)]
        first_root = await work.metadata.find(RepositoryName.IMAGE, "root", version=1)
    assert [file is not None for file in found] == [False, True]
    assert first_root is not None
    assert (await people.current()).version == 2
