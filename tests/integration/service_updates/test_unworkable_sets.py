"""Releases whose images require something of their neighbours on the device; on SQLite and on PostgreSQL."""

from collections.abc import Mapping

from tuf.api.metadata import TargetFile

from protocol.geometry import Slot
from protocol.messages import ActionState, Cause
from protocol.updates import image_custom
from service.application.rollouts import RolloutView
from service.domain.action import Action
from service.domain.membership import StagePlan
from service.domain.release import Release
from service.domain.rollout import RolloutState
from tests.integration.service_updates.update_world import UpdateWorld

EVERYBODY = (StagePlan(percent=100),)
APP, FIRMWARE = Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE


async def _release(
    world: UpdateWorld, name: str, images: Mapping[Slot, str], requires: Mapping[Slot, Mapping[str, str]] | None = None
) -> Release:
    """Bring a release of named images into force; `requires` is signed with their targets."""
    upload = await world.prepare(name, {slot: world.package(title, slot.kind) for slot, title in images.items()})
    for index, target in enumerate(upload.targets):
        slot = next((s for s in images if target.path.startswith(f"images/{s}/")), None)
        if slot is not None and image_custom(target).name == images[slot]:
            upload.targets[index] = _requiring(target, (requires or {}).get(slot, {}))
    return await world.hand_over(upload)


def _requiring(target: TargetFile, requires: Mapping[str, str]) -> TargetFile:
    custom = image_custom(target).model_copy(update={"requires": requires})
    return TargetFile(target.length, target.hashes, target.path, {"custom": custom.model_dump(mode="json")})


async def _install(world: UpdateWorld, device_id: str, release: Release) -> None:
    """Have a device say that it runs a release's images."""
    async with world.unit_of_work() as work:
        await work.installed.put(device_id, release.digests, at=world.clock.now())
        await work.commit()


async def _action_of(world: UpdateWorld, rollout: RolloutView, device_id: str) -> Action:
    return next(n.action for n in await world.actions(rollout) if n.action.device_id == device_id)


async def test_release_that_cannot_work_on_a_device_is_not_offered(world: UpdateWorld) -> None:
    """The firmware requires a newer application than the device runs: the action fails and says what it lacks."""
    (device,) = await world.add_devices(1)
    await _install(world, device, await _release(world, "before", {APP: "app@1.4.0"}))
    await _release(world, "firmware", {FIRMWARE: "runtime@2.0.0"}, {FIRMWARE: {"app": ">=2.1"}})
    rollout = await world.roll_out("firmware", EVERYBODY)
    await world.tick()
    assert world.poll.reply(device, fleet_size=1).action_id is not None
    timestamp = await world.director.timestamp(device)
    await world.tick()
    action = await _action_of(world, rollout, device)
    assert (action.state, action.cause, action.offered) == (ActionState.FAILED, Cause.REQUIREMENT, False)
    assert action.detail == "m4-0/firmware, runtime@2.0.0: expected app >=2.1, found app@1.4.0"
    async with world.unit_of_work(read_only=True) as work:
        signed = await work.director.find(device)
    assert signed is not None
    assert (signed.action_id, signed.timestamp) == (None, timestamp)
    assert b"runtime" not in signed.targets
    assert world.poll.reply(device, fleet_size=1).action_id is None
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.HALTED


async def test_release_that_brings_what_it_requires_is_offered(world: UpdateWorld) -> None:
    """Both images come together, so the set works whatever the device ran before."""
    (device,) = await world.add_devices(1)
    await _install(world, device, await _release(world, "before", {APP: "app@1.4.0"}))
    images = {APP: "app@2.1.0", FIRMWARE: "runtime@2.0.0"}
    await _release(world, "both", images, {FIRMWARE: {"app": ">=2.1"}, APP: {"runtime": "~=2.0"}})
    rollout = await world.roll_out("both", EVERYBODY)
    await world.tick()
    await world.director.timestamp(device)
    assert (await _action_of(world, rollout, device)).state is ActionState.OFFERED


async def test_installed_image_keeps_a_release_from_taking_what_it_requires(world: UpdateWorld) -> None:
    """The requirement of an image that stays counts as much as one of an image that comes."""
    (device,) = await world.add_devices(1)
    images = {APP: "app@2.1.0", FIRMWARE: "runtime@2.0.0"}
    await _install(world, device, await _release(world, "before", images, {FIRMWARE: {"app": ">=2.1,<3"}}))
    await _release(world, "next", {APP: "app@3.0.0"})
    rollout = await world.roll_out("next", EVERYBODY)
    await world.tick()
    await world.director.timestamp(device)
    action = await _action_of(world, rollout, device)
    assert action.cause is Cause.REQUIREMENT
    assert action.detail == "m4-0/firmware, runtime@2.0.0: expected app >=2.1,<3, found app@3.0.0"


async def test_rollout_goes_on_past_devices_that_cannot_have_it(world: UpdateWorld) -> None:
    """One of three devices lacks what is required; the other two get it, and the conditions decide on the whole."""
    devices = await world.add_devices(3)
    old = await _release(world, "old", {APP: "app@1.4.0"})
    new = await _release(world, "new", {APP: "app@2.1.0"})
    for device, runs in zip(devices, (old, new, new), strict=True):
        await _install(world, device, runs)
    await _release(world, "firmware", {FIRMWARE: "runtime@2.0.0"}, {FIRMWARE: {"app": ">=2.1"}})
    rollout = await world.roll_out("firmware", EVERYBODY, success_percent=60, error_percent=50)
    await world.tick()
    for device in devices:
        await world.director.timestamp(device)
    states = [(await _action_of(world, rollout, device)).state for device in devices]
    assert states == [ActionState.FAILED, ActionState.OFFERED, ActionState.OFFERED]
    await world.confirm_all(rollout)
    await world.tick()
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.FINISHED


async def test_refused_action_leaves_the_next_one_in_line(world: UpdateWorld) -> None:
    """A device that has a set already is told at once; what waits behind the refused action is offered next."""
    (device,) = await world.add_devices(1)
    await world.director.timestamp(device)  # it has an empty set
    await _release(world, "firmware", {FIRMWARE: "runtime@2.0.0"}, {FIRMWARE: {"app": ">=2.1"}})
    await _release(world, "app", {APP: "app@2.1.0"})
    refused = await world.roll_out("firmware", EVERYBODY)
    second = await world.roll_out("app", EVERYBODY)
    await world.tick()
    await world.director.timestamp(device)
    action = await _action_of(world, refused, device)
    assert (action.cause, action.detail) == (
        Cause.REQUIREMENT,
        "m4-0/firmware, runtime@2.0.0: expected app >=2.1, found none",
    )
    await world.tick()
    await world.director.timestamp(device)
    assert (await _action_of(world, second, device)).state is ActionState.OFFERED
