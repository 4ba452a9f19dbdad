"""Drill: one of several Image targets keys is stolen, or a team's key; and every online key besides."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from pki.metadata import (
    Delegation,
    RoleKeys,
    add_signature,
    content_target,
    listed_file,
    next_root,
    role_delegations,
    sign_targets,
    targets_metadata,
)
from pki.roles import OfflineKey
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.messages import ActionState, Attack
from protocol.signing import SoftwareSigner
from protocol.updates import image_target_name
from service.application.metadata_refusals import DelegationRefusedError, MetadataSignatureRefusedError
from service.application.roots import Roots
from service.application.update_repositories import MetadataRole, RepositoryName
from service.domain.operator import Actor, Role
from tests.attack.drill import APPLICATION, FIRMWARE, Drill, open_drill
from tests.attack.online_thief import Thief
from tests.integration.service_updates.update_world import RELEASER, image_target
from tests.unit.device_update.update_builder import info_of

ADMIN = Actor("admin", Role.ADMIN)
TEAM = "motors"
TEAM_PATHS = ("images/m4-0/firmware/*",)


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """A device after a legitimate update, and a service that rolls out the next one."""
    async with open_drill(tmp_path) as opened:
        yield opened


async def in_force(drill: Drill, role: MetadataRole) -> bytes:
    return (await drill.world.repository.file(RepositoryName.IMAGE, role)).content


async def targets_in_force(drill: Drill) -> Targets:
    return Metadata[Targets].from_bytes(await in_force(drill, MetadataRole.TARGETS)).signed


async def ask_for_two_of_three(drill: Drill) -> list[SoftwareSigner]:
    """Have the operator's people hold three Image targets keys, of which two must sign; returns the two new ones."""
    world = drill.world
    new = [SoftwareSigner.generate() for _ in range(2)]
    own = world.keys.load(OfflineKey.IMAGE_TARGETS)
    keys = RoleKeys((own.public_key, *(each.public_key for each in new)), 2)
    current = Metadata[Root].from_bytes(await in_force(drill, MetadataRole.ROOT)).signed
    root = next_root(current, {"targets": keys}, expires=world.clock.now() + timedelta(days=365))
    targets = await targets_in_force(drill)
    again = targets_metadata(
        targets.targets.values(),
        version=targets.version + 1,
        expires=world.clock.now() + timedelta(days=30),
        delegations=targets.delegations,
    )
    signed = add_signature(add_signature(again, own), new[0])
    roots = Roots(world.unit_of_work, repository=world.repository, keys=world.metadata, clock=world.clock)
    await roots.change(
        ADMIN,
        RepositoryName.IMAGE,
        unverified=add_signature(root, world.keys.load(OfflineKey.ROOT)),
        unverified_roles={"targets": signed},
    )
    return new


async def forged_targets(drill: Drill, signer: SoftwareSigner) -> tuple[bytes, int]:
    """Targets that list the thief's bytes for the application of `second`, by the key that he has."""
    targets = await targets_in_force(drill)
    name = (await drill.world.releases.get("second")).images[APPLICATION].target
    package = drill.image(APPLICATION, "6.6.6", key=SoftwareSigner.generate())
    drill.serve(package)
    listed = {**targets.targets, name: content_target(name, package, targets.targets[name].custom)}
    version, expires = targets.version + 1, drill.world.clock.now() + timedelta(days=30)
    unsigned = targets_metadata(listed.values(), version=version, expires=expires, delegations=targets.delegations)
    return add_signature(unsigned, signer), version


async def test_device_follows_a_higher_threshold(drill: Drill) -> None:
    """The legitimate half: two people sign, and devices go on."""
    await ask_for_two_of_three(drill)
    assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED


async def test_one_stolen_targets_key_of_three_brings_nothing(drill: Drill) -> None:
    """The service refuses his targets, and so does the device, to which he goes past the service."""
    _, stolen = await ask_for_two_of_three(drill)
    action_id = await drill.roll_out("second")
    forged, version = await forged_targets(drill, stolen)
    with pytest.raises(MetadataSignatureRefusedError, match="expected signatures by 2 of its keys"):
        await drill.world.releases.publish(RELEASER, {"targets": forged})
    thief = Thief(drill)
    thief.put("targets", forged)
    thief.snapshot({**await thief.roles(), "targets": listed_file(forged, version=version)})
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "UnsignedMetadataError")


