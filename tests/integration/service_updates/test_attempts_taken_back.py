"""What waits for its next attempt is taken back for good, and what an earlier attempt has shown stands."""

from datetime import timedelta

import pytest

from protocol.messages import ActionReport, ActionState, Cause
from protocol.plan import EvidenceGates, Plan, PlanStage, Retries, Shadow, ThresholdGates
from protocol.plan.targets import AttributeTest
from service.application.rollouts import RolloutView
from service.domain.action import Action, Hold
from service.domain.membership import StagePlan
from service.domain.rollout import RolloutState
from tests.integration.service_updates import test_held_rollouts as shadows
from tests.integration.service_updates.test_retries import (
    EVERYONE,
    FORGIVING,
    PAUSE,
    begun,
    fails,
    only,
    plan_of,
    state_of,
)
from tests.integration.service_updates.timing_world import give
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

ALL = (StagePlan(percent=100),)
LENIENT = ThresholdGates(success_percent=100, error_percent=99, small_stage_rule=False)


async def waits_for_retry(world: UpdateWorld, view: RolloutView) -> Action:
    """Let the only device fail; return its action, which waits out the pause before the next attempt."""
    await fails(world, await only(world, view))
    waiting = await only(world, view)
    assert (waiting.state, waiting.hold, waiting.attempt) == (ActionState.SCHEDULED, Hold.RETRY, 2)
    return waiting


async def has_ended(world: UpdateWorld, view: RolloutView) -> None:
    """Check that the only device failed its one attempt, and that time changes nothing of it."""
    for _ in range(4):
        ended = await only(world, view)
        assert (ended.state, ended.cause, ended.attempt) == (ActionState.FAILED, Cause.DOWNLOAD, 1)
        assert "not tried again" in ended.detail
        assert world.pending.waiting(ended.device_id) is None
        assert (await state_of(world, view)).stages[0].counts.failed == 1
        world.clock.advance(PAUSE.total_seconds())
        await world.tick()


@pytest.mark.parametrize(("change", "group"), [("blocked", None), ("moved", "Field Test"), ("decommissioned", None)])
async def test_device_shut_out_in_the_pause_before_a_retry_has_failed(
    world: UpdateWorld, change: str, group: str | None
) -> None:
    """It is not put in line once more."""
    view = await begun(world, plan_of())
    waiting = await waits_for_retry(world, view)
    await world.change_device(waiting.device_id, change, group)
    await world.tick()
    await has_ended(world, view)


async def test_older_release_is_not_tried_again_after_a_newer_one(world: UpdateWorld) -> None:
    """The newer rollout takes the place of the retry, and stays confirmed."""
    view = await begun(world, plan_of())
    waiting = await waits_for_retry(world, view)
    await world.release("second")
    newer = await world.roll_out("second", ALL)
    await world.tick()
    await world.director.timestamp(waiting.device_id)
    await world.confirm_all(newer)
    await world.tick()
    await has_ended(world, view)
    assert (await only(world, newer)).state is ActionState.CONFIRMED


async def test_device_that_leaves_the_target_in_the_pause_is_not_tried_again(world: UpdateWorld) -> None:
    """What it had failed for stays."""
    (device_id,) = await world.add_devices(1)
    await give(world, device_id, {"site": "a"})
    target = AttributeTest.model_validate({"attribute": "site", "is": "a"})
    view = await begun(world, plan_of(target=target), devices=0)
    await waits_for_retry(world, view)
    await give(world, device_id, {"site": "b"})
    await world.tick()
    await has_ended(world, view)


async def test_model_that_broke_in_shadow_has_broken_whatever_a_retry_shows(world: UpdateWorld) -> None:
    """The second comparison is waited for and taken; the first one stands against the release."""
    gates = EvidenceGates(small_stage_rule=False, failures=(FORGIVING,))
    retries = Retries(most=2, pause=timedelta(0), causes=(Cause.VERIFY,))
    view = await shadows.begin(world, 1, shadow=Shadow(), gates=gates, retries=retries)
    broken = shadows.compared(10, failure="crashed")
    await shadows.compare(world, view, [broken])
    first = await only(world, view)
    await world.reports.report(
        first.device_id,
        ActionReport(action_id=first.action_id, sequence=99, state=ActionState.FAILED, cause=Cause.VERIFY),
    )
    await world.tick()
    assert (await shadow_counts(world, view)) == (0, 1, 1, 0)
    await world.director.timestamp(first.device_id)
    for sequence, shadow in enumerate([None, shadows.compared()], start=1):
        report = ActionReport(
            action_id=first.action_id, sequence=sequence, state=ActionState.SHADOWING, shadow=shadow, attempt=2
        )
        await world.reports.report(first.device_id, report)
        await world.tick()
        assert (await shadow_counts(world, view)) == (0, 1, 1, sequence - 1)
    found = await only(world, view)
    assert (found.agrees, found.past[0].agrees, found.past[0].shadow) == (True, False, broken)
    assert (await state_of(world, view)).state is RolloutState.PAUSED


async def shadow_counts(world: UpdateWorld, view: RolloutView) -> tuple[int, int, int, int]:
    """Return how many agreed, disagreed, broke, and have compared in their present attempt."""
    counts = (await state_of(world, view)).stages[0].counts
    return counts.agreed, counts.disagreed, counts.broke, counts.compared


async def test_retry_keeps_to_a_stage_that_is_planned_by_count(world: UpdateWorld) -> None:
    """Two devices are planned: one was given the release and moved, another one has the place of the second."""
    plan = Plan(stages=(PlanStage(count=2), *EVERYONE), gates=LENIENT)
    view = await begun(world, plan, devices=8)
    given, waiting = [numbered.action.device_id for numbered in await world.actions(view)]
    await world.director.timestamp(given)
    for device_id in (waiting, given):
        await world.change_device(device_id, "moved", "Field Test")
        await world.tick()
    while len(await world.actions(view)) == 2:
        await world.add_device()
        await world.tick()
    await world.change_device(waiting, "moved", "Production")
    await world.rollouts.retry(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    for numbered in await world.actions(view):
        await world.director.timestamp(numbered.action.device_id)
    stage = (await state_of(world, view)).stages[0]
    assert (stage.counts.exposed, stage.counts.size, stage.counts.withdrawn) == (2, 1, 1)
