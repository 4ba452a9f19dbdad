"""Attacks on new roots: a legitimate successor, then exactly one thing wrong; nothing in force changes."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from pki.metadata import next_root, targets_metadata
from protocol.signing import SoftwareSigner, tuf_key
from protocol.updates import MAX_ROOT_BYTES
from service.application.metadata_refusals import (
    MetadataExpiredError,
    MetadataFormError,
    MetadataSignatureRefusedError,
    MetadataVersionError,
)
from service.application.repository import OnlineKeyError
from service.application.roots import RootTargetsError
from service.application.update_repositories import RepositoryName
from tests.integration.service_updates.role_world import DIRECTOR_ROLES, People, keys_of
from tests.integration.service_updates.update_world import open_world
from tests.service_folder import make_folders


@pytest.fixture
async def people(tmp_path: Path) -> AsyncIterator[People]:
    async with open_world(make_folders(tmp_path / "init"), f"sqlite:///{tmp_path / 'control.db'}") as world:
        yield People(world)


async def everything(people: People) -> object:
    async with people.world.unit_of_work(read_only=True) as work:
        return await work.metadata.versions(), await work.audit.page(before_id=None, limit=9)


async def assert_refused(
    people: People, root: bytes, by: list[Any], error: type[Exception], match: str, **where: Any
) -> None:
    before = await everything(people)
    with pytest.raises(error, match=match):
        await people.bring(root, by, **where)
    assert await everything(people) == before
    await people.roles.in_force()


@pytest.mark.parametrize("repository", list(RepositoryName))
async def test_root_signed_by_one_side_alone_is_refused(people: People, repository: RepositoryName) -> None:
    """New keys alone would be a takeover, old keys alone a root that cannot be followed; both are right."""
    new = SoftwareSigner.generate()
    root = await people.next({Root.type: keys_of(new)}, repository)
    refused = (MetadataSignatureRefusedError, "root: expected signatures by 1 of its keys")
    await assert_refused(people, root, [new], *refused, repository=repository)
    await assert_refused(people, root, people.root, *refused, repository=repository)
    assert await people.bring(root, [*people.root, new], repository=repository) == 2


async def test_root_of_another_version_is_refused(people: People) -> None:
    """Skipped or replayed."""
    root = Metadata[Root].from_bytes(await people.next({}))
    root.signed.version = 3
    await assert_refused(people, root.to_bytes(), people.root, MetadataVersionError, "expected version 2, found 3")
    root.signed.version = 1
    await assert_refused(people, root.to_bytes(), people.root, MetadataVersionError, "expected version 2, found 1")


async def test_expired_root_is_refused(people: People) -> None:
    """No device would go on with it."""
    past = next_root(await people.current(), {}, expires=people.roles.now - timedelta(seconds=1))
    await assert_refused(people, past, people.root, MetadataExpiredError, "root: expected an expiry after")


@pytest.mark.parametrize("repository", list(RepositoryName))
async def test_root_that_renames_files_is_refused(people: People, repository: RepositoryName) -> None:
    """A consistent snapshot would have devices ask for names that are not served."""
    root = Metadata[Root].from_bytes(await people.next({}, repository))
    root.signed.consistent_snapshot = True
    match = "found a consistent snapshot"
    await assert_refused(people, root.to_bytes(), people.root, MetadataFormError, match, repository=repository)


async def test_threshold_that_nobody_can_meet_is_refused(people: People) -> None:
    """Signed by all there are, it would lock everybody out."""
    root = Metadata[Root].from_bytes(await people.next({}))
    root.signed.roles[Targets.type].threshold = 2
    await assert_refused(people, root.to_bytes(), people.root, MetadataFormError, "a threshold that they can meet")


@pytest.mark.parametrize("role", [Snapshot.type, Timestamp.type])
async def test_online_key_that_the_service_does_not_hold_is_refused(people: People, role: str) -> None:
    """Nothing could be signed any more."""
    root = await people.next({role: keys_of(SoftwareSigner.generate())})
    await assert_refused(people, root, people.root, OnlineKeyError, "expected a key that the service holds")


async def test_directors_key_that_the_service_does_not_hold_is_refused(people: People) -> None:
    """For all three online roles, with one signature."""
    director = RepositoryName.DIRECTOR
    root = await people.next(dict.fromkeys(DIRECTOR_ROLES, keys_of(SoftwareSigner.generate())), director)
    await assert_refused(people, root, people.root, OnlineKeyError, "a key that the service holds", repository=director)
    several = Metadata[Root].from_bytes(await people.next({}, director))
    several.signed.add_key(tuf_key(SoftwareSigner.generate().public_key), Targets.type)
    several.signed.roles[Targets.type].threshold = 2
    content = several.to_bytes()
    await assert_refused(people, content, people.root, OnlineKeyError, "expected a threshold of 1", repository=director)


async def test_director_root_with_files_beside_it_is_refused(people: People) -> None:
    """The Director's other files are made for each device."""
    root = await people.next({}, RepositoryName.DIRECTOR)
    await assert_refused(
        people,
        root,
        people.root,
        MetadataFormError,
        "expected a root alone",
        repository=RepositoryName.DIRECTOR,
        roles={"targets": b"{}"},
    )


async def test_targets_keys_without_the_files_that_they_sign_are_refused(people: People) -> None:
    """Every device would refuse the targets in force."""
    root = await people.next({Targets.type: keys_of(SoftwareSigner.generate())})
    await assert_refused(people, root, people.root, MetadataSignatureRefusedError, "targets: .* found 0")


async def test_root_that_brings_new_targets_is_refused(people: People) -> None:
    """What is released is released by its own name."""
    roles = people.roles
    state = await roles.in_force()
    target = await roles.application("app@1.0.0")
    targets = targets_metadata([target], version=2, expires=roles.expires, delegations=state.targets.delegations)
    await assert_refused(
        people,
        await people.next({}),
        people.root,
        RootTargetsError,
        "expected no new targets beside it",
        roles=roles.sign({"targets": targets}),
    )


@pytest.mark.parametrize("repository", list(RepositoryName))
async def test_root_that_is_longer_than_a_device_reads_is_refused(people: People, repository: RepositoryName) -> None:
    """No device would follow it, and none could be led past it."""
    metadata = Metadata[Root].from_bytes(await people.next({}, repository))
    metadata.signed.unrecognized_fields["x"] = "x" * MAX_ROOT_BYTES
    match = "root: expected at most 65536 bytes, as devices read them"
    content = metadata.to_bytes()
    await assert_refused(people, content, people.root, MetadataFormError, match, repository=repository)


async def test_bytes_that_are_no_root_are_refused(people: People) -> None:
    """Another role's file, and no metadata at all."""
    targets = (await people.world.repository.file(RepositoryName.IMAGE, "targets")).content
    await assert_refused(people, targets, [], MetadataFormError, "root: expected metadata of this role, found targets")
    await assert_refused(people, b"{}", [], MetadataFormError, "root: expected TUF metadata")
