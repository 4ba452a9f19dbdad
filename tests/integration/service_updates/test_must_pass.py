"""Releases that devices must pass through: signed with what comes after them, held at intake and at the offer."""

from collections.abc import Mapping

import pytest

from protocol.geometry import Slot
from protocol.messages import ActionState, Cause
from protocol.updates import MustPass
from service.application.rollouts import RolloutView
from service.domain.action import Action
from service.domain.membership import StagePlan
from service.domain.release import MustPassError, Release
from tests.integration.service_updates.update_world import UpdateWorld, must_pass_of, say

APP = Slot.A7_APPLICATION
EVERYBODY = (StagePlan(percent=100),)


async def bring(
    world: UpdateWorld, version: str, *, must_pass: bool = False, after: Mapping[Slot, MustPass] | None = None
) -> tuple[Release, Mapping[Slot, MustPass]]:
    """Bring a release of the application into force; return it, and how it is named by what comes after it."""
    upload = await world.prepare(f"v{version}", {APP: world.package(f"app@{version}")})
    say(upload, must_pass=must_pass, after=after or {})
    return await world.hand_over(upload), must_pass_of(upload)


async def three_releases(world: UpdateWorld) -> tuple[Release, Release, Release]:
    """One, a second that devices must pass through, and a third that says so."""
    first, _ = await bring(world, "1.0.0")
    second, passage = await bring(world, "2.0.0", must_pass=True)
    third, _ = await bring(world, "3.0.0", after=passage)
    return first, second, third


async def runs(world: UpdateWorld, device: str, release: Release) -> None:
    async with world.unit_of_work() as work:
        await work.installed.put(device, release.digests, at=world.clock.now())
        await work.commit()


async def action_of(world: UpdateWorld, rollout: RolloutView) -> Action:
    (found,) = await world.actions(rollout)
    return found.action


async def test_release_that_does_not_say_what_it_comes_after_is_refused(world: UpdateWorld) -> None:
    """Neither left out nor another one; a release of another kind of image says nothing."""
    await bring(world, "1.0.0")
    _, passage = await bring(world, "2.0.0", must_pass=True)
    with pytest.raises(
        MustPassError, match=r"expected to come after v2\.0\.0, which devices must pass through, found no"
    ):
        await bring(world, "3.0.0")
    await bring(world, "3.0.0", after=passage)
    assert (await world.releases.get("v3.0.0")).after == passage
    assert (await world.releases.get("v2.0.0")).must_pass
    await world.release("firmware", [Slot.M4_0_FIRMWARE])


async def test_device_from_before_is_not_offered_the_release_beyond(world: UpdateWorld) -> None:
    """The refusal says which one comes first; the device was not exposed."""
    device = await world.add_device()
    first, _, _ = await three_releases(world)
    await runs(world, device, first)
    rollout = await world.roll_out("v3.0.0", EVERYBODY)
    await world.tick()
    await world.director.timestamp(device)
    action = await action_of(world, rollout)
    assert (action.state, action.cause, action.offered) == (ActionState.FAILED, Cause.REQUIREMENT, False)
    assert "expected release v2.0.0 with app@2.0.0 confirmed before v3.0.0, found app@1.0.0" in action.detail


async def test_queue_does_not_collapse_past_it(world: UpdateWorld) -> None:
    """Both wait, that one first; once it is confirmed the device may have the next."""
    device = await world.add_device()
    first, second, third = await three_releases(world)
    await runs(world, device, first)
    through = await world.roll_out("v2.0.0", EVERYBODY)
    await world.tick()
    beyond = await world.roll_out("v3.0.0", EVERYBODY)
    await world.tick()
    states = [(await action_of(world, rollout)).state for rollout in (through, beyond)]
    assert states == [ActionState.SCHEDULED, ActionState.SCHEDULED]
    await world.director.timestamp(device)
    assert (await action_of(world, through)).state is ActionState.OFFERED
    await world.report(
        device, (await action_of(world, through)).action_id, ActionState.CONFIRMED, digests=second.digests
    )
    await world.tick()
    await world.director.timestamp(device)
    assert (await action_of(world, beyond)).state is ActionState.OFFERED
    assert third.after[APP].release == second.name
