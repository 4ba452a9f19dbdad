"""Reference values: found wherever people list an image, by whichever keys, and only where they signed it."""

from collections.abc import Collection
from datetime import timedelta

import pytest
import structlog
from sqlalchemy import delete, insert, update
from tuf.api.metadata import Targets

from protocol.geometry import Slot
from protocol.signing import SoftwareSigner
from service.adapters.database.supply_chain_tables import metadata_targets
from service.adapters.database.update_tables import image_targets, metadata_files
from service.adapters.metadata_signer import load_genesis
from service.application.listed_images import ListedImages
from service.application.update_repositories import RepositoryName
from service.domain.attestation import ReferenceValue
from tests.integration.service_updates.role_world import People, Team, keys_of
from tests.integration.service_updates.update_world import UpdateWorld

APP = Slot.A7_APPLICATION
NEW = "7" * 64


class _Listed:
    """What one process of the service knows."""

    def __init__(self, world: UpdateWorld) -> None:
        self.world = world
        self.listed = ListedImages(load_genesis(world.folders.service).image_root)

    async def names(self, *digests: str) -> list[str | None]:
        found = await self.find(digests)
        return [found[digest].name if digest in found else None for digest in digests]

    async def find(self, digests: Collection[str]) -> dict[str, ReferenceValue]:
        async with self.world.unit_of_work() as work:
            return dict(await self.listed.find(work, digests))


@pytest.fixture
def listed(world: UpdateWorld) -> _Listed:
    return _Listed(world)


@pytest.fixture
def people(world: UpdateWorld) -> People:
    return People(world)


async def _change(world: UpdateWorld, *statements: object) -> None:
    async with world.database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(statement)  # type: ignore[call-overload]  # any statement


async def test_image_is_found_in_targets_a_teams_role_and_hash_bins(people: People, listed: _Listed) -> None:
    """Also while a process remembers what was before; the value is what the signed target says."""
    roles, world = people.roles, people.world
    first = (await world.release("first")).images[APP].sha256
    assert await listed.names(first, NEW) == ["a7-first@1.0.0", None]
    await roles.publish(await roles.delegate(Team("apps")))
    target = await roles.application("team@1.0.0")
    assert await listed.names(target.hashes["sha256"]) == [None]
    await roles.publish(await roles.add(target))
    assert await listed.names(first, target.hashes["sha256"]) == ["a7-first@1.0.0", "team@1.0.0"]
    await roles.publish(await roles.delegate(without=["apps"], bins=roles.bins()))
    binned = await roles.application("binned@1.0.0")
    await roles.publish(await roles.add(binned))
    digests = [first, target.hashes["sha256"], binned.hashes["sha256"]]
    expected = ["a7-first@1.0.0", "team@1.0.0", "binned@1.0.0"]
    assert await listed.names(*digests) == await _Listed(world).names(*digests) == expected
    value = (await listed.find([first]))[first]
    assert (value.release, value.hardware_ids) == ("first", frozenset({"mt3620-a7"}))


async def test_image_is_found_when_keys_have_changed_and_roles_have_expired(people: People, listed: _Listed) -> None:
    """A new root names another targets key; a year later nothing is fresh, and devices still run what was signed."""
    world, roles = people.world, people.roles
    first = (await world.release("first")).images[APP].sha256
    roles.targets = [SoftwareSigner.generate()]
    root = await people.next({Targets.type: keys_of(*roles.targets)})
    await people.bring(root, people.root, roles=await roles.add(renewed=[Targets.type]))
    assert await listed.names(first) == ["a7-first@1.0.0"]
    world.clock.advance(timedelta(days=800).total_seconds())
    assert await _Listed(world).names(first) == ["a7-first@1.0.0"]


async def test_rows_that_nobody_signed_are_no_reference_values(world: UpdateWorld, listed: _Listed) -> None:
    """A row of an image, its home, the digest of a signed name: the signed file says otherwise."""
    release = await world.release("first")
    name, first = release.images[APP].target, release.images[APP].sha256
    async with world.unit_of_work(read_only=True) as work:
        custom = (await work.metadata.images_at([name]))[name].custom.model_dump(mode="json")
    forged = name.replace("a7/application", "m4-0/firmware")
    row = {"path": forged, "sha256": NEW, "length": 1, "custom": custom, "image_id": None, "since_version": 1}
    await _change(world, insert(image_targets).values(row))
    assert await listed.names(NEW, first) == [None, "a7-first@1.0.0"]
    for role in ("targets", "deltas", "nobody"):
        home = {"path": forged, "role": role, "sha256": NEW, "length": 1}
        await _change(world, delete(metadata_targets).where(metadata_targets.c.path == forged))
        await _change(world, insert(metadata_targets).values(home))
        assert await _Listed(world).names(NEW) == [None]
    await _change(world, delete(image_targets).where(image_targets.c.path == forged))
    await _change(world, update(image_targets).where(image_targets.c.path == name).values(sha256=NEW))
    assert await _Listed(world).names(NEW, first) == [None, None]


async def test_file_that_nobody_signed_lists_nothing(world: UpdateWorld) -> None:
    """The log says why, and what a process has verified before it goes on to believe."""
    first = (await world.release("first")).images[APP].sha256
    before = _Listed(world)
    assert await before.names(first) == ["a7-first@1.0.0"]
    is_targets = (metadata_files.c.repository == "image") & (metadata_files.c.role == "targets")
    async with world.unit_of_work(read_only=True) as work:
        content = (await work.metadata.newest(RepositoryName.IMAGE, ["targets"]))["targets"].content
    spoiled = content.replace(b"a7-first@1.0.0", b"a7-first@9.0.0")
    await _change(world, update(metadata_files).where(is_targets).values(content=spoiled))
    with structlog.testing.capture_logs() as logs:
        assert await _Listed(world).names(first) == [None]
    assert [entry["event"] for entry in logs] == ["listings_refused"]
    assert "expected signatures by 1 of its keys" in logs[0]["detail"]
    assert await before.names(first) == ["a7-first@1.0.0"]
    await _change(world, delete(metadata_files).where(is_targets))
    assert await _Listed(world).names(first) == [None]
