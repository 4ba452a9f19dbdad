"""Roots of both repositories change: keys come and go, and a device that knows an old root follows step by step."""

import json

import pytest
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from pki.metadata import RoleKeys
from pki.next_versions import bins_of, delegations_of, deltas_delegation, next_delegations
from pki.online import request_metadata_key, requested_key
from pki.repository import verify_root, verify_targets
from pki.roles import OnlineKey
from protocol.signing import Signer, SoftwareSigner, tuf_key
from service.application.update_repositories import MetadataRole, RepositoryName
from tests.answering_roles import next_targets
from tests.integration.service_updates.role_world import DIRECTOR_ROLES, People, Team, keys_of
from tests.integration.service_updates.update_world import UpdateWorld


@pytest.fixture
def people(world: UpdateWorld) -> People:
    return People(world)


async def test_root_keys_change_step_by_step(world: UpdateWorld, people: People) -> None:
    """From one key to two of three, then without the first: each step signed by both sides."""
    first, second, third = people.root[0], SoftwareSigner.generate(), SoftwareSigner.generate()
    wider = await people.next({Root.type: keys_of(first, second, third, threshold=2)})
    assert await people.bring(wider, [first, second]) == 2
    without = await people.next({Root.type: keys_of(second, third, threshold=2)})
    assert await people.bring(without, [second, third]) == 3
    state = await people.roles.in_force()
    assert (state.root.version, state.root.roles[Root.type].threshold) == (3, 2)
    async with world.unit_of_work(read_only=True) as work:
        entries = [
            entry
            for entry in await work.audit.page(before_id=None, limit=9)
            if entry.change.action == "repository.root"
        ]
    assert len(entries) == 2
    assert "root_keys: 2 of" in entries[0].change.detail


async def test_targets_keys_change_with_the_files_that_they_sign(world: UpdateWorld, people: People) -> None:
    """Targets, bins and every bin come with the root: no device ever sees one without the others."""
    roles = people.roles
    await world.release("first")
    await roles.publish(await roles.delegate(Team("vision"), bins=roles.bins(bits=1)))
    new: list[Signer] = [SoftwareSigner.generate(), SoftwareSigner.generate()]
    root = await people.next({Targets.type: keys_of(*new, threshold=2)})
    state = await roles.in_force()
    roles.targets = new
    bins = roles.bins(bits=1)
    keys = RoleKeys(bins.keys.keys, 2)
    files = next_delegations(state, delegations_of(state.targets), bins=type(bins)(keys, 1), expires=roles.expires)
    assert set(files) == {"targets", "bins", "bin-0", "bin-1"}
    assert await people.bring(root, people.root, roles=roles.sign(files)) == 2
    assert (await roles.in_force()).root.roles[Targets.type].threshold == 2
    await roles.publish(await roles.add(await roles.application("app@2.0.0")))


async def test_image_targets_renewed_by_a_second_key_need_no_file_beside_the_root(people: People) -> None:
    """A key more, the threshold as it was: what is in force holds."""
    roles = people.roles
    more = keys_of(*roles.targets, SoftwareSigner.generate())
    assert await people.bring(await people.next({Targets.type: more}), people.root) == 2
    files = next_targets(await roles.in_force(), [], expires=roles.expires, renewed=["targets"])
    assert await roles.publish(roles.sign(files)) == {"targets": 2}


async def test_timestamp_key_is_replaced_while_the_service_runs(world: UpdateWorld, people: People) -> None:
    """The service makes it; from the root on it signs, and the stolen one is worth nothing."""
    name = request_metadata_key(world.folders.service, OnlineKey.TIMESTAMP)
    new = requested_key(world.folders.service, name)
    before = await people.roles.in_force()
    root = await people.next({Timestamp.type: RoleKeys((new,))})
    assert await people.bring(root, people.root) == 2
    state = await people.roles.in_force()
    assert state.root.roles[Timestamp.type].keyids == [tuf_key(new).keyid]
    assert state.versions == before.versions
    await world.repository.refresh()


async def test_snapshot_key_is_replaced_with_the_delegation_of_patches(world: UpdateWorld, people: People) -> None:
    """It signs both; the operator signs the delegation, the service its patches again."""
    roles = people.roles
    name = request_metadata_key(world.folders.service, OnlineKey.SNAPSHOT)
    root = await people.next({Snapshot.type: RoleKeys((requested_key(world.folders.service, name),))})
    state = await roles.in_force()
    patches = deltas_delegation(Metadata[Root].from_bytes(root).signed)
    files = roles.sign(next_delegations(state, [patches], bins=bins_of(state), expires=roles.expires))
    assert await people.bring(root, people.root, roles=files) == 2
    after = await roles.in_force()
    assert after.versions["deltas"] == state.versions["deltas"] + 1


async def test_director_key_changes_and_every_set_is_signed_again(world: UpdateWorld, people: People) -> None:
    """A cached set of the old key is not served once the root names another; versions still rise."""
    device = await world.add_device()
    before = json.loads(await world.director.timestamp(device))
    assert json.loads(await world.director.timestamp(device)) == before
    name = request_metadata_key(world.folders.service, OnlineKey.DIRECTOR)
    new = RoleKeys((requested_key(world.folders.service, name),))
    first = (await world.repository.file(RepositoryName.DIRECTOR, MetadataRole.ROOT)).content
    root = await people.next(dict.fromkeys(DIRECTOR_ROLES, new), RepositoryName.DIRECTOR)
    assert await people.bring(root, people.root, repository=RepositoryName.DIRECTOR) == 2
    second = (await world.repository.file(RepositoryName.DIRECTOR, MetadataRole.ROOT, version=2)).content
    world.clock.advance(1)
    after = json.loads(await world.director.timestamp(device))
    assert after["signed"]["version"] > before["signed"]["version"]
    now = world.clock.now()
    targets = await world.director.file(device, "targets")
    verify_targets(targets, root=verify_root(first, newer=[second], now=now), now=now)
    async with world.unit_of_work(read_only=True) as work:
        changes = [(each.event.subject_id, each.event.change) for each in await work.events.after(0)]
    assert ("director-repository", "root-changed") in changes
