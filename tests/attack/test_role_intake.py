"""Attacks on what the service takes of delegated roles: a legitimate team and bins, then exactly one thing wrong.

After each refusal every file in force, and which role lists what, is as it was.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from pki.metadata import (
    BINS_ROLE,
    DELTAS_ROLE,
    Delegation,
    RoleKeys,
    bin_delegations,
    role_delegations,
    targets_metadata,
)
from pki.next_versions import delegations_of, next_delegations
from pki.repository import hash_bins
from protocol.geometry import ImageKind, Slot
from protocol.signing import SoftwareSigner, tuf_key
from protocol.updates import MAX_TARGETS_BYTES
from service.application.metadata_refusals import (
    DelegationRefusedError,
    MetadataFormError,
    MetadataSignatureRefusedError,
    MetadataVersionError,
)
from service.application.repository import OnlineKeyError
from service.application.role_changes import RoleNameError, TwoRolesError, UnreachableTargetError
from service.domain.release import ImageListedError, TargetChangedError
from tests.answering_roles import next_targets
from tests.integration.service_updates.role_world import APPLICATIONS, Roles, Team
from tests.integration.service_updates.update_world import UpdateWorld, image_target, open_world
from tests.service_folder import make_folders


@pytest.fixture
async def roles(tmp_path: Path) -> AsyncIterator[Roles]:
    """Two of three of `vision` sign applications; they have signed one."""
    async with open_world(make_folders(tmp_path / "init"), f"sqlite:///{tmp_path / 'control.db'}") as world:
        opened = Roles(world)
        people = [SoftwareSigner.generate() for _ in range(3)]
        await opened.publish(await opened.delegate(Team("vision", people=people, threshold=2)))
        await opened.publish(await opened.add(await opened.application("app@1.0.0")))
        yield opened


async def everything(world: UpdateWorld) -> object:
    async with world.unit_of_work(read_only=True) as work:
        return await work.metadata.versions(), await work.metadata.all_listed(after_path="", limit=100)


async def assert_refused(roles: Roles, files: Mapping[str, bytes], error: type[Exception], match: str) -> None:
    before = await everything(roles.world)
    with pytest.raises(error, match=match):
        await roles.publish(files)
    assert await everything(roles.world) == before
    await roles.in_force()


async def next_vision(roles: Roles, **changes: object) -> bytes:
    """The team's next version with one more application, unsigned."""
    state = await roles.in_force()
    current = state.delegated["vision"]
    target = await roles.application("app@2.0.0")
    arguments = {"version": current.version + 1, "expires": roles.expires} | changes
    return targets_metadata([*current.targets.values(), target], **arguments)  # type: ignore[arg-type]


async def test_too_few_of_a_team_are_refused(roles: Roles) -> None:
    """One of the three is not two of them; two are."""
    unsigned = await next_vision(roles)
    one = roles.sign_role("vision", unsigned, by=roles.teams["vision"].people[:1])
    await assert_refused(roles, {"vision": one}, MetadataSignatureRefusedError, "expected signatures by 2 .* found 1")
    assert await roles.publish({"vision": roles.sign_role("vision", unsigned)}) == {"vision": 3}


async def test_more_targets_than_a_device_reads_are_refused(roles: Roles) -> None:
    """The file would be in force for good, as no target may vanish; every device would take it for endless data."""
    files = {**await roles.delegate(), "vision": await next_vision(roles)}
    for role in ("targets", "vision"):
        metadata = Metadata[Targets].from_bytes(files[role])
        metadata.signed.unrecognized_fields["x"] = "x" * MAX_TARGETS_BYTES
        signed = {role: roles.sign_role(role, metadata.to_bytes())}
        await assert_refused(roles, signed, MetadataFormError, "expected at most 4194304 bytes, as devices read them")


async def test_one_key_that_signs_twice_is_refused(roles: Roles) -> None:
    """Two signatures under one key id are no threshold."""
    signed = json.loads(roles.sign_role("vision", await next_vision(roles), by=roles.teams["vision"].people[:1]))
    signed["signatures"] *= 2
    content = json.dumps(signed).encode()
    await assert_refused(roles, {"vision": content}, MetadataFormError, "expected TUF metadata")


