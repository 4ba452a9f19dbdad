"""Delegations, teams, hash bins and patches in force, on both databases: published, followed and looked up."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import delete
from tuf.api.metadata import Metadata, TargetFile, Targets

from pki.metadata import BINS_ROLE, DELTAS_ROLE, content_target
from pki.next_versions import deltas_delegation, next_delegations
from pki.repository import hash_bins
from protocol.geometry import Core, Slot
from protocol.signing import SoftwareSigner
from protocol.updates import delta_target_name
from service.adapters.database.supply_chain_tables import metadata_targets
from service.adapters.metadata_signer import load_genesis
from service.application.metadata_refusals import DelegationRefusedError
from service.application.repository import NoOnlineRoleError
from service.application.repository_status import RepositoryStatus
from service.application.update_repositories import RepositoryName
from service.domain.release import InvalidReleaseError, MetadataRaceError, MissingArtifactError
from tests.integration.service_updates.role_world import Roles, Team
from tests.integration.service_updates.update_world import UpdateWorld, image_target

DAY = 86_400
PATCH = content_target(delta_target_name("a" * 64, "b" * 64), b"patch")


@pytest.fixture
def roles(world: UpdateWorld) -> Roles:
    return Roles(world)


async def roles_of(world: UpdateWorld, *names: str) -> list[str | None]:
    async with world.unit_of_work(read_only=True) as work:
        found = await work.metadata.listed(names)
    return [found[name].role if name in found else None for name in names]


async def patch(world: UpdateWorld, *, added: Sequence[TargetFile] = (), removed: Sequence[str] = ()) -> None:
    async with world.unit_of_work() as work:
        await world.repository.publish_online(work, DELTAS_ROLE, added=added, removed=removed, now=world.clock.now())
        await work.commit()


async def test_team_signs_what_it_is_trusted_with(world: UpdateWorld, roles: Roles) -> None:
    """Two of three sign; the operator's release then names the team's image without signing it again."""
    team = Team("vision", people=[SoftwareSigner.generate() for _ in range(3)], threshold=2)
    assert await roles.publish(await roles.delegate(team)) == {"targets": 2, "vision": 1}
    target = await roles.application("app@1.0.0")
    assert await roles.publish(await roles.add(target)) == {"vision": 2}
    assert (await roles.in_force()).find(target.path) == target
    upload = await world.prepare("second", {Slot.A7_APPLICATION: roles.packages[target.path]})
    upload.targets = [each for each in upload.targets if each.path != target.path]
    release = await world.hand_over(upload)
    assert release.images[Slot.A7_APPLICATION].target == target.path
    assert await roles_of(world, target.path, release.target) == ["vision", "targets"]


async def test_bins_take_what_targets_listed(world: UpdateWorld, roles: Roles) -> None:
    """Release documents stay; every image moves into the bin of its name, and later ones go there at once."""
    release = await world.release("first")
    path = release.images[Slot.A7_APPLICATION].target
    published = await roles.publish(await roles.delegate(bins=roles.bins(bits=2)))
    assert set(published) == {"targets", BINS_ROLE, "bin-0", "bin-1", "bin-2", "bin-3"}
    state = await roles.in_force()
    assert list(state.targets.targets) == [release.target]
    bins = hash_bins(state.delegated[BINS_ROLE])
    assert bins is not None
    target = await roles.application("app@2.0.0")
    await roles.publish(await roles.add(target))
    assert (await roles.in_force()).find(target.path) == target
    expected = [bins.get_role_for_target(path), bins.get_role_for_target(target.path)]
    assert await roles_of(world, path, target.path) == expected


async def test_only_the_bin_that_changes_is_signed_again(roles: Roles) -> None:
    """One new target is one new file, however many bins there are."""
    await roles.publish(await roles.delegate(bins=roles.bins(bits=6)))
    before = await roles.in_force()
    published = await roles.publish(await roles.add(await roles.application("app@1.0.0")))
    assert list(published.values()) == [2]
    changed = {role for role, version in (await roles.in_force()).versions.items() if before.versions[role] != version}
    assert changed == set(published)


async def test_other_number_of_bins_moves_everything(world: UpdateWorld, roles: Roles) -> None:
    """Old bins stay listed in the snapshot, as TUF wants it, and nobody delegates to them."""
    target = await roles.application("app@1.0.0")
    await roles.publish(await roles.delegate(bins=roles.bins(bits=1)))
    await roles.publish(await roles.add(target))
    await roles.publish(await roles.delegate(bins=roles.bins(bits=5)))
    state = await roles.in_force()
    assert state.find(target.path) == target
    assert await roles_of(world, target.path) == [state.role_for(target.path)]
    assert {"bin-0", "bin-1", "bin-00", "bin-1f"} <= state.versions.keys()


async def test_removed_team_leaves_its_targets_to_the_releaser(world: UpdateWorld, roles: Roles) -> None:
    """They move to `targets` in the same publication; the team may come back with the version after its last."""
    team = Team("vision")
    await roles.publish(await roles.delegate(team))
    target = await roles.application("app@1.0.0")
    await roles.publish(await roles.add(target))
    assert await roles.publish(await roles.delegate(without=["vision"])) == {"targets": 3}
    assert await roles_of(world, target.path) == ["targets"]
    assert await roles.publish(await roles.delegate(team)) == {"targets": 4, "vision": 3}
    assert (await roles.in_force()).find(target.path) == target


async def test_team_gets_other_keys(roles: Roles) -> None:
    """Its file is signed again by the keys that count from now on."""
    team = Team("vision")
    await roles.publish(await roles.delegate(team))
    team.people = [SoftwareSigner.generate(), SoftwareSigner.generate()]
    team.threshold = 2
    assert await roles.publish(await roles.delegate(team)) == {"targets": 3, "vision": 2}
    await roles.publish(await roles.add(await roles.application("app@1.0.0")))


async def test_publication_brings_no_release(world: UpdateWorld, roles: Roles) -> None:
    """A release document comes with the name that the operator means; bytes must be here."""
    document = content_target("releases/9-x.json", b"{}")
    await roles.publish(await roles.delegate(Team("vision")))
    with pytest.raises(MissingArtifactError, match="found no artifact"):
        await roles.publish(await roles.add(document))
    upload = await world.prepare("x", {Slot.A7_APPLICATION: world.package("app@1.0.0")})
    for content in upload.contents.values():
        await world.take(content)
    with pytest.raises(InvalidReleaseError, match="expected exactly the new targets"):
        await roles.publish({"targets": world.sign(upload)})


async def test_patches_come_and_go_without_an_operator(world: UpdateWorld, roles: Roles) -> None:
    """The service signs them; only within the paths that targets delegate."""
    before = (await roles.in_force()).versions[DELTAS_ROLE]
    await patch(world, added=[PATCH])
    state = await roles.in_force()
    assert state.find(PATCH.path) == PATCH
    assert state.versions[DELTAS_ROLE] > before
    await patch(world, removed=[PATCH.path, "deltas/x/y"])
    assert (await roles.in_force()).find(PATCH.path) is None
    assert await roles_of(world, PATCH.path) == [None]
    with pytest.raises(DelegationRefusedError, match="expected targets of its own paths, found images/"):
        await patch(world, added=[content_target("images/os/a.img", b"x")])


async def test_of_two_publications_at_once_both_or_one_come_into_force(world: UpdateWorld, roles: Roles) -> None:
    """The other is refused whole, and comes into force when it is tried again."""
    patches = [content_target(delta_target_name(letter * 64, "b" * 64), b"patch") for letter in "acd"]
    answers = await asyncio.gather(*(patch(world, added=[each]) for each in patches), return_exceptions=True)
    refused = [each for each, answer in zip(patches, answers, strict=True) if answer is not None]
    assert all(isinstance(answer, MetadataRaceError) for answer in answers if answer is not None)
    for each in refused:
        await patch(world, added=[each])
    state = await roles.in_force()
    assert [state.find(each.path) for each in patches] == patches


async def test_delegation_of_patches_may_be_withdrawn_and_given_again(world: UpdateWorld, roles: Roles) -> None:
    """As catalogs get it that were made before there were patches."""
    await roles.publish(await roles.delegate(without=[DELTAS_ROLE]))
    with pytest.raises(NoOnlineRoleError, match="expected targets to delegate to it"):
        await patch(world, added=[PATCH])
    state = await roles.in_force()
    files = next_delegations(state, [deltas_delegation(state.root)], expires=roles.expires)
    await roles.publish(roles.sign(files))
    await patch(world, added=[PATCH])
    assert (await roles.in_force()).versions[DELTAS_ROLE] > state.versions[DELTAS_ROLE]


async def test_what_is_signed_online_is_signed_again_in_time(world: UpdateWorld, roles: Roles) -> None:
    """Timestamps at half a day, snapshot and patches at half a week; a device never finds one that is over."""
    first = (await roles.in_force()).versions
    world.clock.advance(DAY / 2)
    assert await world.repository.refresh() == world.clock.now() + timedelta(days=0.5)
    assert (await roles.in_force()).versions == first
    world.clock.advance(3 * DAY)
    await world.repository.refresh()
    state = await roles.in_force()
    assert state.versions[DELTAS_ROLE] > first[DELTAS_ROLE]
    assert await world.repository.refresh() == world.clock.now() + timedelta(days=0.5)


async def test_database_from_before_delegations_learns_its_targets(world: UpdateWorld) -> None:
    """The next start fills the table from the metadata in force."""
    release = await world.release("first")
    async with world.database.transaction(read_only=False) as connection:
        await connection.execute(delete(metadata_targets))
        await connection.commit()
    assert await roles_of(world, release.target) == [None]
    await world.repository.begin(load_genesis(world.folders.service))
    assert await roles_of(world, release.target) == ["targets"]


async def test_status_names_signers_ends_and_warnings(world: UpdateWorld, roles: Roles) -> None:
    """What an operator has to see to, a month before it is over."""
    status = RepositoryStatus(world.unit_of_work, clock=world.clock)
    await roles.publish(await roles.delegate(Team("vision"), bins=roles.bins(bits=3)))
    found = {(each.repository, each.role): each for each in await status.roles()}
    assert {role for name, role in found if name is RepositoryName.IMAGE} == {
        *("root", "targets", "snapshot", "timestamp", "deltas", "vision", "bins", "bin"),
    }
    assert found[RepositoryName.IMAGE, "bin"].files == 8
    vision = found[RepositoryName.IMAGE, "vision"]
    assert (vision.version, vision.threshold, vision.signed_by, vision.warnings) == (1, 1, 1, ())
    assert found[RepositoryName.DIRECTOR, "timestamp"].version is None
    world.clock.advance(171 * DAY)
    late = {(each.repository, each.role): each.warnings for each in await status.roles()}
    assert late[RepositoryName.IMAGE, "vision"] == ("expires in 29 days: sign the next version",)
    assert late[RepositoryName.IMAGE, "bin"] == ("expires in 29 days: sign the next version",)
    assert late[RepositoryName.IMAGE, "timestamp"][0].startswith("expired at")
    assert late[RepositoryName.IMAGE, "root"] == ()


async def test_status_warns_before_targets_are_more_than_a_device_reads(world: UpdateWorld, roles: Roles) -> None:
    """In time to spread them over hash bins."""
    metadata = Metadata[Targets].from_bytes((await roles.delegate())["targets"])
    metadata.signed.unrecognized_fields["x"] = "x" * (3 * 1024 * 1024)
    await roles.publish(roles.sign({"targets": metadata.to_bytes()}))
    found = await RepositoryStatus(world.unit_of_work, clock=world.clock).roles()
    (targets,) = [each for each in found if (each.repository, each.role) == (RepositoryName.IMAGE, "targets")]
    (warning,) = targets.warnings
    assert "of the 4194304 bytes that devices read: spread targets over hash bins" in warning


async def test_golden_vectors_of_one_role_serve_a_model_of_another(world: UpdateWorld, roles: Roles) -> None:
    """A team signs the model; the vectors that it must pass are in force elsewhere."""
    model, golden = world.model("person@1.0.0", Core.M4_0)
    first = await world.hand_over(await world.prepare("first", {Slot.M4_0_MODEL: model}, golden=golden))
    golden_name = next(name for name in (await roles.in_force()).targets.targets if name.startswith("golden/"))
    await roles.publish(await roles.delegate(Team("vision", paths=("images/m4-0/model/*",))))
    better, _ = world.model("person@1.1.0", Core.M4_0)
    await world.take(better)
    target = image_target(world, better, Slot.M4_0_MODEL, golden_name)
    await roles.publish(await roles.add(target))
    assert await roles_of(world, target.path, first.images[Slot.M4_0_MODEL].target) == ["vision", "targets"]
