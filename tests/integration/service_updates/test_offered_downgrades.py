"""An older image takes the place of a newer one only by a release that says so: held when the release is offered."""

from protocol.messages import ActionState, Cause
from service.domain.action import Action
from service.domain.membership import StagePlan
from tests.integration.service_updates.test_rollbacks import APP, release_with_way_back
from tests.integration.service_updates.update_world import UpdateWorld

EVERYBODY = (StagePlan(percent=100),)


async def device_that_runs(world: UpdateWorld, release: str) -> str:
    device = await world.add_device()
    found = await world.releases.get(release)
    async with world.unit_of_work() as work:
        await work.installed.put(device, found.digests, at=world.clock.now())
        await work.commit()
    return device


async def offered(world: UpdateWorld, release: str, device: str) -> Action:
    """Roll a release out and let the device ask for it."""
    rollout = await world.roll_out(release, EVERYBODY)
    await world.tick()
    await world.director.timestamp(device)
    return next(n.action for n in await world.actions(rollout) if n.action.device_id == device)


async def test_older_release_is_not_offered_to_a_device_that_runs_a_newer_one(world: UpdateWorld) -> None:
    """The release was right when it was made; the device has gone on since."""
    await release_with_way_back(world)
    device = await device_that_runs(world, "second")
    action = await offered(world, "first", device)
    assert (action.state, action.cause, action.offered) == (ActionState.FAILED, Cause.REQUIREMENT, False)
    assert action.detail == (f"{APP}: expected a release that goes back from app@3.0.0, found app@2.0.0 in first")


async def test_release_that_says_so_goes_back(world: UpdateWorld) -> None:
    """The same image by the way back that was signed for it; and from anything older it is no downgrade."""
    await release_with_way_back(world)
    newer, older = await device_that_runs(world, "second"), await device_that_runs(world, "first")
    assert (await offered(world, "second-back", newer)).state is ActionState.OFFERED
    assert (await offered(world, "second", older)).state is ActionState.OFFERED