async def delegate(drill: Drill, team: SoftwareSigner, listed: list[TargetFile]) -> None:
    """Have the operator let a team sign the firmware of one core, and the team list some."""
    world = drill.world
    targets, expires = await targets_in_force(drill), drill.world.clock.now() + timedelta(days=30)
    delegations = role_delegations([Delegation(TEAM, (team.public_key,), 1, TEAM_PATHS)])
    if targets.delegations is not None and targets.delegations.roles is not None:
        delegations.keys |= targets.delegations.keys
        assert delegations.roles is not None
        delegations.roles |= targets.delegations.roles
    top = sign_targets(
        [target for target in targets.targets.values() if not target.path.startswith(f"images/{FIRMWARE}/")],
        world.keys.load(OfflineKey.IMAGE_TARGETS),
        version=targets.version + 1,
        expires=expires,
        delegations=delegations,
    )
    moved = [target for target in targets.targets.values() if target.path.startswith(f"images/{FIRMWARE}/")]
    role = sign_targets([*moved, *listed], team, version=1, expires=expires)
    await world.releases.publish(RELEASER, {"targets": top, TEAM: role})


async def test_team_signs_the_firmware_of_its_core(drill: Drill) -> None:
    """The legitimate half: what the team lists is installed."""
    await delegate(drill, SoftwareSigner.generate(), [])
    assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED


@pytest.mark.parametrize("slot", [APPLICATION, Slot.M4_1_FIRMWARE], ids=str)
async def test_stolen_team_key_does_not_reach_beyond_its_core(drill: Drill, slot: Slot) -> None:
    """With every online key besides: an image of another core, under the name of that core."""
    team = SoftwareSigner.generate()
    await delegate(drill, team, [])
    action_id = await drill.roll_out("second")
    release = await drill.world.releases.get("second")
    package = drill.image(slot, "6.6.6")  # even one that the operator's package key has signed
    own = image_target(drill.world, package, slot, None)
    expires = drill.world.clock.now() + timedelta(days=30)
    forged = sign_targets([own], team, version=2, expires=expires)
    await drill.world.take(package)
    with pytest.raises(DelegationRefusedError, match="paths"):
        await drill.world.releases.publish(RELEASER, {TEAM: forged})
    thief = Thief(drill)
    thief.put(TEAM, forged)
    thief.snapshot({**await thief.roles(), TEAM: listed_file(forged, version=2)})
    await drill.direct({slot: own}, release.target, action_id)
    before, digest = drill.state(), digest_of(package)
    assert await drill.run(action_id) is ActionState.FAILED
    assert drill.state() == before
    assert digest not in drill.state().digests.values()
    assert drill.reports[-1].attack in {Attack.MIX_AND_MATCH, Attack.PARTIAL_BUNDLE}


async def test_stolen_team_key_takes_no_other_image_s_name(drill: Drill) -> None:
    """With every online key besides: other bytes for the firmware that the release names."""
    team = SoftwareSigner.generate()
    await delegate(drill, team, [])
    action_id = await drill.roll_out("second")
    release = await drill.world.releases.get("second")
    name = release.images[FIRMWARE].target
    package = drill.image(FIRMWARE, "6.6.6")
    custom = image_target(drill.world, package, FIRMWARE, None).custom
    forged_target = content_target(name, package, custom)
    assert image_target_name(FIRMWARE, info_of(package).image_id) != name
    forged = sign_targets([forged_target], team, version=2, expires=drill.world.clock.now() + timedelta(days=30))
    drill.serve(package)
    thief = Thief(drill)
    thief.put(TEAM, forged)
    thief.snapshot({**await thief.roles(), TEAM: listed_file(forged, version=2)})
    await drill.direct(
        {FIRMWARE: forged_target, APPLICATION: (await drill.targets())[release.images[APPLICATION].target]},
        release.target,
        action_id,
    )
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "expected a target named for it")
