"""Drill: the Director's key is stolen, and the way to the device is in the thief's hands."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pki.metadata import content_target, director_target
from protocol.geometry import Slot
from protocol.messages import ActionState, Attack
from protocol.signing import SoftwareSigner
from protocol.updates import image_custom, image_target_name
from tests.attack.drill import APPLICATION, FIRMWARE, Drill, open_drill
from tests.integration.service_updates.update_world import must_pass_of, say
from tests.unit.device_update.update_builder import info_of


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """A device after a legitimate update, and a service that rolls out the next one."""
    async with open_drill(tmp_path) as opened:
        yield opened


async def names_of(drill: Drill, release: str) -> dict[Slot, str]:
    """Target names of a release's images, and of the release under `release`."""
    return {slot: image.target for slot, image in (await drill.world.releases.get(release)).images.items()}


async def test_thief_cannot_have_an_unsigned_image_installed(drill: Drill) -> None:
    """An image of his own: the Image repository does not list it."""
    action_id = await drill.roll_out("second")
    package = drill.image(APPLICATION, "6.6.6", key=SoftwareSigner.generate())
    targets, names = await drill.targets(), await names_of(drill, "second")
    release = (await drill.world.releases.get("second")).target
    custom = image_custom(targets[names[APPLICATION]]).model_dump(mode="json")
    own = content_target(image_target_name(APPLICATION, info_of(package).image_id), package, custom)
    drill.serve(package)
    await drill.direct({APPLICATION: own, FIRMWARE: targets[names[FIRMWARE]]}, release, action_id)
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "expected it in the Image repository")


async def test_thief_cannot_pass_other_bytes_off_under_a_signed_name(drill: Drill) -> None:
    """The name is in the Image repository; length and hash are his."""
    action_id = await drill.roll_out("second")
    package = drill.image(APPLICATION, "6.6.6", key=SoftwareSigner.generate())
    targets, names = await drill.targets(), await names_of(drill, "second")
    honest = targets[names[APPLICATION]]
    own = content_target(honest.path, package, honest.custom)
    drill.serve(package)
    release = (await drill.world.releases.get("second")).target
    await drill.direct({APPLICATION: own, FIRMWARE: targets[names[FIRMWARE]]}, release, action_id)
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "expected equal length and hashes")


async def test_thief_cannot_serve_other_bytes_for_a_signed_image(drill: Drill) -> None:
    """Everything that he signs is in order; what he sends is not."""
    action_id = await drill.roll_out("second")
    targets, names = await drill.targets(), await names_of(drill, "second")
    await drill.direct(
        {slot: targets[name] for slot, name in names.items()},
        (await drill.world.releases.get("second")).target,
        action_id,
    )
    package = drill.packages["second"][FIRMWARE]
    drill.serve(package)
    (path,) = [path for path in drill.connection.attacker.instead if "artifacts" in path]
    drill.connection.attacker.instead[path] = package[:100] + bytes([package[100] ^ 1]) + package[101:]
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "expected SHA-256")


async def test_thief_cannot_go_back_below_a_counter(drill: Drill) -> None:
    """After the second release he wants the first one again."""
    assert await drill.run(await drill.roll_out("second")) is ActionState.CONFIRMED
    await drill.release("third", "4.0.0")
    action_id = await drill.roll_out("third")
    targets, names = await drill.targets(), await names_of(drill, "first")
    release = (await drill.world.releases.get("first")).target
    await drill.direct({slot: targets[name] for slot, name in names.items()}, release, action_id)
    await drill.assert_refused(
        action_id, Attack.ROLLBACK, "release counter: expected at least 2, found 1", release="third"
    )


