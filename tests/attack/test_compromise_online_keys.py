"""Drill: the Image repository's timestamp key is stolen, and then the snapshot key, too."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from pki.metadata import listed_file, sign_snapshot, sign_targets
from pki.roles import OnlineKey
from protocol.messages import ActionState, Attack
from protocol.signing import SoftwareSigner, TufSigner
from tests.attack.drill import IMAGE, Drill, open_drill
from tests.attack.online_thief import Thief

HUGE = 10**12  # bytes


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """A device after a legitimate update, and a service that rolls out the next one."""
    async with open_drill(tmp_path) as opened:
        yield opened


async def test_timestamp_key_cannot_take_the_repository_back(drill: Drill) -> None:
    """A new timestamp over the snapshot of before the last release: it hides the release, or what it revoked."""
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    old = Metadata[Snapshot].from_bytes(thief.seen["snapshot"]).signed
    # The device goes on to the newest snapshot first.
    assert await drill.run(action_id) is ActionState.CONFIRMED
    await drill.release("third", "4.0.0")
    third = await drill.roll_out("third")
    thief.timestamp(thief.seen["snapshot"], version=old.version)
    thief.put("snapshot", thief.seen["snapshot"])
    await drill.assert_refused(third, Attack.ROLLBACK, "BadVersionNumberError", release="third")


async def test_timestamp_key_cannot_pass_off_a_snapshot(drill: Drill) -> None:
    """A snapshot by his own key."""
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    forged = sign_snapshot(await thief.roles(), SoftwareSigner.generate(), version=thief.version, expires=thief.expires)
    thief.put("snapshot", forged)
    thief.timestamp(forged, version=thief.version)
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "UnsignedMetadataError")


async def test_timestamp_key_cannot_make_a_device_read_without_end(drill: Drill) -> None:
    """The length of a snapshot is the thief's to sign; the device has a limit of its own."""
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    signed = Metadata[Timestamp].from_bytes(await thief.content("timestamp"))
    signed.signed.version, signed.signed.snapshot_meta = thief.version, MetaFile(thief.version, length=HUGE)
    signed.sign(TufSigner(drill.stolen(OnlineKey.TIMESTAMP)))
    thief.put("timestamp", signed.to_bytes())
    thief.put("snapshot", bytes(5 * 1024 * 1024))
    await drill.assert_refused(action_id, Attack.ENDLESS_DATA, "expected at most 4194304 bytes")


async def test_snapshot_key_cannot_pass_off_targets(drill: Drill) -> None:
    """Both online keys are stolen: targets by his own key, with his own image."""
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    targets = list((await drill.targets()).values())
    forged = sign_targets(targets, SoftwareSigner.generate(), version=thief.version, expires=thief.expires)
    thief.put("targets", forged)
    thief.snapshot({**await thief.roles(), "targets": listed_file(forged, version=thief.version)})
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "UnsignedMetadataError")


async def test_snapshot_key_cannot_take_targets_back(drill: Drill) -> None:
    """Both online keys are stolen: the targets of before the last release, which the operator signed."""
    old = drill.connection.attacker.seen[f"{IMAGE}targets.json"]
    assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED
    await drill.release("third", "4.0.0")
    action_id = await drill.roll_out("third")
    thief = Thief(drill)
    version = Metadata.from_bytes(old).signed.version
    thief.put("targets", old)
    thief.snapshot({**await thief.roles(), "targets": listed_file(old, version=version)})
    await drill.assert_refused(action_id, Attack.ROLLBACK, "BadVersionNumberError", release="third")


async def test_snapshot_key_cannot_mix_files(drill: Drill) -> None:
    """The snapshot says one version of the targets, and another is served."""
    old = drill.connection.attacker.seen[f"{IMAGE}targets.json"]
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    roles = await thief.roles()
    thief.put("targets", old)
    thief.snapshot({**roles, "targets": MetaFile(roles["targets"].version)})
    await drill.assert_refused(action_id, Attack.MIX_AND_MATCH, "BadVersionNumberError")


async def test_frozen_repository_is_told_of_when_it_expires(drill: Drill) -> None:
    """He replays the last answers, so that the device never hears of the next release."""
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    thief.put("timestamp", await thief.content("timestamp"))
    drill.world.clock.advance(25 * 3600)
    await drill.world.repository.refresh()
    await drill.assert_refused(action_id, Attack.FREEZE, "timestamp.json is expired")
