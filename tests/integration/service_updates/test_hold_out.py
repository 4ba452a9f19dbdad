"""Devices that are kept without a release while the others have it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from protocol.messages import ActionState
from protocol.plan import HoldOut, Plan, PlanStage, ThresholdGates
from protocol.plan.targets import AttributeTest
from service.application.rollout_members import walk
from service.application.rollouts import NewRollout
from service.domain.rollout import RolloutState
from service.domain.stage import StageState
from tests.integration.service_updates.timing_world import give
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld, open_world
from tests.service_folder import make_folders

PLAN = Plan(
    stages=(PlanStage(count=2), PlanStage(percent=100)),
    hold_out=HoldOut(percent=20, soak=timedelta(hours=6)),
    gates=ThresholdGates(),
)


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    async with open_world(make_folders(tmp_path), database) as opened:
        yield opened


async def test_last_devices_wait_until_all_others_have_shown_the_release(world: UpdateWorld) -> None:
    """A fifth of ten devices, and one that joins among them; they are let in when the last stage has soaked."""
    devices = await world.add_devices(10)
    await world.release("first")
    view = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, PLAN), start_now=True)
    order = view.stored.rollout.order
    held = sorted(devices, key=order.position)[8:]
    assert [stage.cut.planned for stage in view.stored.rollout.stages if stage.cut] == [2, 6, 2]
    assert view.stored.rollout.held_after == order.position(sorted(devices, key=order.position)[7])
    for _ in range(3):
        await world.tick()
        await world.confirm_all(view)
    while True:
        joined = await world.add_device()
        if order.position(joined) > view.stored.rollout.held_after:
            break
    await world.tick()
    await world.confirm_all(view)
    rollout = (await world.rollouts.get(order.rollout_id)).stored.rollout
    given = {numbered.action.device_id for numbered in await world.actions(view)}
    assert given.isdisjoint({*held, joined})
    assert {*devices} - {*held} <= given
    assert rollout.stages[1].state is StageState.SOAKING
    assert rollout.not_exposed >= len(held)
    world.clock.advance(6 * 3600)
    for _ in range(2):
        await world.tick()
        await world.confirm_all(view)
    await world.tick()
    actions = [numbered.action for numbered in await world.actions(view)]
    assert {action.device_id for action in actions if action.stage_index == 2} == {*held, joined}
    assert {action.state for action in actions} == {ActionState.CONFIRMED}
    ended = (await world.rollouts.get(order.rollout_id)).stored.rollout
    assert (ended.state, ended.not_exposed) == (RolloutState.FINISHED, 0)


async def test_group_of_one_holds_nobody_out(world: UpdateWorld) -> None:
    """It has nobody to compare with."""
    await world.add_devices(1)
    await world.release("first")
    view = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, PLAN), start_now=True)
    await world.tick()
    await world.confirm_all(view)
    world.clock.advance(6 * 3600)
    await world.tick()
    assert (await world.rollouts.get(view.stored.rollout.rollout_id)).stored.rollout.state is RolloutState.FINISHED


async def test_stage_that_reads_a_bucket_whole_does_not_reach_into_those_held_out(world: UpdateWorld) -> None:
    """The step that comes to the last one before them ends there, though their bucket is the same."""
    devices = await world.add_devices(10)
    for device_id in devices:
        await give(world, device_id, {"ring": "lab"})
    await world.release("first")
    where = AttributeTest.model_validate({"attribute": "ring", "is": "lab"})
    plan = PLAN.model_copy(update={"stages": (PlanStage(percent=90, where=where), PlanStage(percent=100))})
    view = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, plan), start_now=True)
    rollout = view.stored.rollout
    async with world.unit_of_work(read_only=True) as work:
        step = await walk(work, rollout, rollout.stages[0], limit=100, ids_to_read=1)
    opened = rollout.stages[0].walked_to(step.position, is_end=step.is_end)
    assert (len(step.new), step.position) == (8, rollout.held_after)
    assert opened.threshold == rollout.held_after