async def test_thief_cannot_lower_a_security_counter(drill: Drill) -> None:
    """He lies about the counter that the Image repository signed."""
    action_id = await drill.roll_out("second")
    targets, names = await drill.targets(), await names_of(drill, "second")
    release = (await drill.world.releases.get("second")).target
    wanted = [director_target(targets[name], slot=slot, release=release) for slot, name in names.items()]
    wanted[0].unrecognized_fields["custom"]["security_counter"] = 0
    drill.say(wanted, action_id)
    await drill.assert_refused(action_id, Attack.ARBITRARY_SOFTWARE, "security counter: expected 1")


async def test_thief_cannot_mix_two_releases(drill: Drill) -> None:
    """The application of one release with the firmware of another; both are signed, and newer than what runs."""
    await drill.release("third", "4.0.0")
    action_id = await drill.roll_out("second")
    targets = await drill.targets()
    mixed = []
    for name, slot in (("third", APPLICATION), ("second", FIRMWARE)):
        release = (await drill.world.releases.get(name)).target
        mixed.append(director_target(targets[(await names_of(drill, name))[slot]], slot=slot, release=release))
    drill.say(mixed, action_id)
    await drill.assert_refused(action_id, Attack.MIX_AND_MATCH, "expected one release")


async def test_thief_cannot_leave_an_image_of_a_release_out(drill: Drill) -> None:
    """The new application on the old firmware."""
    action_id = await drill.roll_out("second")
    targets, names = await drill.targets(), await names_of(drill, "second")
    release = (await drill.world.releases.get("second")).target
    await drill.direct({APPLICATION: targets[names[APPLICATION]]}, release, action_id)
    await drill.assert_refused(action_id, Attack.PARTIAL_BUNDLE, "expected an image for m4-0/firmware")


async def test_thief_cannot_bring_an_image_into_another_slot(drill: Drill) -> None:
    """The firmware of one core on the other."""
    action_id = await drill.roll_out("second")
    targets, names = await drill.targets(), await names_of(drill, "second")
    release = (await drill.world.releases.get("second")).target
    wanted = {APPLICATION: targets[names[APPLICATION]], Slot.M4_1_FIRMWARE: targets[names[FIRMWARE]]}
    await drill.direct(wanted, release, action_id)
    await drill.assert_refused(action_id, Attack.MIX_AND_MATCH, "expected no image for m4-1/firmware")


async def test_thief_can_bring_forward_what_is_signed(drill: Drill) -> None:
    """What remains to him: a release that the operator signed and has not rolled out to this device."""
    await drill.release("third", "4.0.0")
    action_id = await drill.roll_out("second")
    targets, names = await drill.targets(), await names_of(drill, "third")
    release = (await drill.world.releases.get("third")).target
    await drill.direct({slot: targets[name] for slot, name in names.items()}, release, action_id)
    assert await drill.run(action_id) is ActionState.CONFIRMED
    assert drill.machine.installed()[APPLICATION].name == "application@4.0.0"
    # The service sees that the device does not run what it was given.
    (event,) = await drill.security_events()
    assert event.change == "verification-failed"
    assert event.data["detail"].startswith("a7/application: expected digest")  # type: ignore[union-attr]  # text


async def test_thief_cannot_have_a_release_jumped_over(drill: Drill) -> None:
    """Devices must pass through `through`; he signs for the one beyond, whose own document tells the device so."""
    world = drill.world
    images = {
        version: {slot: drill.image(slot, version) for slot in (APPLICATION, FIRMWARE)}
        for version in ("4.0.0", "5.0.0")
    }
    through = await world.prepare("through", images["4.0.0"])
    say(through, must_pass=True)
    await world.hand_over(through)
    beyond = await world.prepare("beyond", images["5.0.0"])
    say(beyond, after=must_pass_of(through))
    await world.hand_over(beyond)
    action_id = await drill.roll_out("beyond")
    targets, names = await drill.targets(), await names_of(drill, "beyond")
    release = (await world.releases.get("beyond")).target
    await drill.direct({slot: targets[name] for slot, name in names.items()}, release, action_id)
    detail = "expected release through with"
    await drill.assert_refused(action_id, Attack.MIX_AND_MATCH, detail, release="beyond")