async def test_one_key_under_two_names_is_refused(roles: Roles) -> None:
    """A delegation whose threshold one person could meet alone does not come into force."""
    state = await roles.in_force()
    person = SoftwareSigner.generate()
    key = tuf_key(person.public_key)
    alias = type(key)("ab" * 32, key.keytype, key.scheme, key.keyval)
    role = DelegatedRole("audio", [key.keyid, alias.keyid], 2, terminating=True, paths=list(APPLICATIONS))
    known = state.targets.delegations
    assert known is not None
    assert known.roles is not None
    twice = Delegations({**known.keys, key.keyid: key, alias.keyid: alias}, {**known.roles, "audio": role})
    files = next_delegations(state, delegations_of(state.targets), expires=roles.expires)
    unsigned = targets_metadata(state.targets.targets.values(), version=3, expires=roles.expires, delegations=twice)
    signed = roles.sign({**files, "targets": unsigned})
    await assert_refused(roles, signed, MetadataFormError, "expected 2 different keys of audio")


async def test_team_outside_its_paths_is_refused(roles: Roles) -> None:
    """It may sign applications, and no firmware."""
    state = await roles.in_force()
    target = await roles.application("app@2.0.0")
    stolen = moved_to("images/m4-0/firmware/", target)
    unsigned = targets_metadata([*state.delegated["vision"].targets.values(), stolen], version=3, expires=roles.expires)
    files = {"vision": roles.sign_role("vision", unsigned)}
    await assert_refused(
        roles, files, DelegationRefusedError, "vision: expected targets of its own paths, found images/m4"
    )


async def test_team_key_that_was_removed_is_refused(roles: Roles) -> None:
    """Who has left the team signs nothing any more, not even with another who has."""
    team = roles.teams["vision"]
    gone, team.people = team.people[:2], [team.people[2], SoftwareSigner.generate()]
    await roles.publish(await roles.delegate(team))
    signed = roles.sign_role("vision", await next_vision(roles), by=gone)
    await assert_refused(roles, {"vision": signed}, MetadataSignatureRefusedError, "found 0")


async def test_removed_key_must_not_stay_on_a_file_in_force(roles: Roles) -> None:
    """Devices would refuse the file that the old keys signed: new keys bring a new file."""
    team = roles.teams["vision"]
    team.people = [SoftwareSigner.generate(), SoftwareSigner.generate()]
    files = await roles.delegate(team)
    await assert_refused(roles, {"targets": files["targets"]}, MetadataSignatureRefusedError, "vision: .* found 0")


async def test_removed_team_is_refused(roles: Roles) -> None:
    """A role that nobody delegates to any more has no say."""
    unsigned = await next_vision(roles)
    await roles.publish(await roles.delegate(without=["vision"]))
    signed = {"vision": roles.sign_role("vision", unsigned)}
    await assert_refused(roles, signed, DelegationRefusedError, "expected a role that targets delegates to, found none")


async def test_bin_with_a_foreign_target_is_refused(roles: Roles) -> None:
    """A device would look for the name in another bin."""
    await roles.publish(await roles.delegate(without=["vision"]))
    await roles.publish(await roles.delegate(bins=roles.bins(bits=1)))
    state = await roles.in_force()
    target = await roles.application("app@2.0.0")
    foreign = {"bin-0": "bin-1", "bin-1": "bin-0"}[state.role_for(target.path)]
    listed = [*state.delegated[foreign].targets.values(), target]
    version = state.versions[foreign] + 1
    files = roles.sign({foreign: targets_metadata(listed, version=version, expires=roles.expires)})
    await assert_refused(roles, files, DelegationRefusedError, "expected targets of its own paths")


@pytest.mark.parametrize("version", [1, 2, 4])
async def test_version_that_is_not_the_next_is_refused(roles: Roles, version: int) -> None:
    """Replayed or skipped: each role's version follows its own last one."""
    files = {"vision": roles.sign_role("vision", await next_vision(roles, version=version))}
    await assert_refused(roles, files, MetadataVersionError, f"vision: expected version 3, found {version}")


