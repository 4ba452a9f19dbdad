"""Rolling back what a release healed: devices that took it after its rollout had finished took it, too."""

from dataclasses import replace

import pytest

from protocol.identity import Access
from protocol.messages import ActionState
from service.application.events import Event, EventType
from service.application.rollouts import RolloutView
from service.domain.membership import StagePlan
from tests.integration.service_updates.test_rollbacks import APP, devices_of, given, release_with_way_back
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

EVERYONE = (StagePlan(percent=100),)


async def quarantine(world: UpdateWorld, device_id: str) -> None:
    """What attestation does to a device that runs what no release lists."""
    now = world.clock.now()
    async with world.unit_of_work() as work:
        await work.devices.save_attested([replace(await work.devices.get(device_id), access=Access.UPDATE_ONLY)])
        await work.installed.put(device_id, {APP: "66" * 32}, at=now)
        work.record(Event(EventType.DEVICE, device_id, "quarantined", now))
        await work.commit()
    await world.tick()


async def finished_with_newcomer(world: UpdateWorld) -> tuple[RolloutView, str]:
    """Return a rollout that has finished, and a device that joined later and is to heal by its release."""
    await world.add_devices(2)
    await release_with_way_back(world)
    rollout = await world.roll_out("second", EVERYONE)
    await world.tick()
    await given(world, rollout)
    await world.confirm_all(rollout)
    await world.tick()
    newcomer = await world.add_device()
    await quarantine(world, newcomer)
    return rollout, newcomer


@pytest.mark.parametrize("times", [1, 2])
async def test_healed_device_goes_back_with_the_others(world: UpdateWorld, times: int) -> None:
    """It took the release after the rollout was over, however often: it is brought back once."""
    rollout, newcomer = await finished_with_newcomer(world)
    for _ in range(times):
        await world.director.timestamp(newcomer)
        await world.confirm_all(rollout)
        await quarantine(world, newcomer)
    await world.director.timestamp(newcomer)
    await world.confirm_all(rollout)
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    assert newcomer in await devices_of(world, undoing)
    assert undoing.stored.rollout.stages[0].devices == 3


async def test_nobody_heals_by_a_release_that_was_rolled_back(world: UpdateWorld) -> None:
    """What was given up heals nobody: what waits is cancelled when the device asks, and it is no member."""
    rollout, newcomer = await finished_with_newcomer(world)
    undoing = await world.rollouts.roll_back(RELEASER, rollout.stored.rollout.rollout_id)
    await world.tick()
    await world.director.timestamp(newcomer)
    states = {n.action.device_id: n.action.state for n in await world.actions(rollout)}
    assert states[newcomer] is ActionState.CANCELLED
    assert newcomer not in await devices_of(world, undoing)
    async with world.unit_of_work(read_only=True) as work:
        assert await work.actions.unfinished([newcomer]) == []
