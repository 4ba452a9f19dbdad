"""Why a rollout stands where it stands: figures as they were, and the devices that had failed by then, by cause."""

from datetime import timedelta

from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, Plan, PlanStage, Retries
from service.application.rollout_explanation import DEVICES_SHOWN
from service.application.rollouts import NewRollout
from service.domain.verdict import Decision
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

PLAN = Plan(
    stages=(PlanStage(percent=100),),
    gates=EvidenceGates(small_stage_rule=False),
    retries=Retries(pause=timedelta(hours=1), causes=(Cause.FLASH,)),
)


async def test_decision_names_the_devices_that_had_failed_by_then(world: UpdateWorld) -> None:
    """A halt keeps its figures; who fails later is not among its devices, and the list is cut with its number said."""
    await world.add_devices(DEVICES_SHOWN + 12)
    await world.release("first")
    view = await world.rollouts.create(RELEASER, NewRollout("first", "Production", None, PLAN), start_now=True)
    await world.tick()
    world.clock.advance(1)
    given = [n.action for n in await world.actions(view)]
    for action in given:
        await world.director.timestamp(action.device_id)
    # One that is to try again has failed, too.
    await world.report(given[0].device_id, given[0].action_id, ActionState.FAILED, cause=Cause.FLASH)
    halted_after = 1
    rollout_id = view.stored.rollout.rollout_id
    for action in given[1:]:
        if (await world.rollouts.get(rollout_id)).stored.rollout.state.is_over:
            break
        halted_after += 1
        await world.report(action.device_id, action.action_id, ActionState.FAILED, cause=Cause.BOOT)
        world.clock.advance(1)
    for action in given[halted_after:]:
        await world.report(action.device_id, action.action_id, ActionState.REVERTED, cause=Cause.BOOT)
    _, found = await world.rollouts.explain(rollout_id)
    halt = next(each for each in found.decisions if each.stored.verdict.decision is Decision.HALTED)
    assert halt.stored.verdict.figures["failures.failed"] == halted_after
    then = {each.causes: each.devices for each in halt.failed}
    assert then == {frozenset({Cause.BOOT}): halted_after - 1, frozenset({Cause.FLASH}): 1}
    now = {each.causes: (each.devices, len(each.first)) for each in found.failed}
    assert now == {frozenset({Cause.BOOT}): (len(given) - 1, DEVICES_SHOWN), frozenset({Cause.FLASH}): (1, 1)}
    boot = next(each for each in found.failed if Cause.BOOT in each.causes)
    assert [action.device_id for action in boot.first] == [action.device_id for action in given[1 : DEVICES_SHOWN + 1]]
    opened = next(each for each in found.decisions if each.stored.verdict.decision is Decision.OPENED)
    assert not opened.failed