async def test_mix_of_old_and_new_roles_is_refused(roles: Roles) -> None:
    """New delegations with the files from before, or the files without their delegations: both or none."""
    team = Team("audio", paths=("images/m4-1/model/*",))
    files = await roles.delegate(team)
    await assert_refused(roles, {"targets": files["targets"]}, RoleNameError, "audio: expected its file beside")
    await assert_refused(roles, {"audio": files["audio"]}, DelegationRefusedError, "audio: expected a role")
    bins = await roles.delegate(bins=roles.bins(bits=1))
    without = {role: content for role, content in bins.items() if role != "bin-1"}
    await assert_refused(roles, without, RoleNameError, "bin-1: expected its file beside")
    await assert_refused(roles, {"targets": bins["targets"]}, MetadataFormError, "bins: expected its metadata")


async def test_name_in_two_roles_is_refused(roles: Roles) -> None:
    """In one publication, or after another role listed it."""
    state = await roles.in_force()
    known = next(iter(state.delegated["vision"].targets.values()))
    twice = targets_metadata([known], version=3, expires=roles.expires, delegations=state.targets.delegations)
    files = roles.sign({"targets": twice})
    await assert_refused(roles, files, TwoRolesError, "expected one role to list it, found vision and targets")
    target = await roles.application("app@2.0.0")
    both = next_targets(state, [target], expires=roles.expires)
    both["targets"] = targets_metadata(
        [target], version=3, expires=roles.expires, delegations=state.targets.delegations
    )
    await assert_refused(roles, roles.sign(both), TwoRolesError, "found targets and vision")


async def test_target_that_vanishes_with_its_team_is_refused(roles: Roles) -> None:
    """Whoever takes a delegation away takes over what it listed."""
    state = await roles.in_force()
    remaining = role_delegations([each for each in delegations_of(state.targets) if each.name != "vision"])
    files = roles.sign({"targets": targets_metadata([], version=3, expires=roles.expires, delegations=remaining)})
    await assert_refused(roles, files, TargetChangedError, "expected it as it is in force, found none")


async def test_target_that_changes_while_it_moves_is_refused(roles: Roles) -> None:
    """The name is taken over with its hash and its custom metadata, or not at all."""
    files = {
        role: Metadata[Targets].from_bytes(each) for role, each in (await roles.delegate(without=["vision"])).items()
    }
    target = next(iter(files["targets"].signed.targets.values()))
    target.unrecognized_fields["custom"] = {**target.custom, "security_counter": 0}
    unsigned = targets_metadata(
        [target], version=3, expires=roles.expires, delegations=files["targets"].signed.delegations
    )
    await assert_refused(roles, roles.sign({"targets": unsigned}), TargetChangedError, "found another content")


async def test_team_that_drops_or_changes_its_own_target_is_refused(roles: Roles) -> None:
    """What devices run stays listed as it is, whoever signed it."""
    empty = targets_metadata([], version=3, expires=roles.expires)
    await assert_refused(roles, roles.sign({"vision": empty}), TargetChangedError, "in force, found none")
    known = next(iter((await roles.in_force()).delegated["vision"].targets.values()))
    known.length += 1
    other = targets_metadata([known], version=3, expires=roles.expires)
    await assert_refused(roles, roles.sign({"vision": other}), TargetChangedError, "found another content")


async def test_delegation_that_hides_targets_is_refused(roles: Roles) -> None:
    """A role that is asked first would keep devices from finding what another lists."""
    state = await roles.in_force()
    shadow = Team("audio")
    roles.teams["audio"] = shadow
    ordered = [shadow.delegation, *delegations_of(state.targets)]
    targets = targets_metadata(
        state.targets.targets.values(), version=3, expires=roles.expires, delegations=role_delegations(ordered)
    )
    files = roles.sign({"targets": targets, "audio": targets_metadata([], version=1, expires=roles.expires)})
    await assert_refused(roles, files, UnreachableTargetError, "expected it in the role that a device asks, audio")


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("root", RoleNameError, "found 'root'"),
        ("snapshot", RoleNameError, "found 'snapshot'"),
        ("../vision", RoleNameError, "expected targets or a delegated role"),
        (DELTAS_ROLE, DelegationRefusedError, "expected files by the service alone"),
        ("unknown", DelegationRefusedError, "expected a role that targets delegates to"),
        ("bin-0", DelegationRefusedError, "expected a role that targets delegates to"),
    ],
)
async def test_role_that_is_not_an_operators_is_refused(
    roles: Roles, name: str, error: type[Exception], match: str
) -> None:
    """Roots have a way of their own, online roles are the service's, others do not exist."""
    content = roles.sign_role("vision", targets_metadata([], version=1, expires=roles.expires))
    await assert_refused(roles, {name: content}, error, match)


async def test_patches_by_a_key_that_the_service_does_not_hold_are_refused(roles: Roles) -> None:
    """The delegation would name somebody else's key for what the service signs."""
    state = await roles.in_force()
    others = [each for each in delegations_of(state.targets) if each.name != DELTAS_ROLE]
    foreign = Delegation(DELTAS_ROLE, (SoftwareSigner.generate().public_key,), 1, ("deltas/*/*",))
    files = roles.sign(next_delegations(state, [*others, foreign], expires=roles.expires))
    await assert_refused(roles, files, OnlineKeyError, "expected a key that the service holds")


async def test_delegations_of_another_form_are_refused(roles: Roles) -> None:
    """Bins below targets, a team that delegates further, a team with the name of a bin, one that does not terminate."""
    state = await roles.in_force()
    keys = RoleKeys((SoftwareSigner.generate().public_key,))

    def targets(delegations: Delegations) -> dict[str, bytes]:
        listed = state.targets.targets.values()
        return roles.sign(
            {"targets": targets_metadata(listed, version=3, expires=roles.expires, delegations=delegations)}
        )

    bins = bin_delegations(keys, bits=1)
    await assert_refused(roles, targets(bins), DelegationRefusedError, "expected hash bins below bins")
    named = role_delegations([Delegation("bin-7", keys.keys, 1, APPLICATIONS)])
    await assert_refused(roles, targets(named), DelegationRefusedError, "not beginning with bin-")
    further = targets_metadata([], version=3, expires=roles.expires, delegations=bins)
    await assert_refused(roles, roles.sign({"vision": further}), DelegationRefusedError, "by bins alone, found others")
    open_end = role_delegations([replace(each) for each in delegations_of(state.targets)])
    assert open_end.roles is not None
    open_end.roles["vision"].terminating = False
    await assert_refused(roles, targets(open_end), DelegationRefusedError, "expected vision to be terminating")


async def test_publication_that_is_repeated_is_refused(roles: Roles) -> None:
    """What is in force does not come into force again."""
    files = await roles.add(await roles.application("app@2.0.0"))
    await roles.publish(files)
    await assert_refused(roles, files, MetadataVersionError, "vision: expected version 4, found 3")


async def test_image_for_a_second_slot_is_refused(roles: Roles) -> None:
    """Its id is in force under another name: nobody could say which of them a device is to run."""
    world = roles.world
    package = world.package("runtime@1.0.0", ImageKind.FIRMWARE)
    await world.take(package)
    first, second = (image_target(world, package, slot, None) for slot in (Slot.M4_0_FIRMWARE, Slot.M4_1_FIRMWARE))
    await roles.publish(await roles.add(first))
    await assert_refused(roles, await roles.add(second), ImageListedError, "expected ids that no target has")


async def test_bins_by_too_few_are_refused(roles: Roles) -> None:
    """Every bin needs the signatures that `bins` asks for."""
    files = await roles.delegate(bins=roles.bins(bits=1))
    bins = hash_bins(Metadata[Targets].from_bytes(files[BINS_ROLE]).signed)
    assert bins is not None
    unsigned = json.loads(files["bin-1"])
    unsigned["signatures"] = []
    await assert_refused(
        roles, {**files, "bin-1": json.dumps(unsigned).encode()}, MetadataSignatureRefusedError, "bin-1: .* found 0"
    )


def moved_to(prefix: str, target: TargetFile) -> TargetFile:
    name = prefix + target.path.rpartition("/")[2]
    return TargetFile(target.length, target.hashes, name, target.unrecognized_fields)
