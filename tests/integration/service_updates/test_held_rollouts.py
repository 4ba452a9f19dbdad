"""Rollouts that only download, and models in shadow, through the use cases on real databases."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from tuf.api.metadata import Metadata, Targets

from protocol.geometry import Core, Slot
from protocol.messages import ActionReport, ActionState
from protocol.plan import EvidenceGates, FailureGate, Plan, PlanStage, Shadow
from protocol.shadow import ShadowCounts
from protocol.updates import DEVICE_FIELD, Order
from service.application.plans import ShadowReleaseError
from service.application.poll import PendingActions
from service.application.rollouts import NewRollout, RolloutView
from service.domain.action import Action
from service.domain.rollout import RolloutState, RolloutStateError
from service.domain.stage import StageState
from service.domain.verdict import Decision
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

MODEL = Slot.M4_0_MODEL
EVERYBODY = (PlanStage(percent=100),)


async def begin(
    world: UpdateWorld, devices: int, *, stages: tuple[PlanStage, ...] = EVERYBODY, **plan: object
) -> RolloutView:
    """Release a model to some devices by a plan."""
    await world.add_devices(devices)
    package, golden = world.model("person@2.0.0", Core.M4_0)
    await world.hand_over(await world.prepare("r1", {MODEL: package}, golden=golden))
    new = NewRollout("r1", "Production", None, Plan.model_validate({"stages": stages, **plan}))
    view = await world.rollouts.create(RELEASER, new, start_now=True)
    await world.tick()
    return view


async def ordered(world: UpdateWorld, device_id: str) -> Mapping[str, object]:
    """What the Director signs for a device now."""
    await world.director.timestamp(device_id)
    targets = Metadata[Targets].from_bytes(await world.director.file(device_id, "targets")).signed
    named: Mapping[str, object] = targets.unrecognized_fields[DEVICE_FIELD]
    return named


async def say(world: UpdateWorld, action: Action, state: ActionState, shadow: ShadowCounts | None = None) -> None:
    """Have a device report."""
    sequence = list(ActionState).index(state) * 2 + (shadow is not None)
    report = ActionReport(action_id=action.action_id, sequence=sequence, state=state, shadow=shadow)
    await world.reports.report(action.device_id, report)


async def parts(world: UpdateWorld, view: RolloutView) -> list[Action]:
    return [numbered.action for numbered in await world.actions(view)]


async def now_of(world: UpdateWorld, view: RolloutView) -> RolloutView:
    return await world.rollouts.get(view.stored.rollout.rollout_id)


async def download(world: UpdateWorld, view: RolloutView) -> list[Action]:
    """Have every device fetch what it is told to, and report."""
    for action in await parts(world, view):
        assert (await ordered(world, action.device_id))["order"] == Order.DOWNLOAD
        await say(world, action, ActionState.DOWNLOADED)
    await world.tick()
    return await parts(world, view)


def compared(agreements: int = 100, *, failure: str = "") -> ShadowCounts:
    return ShadowCounts(frames=100, agreements=agreements, failure=failure)


async def compare(world: UpdateWorld, view: RolloutView, results: list[ShadowCounts]) -> None:
    """Have devices run the model in shadow and report, as many as there are results."""
    for action, result in zip(await parts(world, view), results, strict=False):
        assert (await ordered(world, action.device_id))["order"] == Order.SHADOW
        await say(world, action, ActionState.SHADOWING)
        await say(world, action, ActionState.SHADOWING, result)


async def test_devices_wait_beyond_every_time_out_and_install_at_a_word(world: UpdateWorld) -> None:
    """Stage by stage; the poll says the order, the audit log who gave the word, and asking twice changes nothing."""
    stages = (PlanStage(count=1), PlanStage(percent=100))
    view = await begin(world, 3, stages=stages, download_only=True, device_timeout=timedelta(hours=1))
    waiting = await download(world, view)
    assert [stage.state for stage in (await now_of(world, view)).stored.rollout.stages] == [StageState.DOWNLOADING] * 2
    for _ in range(5):
        world.clock.advance(3601)
        await world.tick()
    assert {action.state for action in await parts(world, view)} == {ActionState.DOWNLOADED}
    word = world.pending.first(waiting[0].device_id)
    assert word is not None
    assert word.order is Order.DOWNLOAD

    rollout_id = view.stored.rollout.rollout_id
    installing = await world.rollouts.install(RELEASER, rollout_id)
    again = await world.rollouts.install(RELEASER, rollout_id)
    assert again.stored.version == installing.stored.version
    await world.tick()
    orders = {}
    for action in waiting:
        orders[action.stage_index, (await ordered(world, action.device_id))["order"]] = action
    assert set(orders) == {(0, "install"), (1, "download")}
    first = orders[0, "install"]
    digests = view.release.digests
    await world.report(first.device_id, first.action_id, ActionState.CONFIRMED, digests=digests, sequence=99)
    await world.tick()
    second = orders[1, "download"]
    assert (await ordered(world, second.device_id))["order"] == Order.INSTALL
    await world.confirm_all(view)
    await world.tick()
    assert (await now_of(world, view)).stored.rollout.state is RolloutState.FINISHED


async def test_word_is_refused_where_nothing_waits_for_it(world: UpdateWorld) -> None:
    """A rollout that installs by itself, and one that is paused."""
    view = await begin(world, 1)
    with pytest.raises(RolloutStateError, match="expected one that only downloads"):
        await world.rollouts.install(RELEASER, view.stored.rollout.rollout_id)


async def test_abort_takes_back_what_waits_when_its_device_asks(world: UpdateWorld) -> None:
    """The poll offers nothing, the Director lists nothing, and the action is cancelled."""
    view = await begin(world, 1, download_only=True)
    (action,) = await download(world, view)
    await world.rollouts.abort(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    assert world.pending.first(action.device_id) is None
    assert (await ordered(world, action.device_id))["action_id"] is None
    (gone,) = await parts(world, view)
    assert gone.state is ActionState.CANCELLED
    assert (await now_of(world, view)).stored.rollout.unresolved == 0


async def test_pause_keeps_what_waits(world: UpdateWorld) -> None:
    """A device is not told to let go of what it has fetched, whatever process it asks."""
    view = await begin(world, 1, download_only=True)
    (action,) = await download(world, view)
    await world.rollouts.pause(RELEASER, view.stored.rollout.rollout_id)
    await world.tick()
    fresh = PendingActions()
    await fresh.load(world.unit_of_work)
    for pending in (world.pending, fresh):
        word = pending.first(action.device_id)
        assert word is not None
        assert (word.action_id, word.order) == (action.action_id, Order.DOWNLOAD)
    assert (await ordered(world, action.device_id))["action_id"] == action.action_id


async def test_newer_rollout_takes_the_place_of_what_waits(world: UpdateWorld) -> None:
    """Whatever slots it changes: there is one spare."""
    view = await begin(world, 1, download_only=True)
    (action,) = await download(world, view)
    await world.release("r2")
    newer = await world.rollouts.create(
        RELEASER, NewRollout("r2", "Production", None, Plan(stages=EVERYBODY)), start_now=True
    )
    await world.tick()
    (gone,) = await parts(world, view)
    assert (gone.state, gone.detail) == (
        ActionState.CANCELLED,
        f"superseded by rollout {newer.stored.rollout.rollout_id}",
    )
    named = await ordered(world, action.device_id)
    assert named["order"] == Order.INSTALL
    assert named["action_id"] == (await parts(world, newer))[0].action_id


async def test_small_stage_that_agrees_is_promoted_and_installs(world: UpdateWorld) -> None:
    """All have said that they agree; the Director then signs the order to install for the same action."""
    view = await begin(world, 2, shadow=Shadow(frames=100))
    (first, _) = await parts(world, view)
    named = await ordered(world, first.device_id)
    assert named["shadow"] == {"frames": 100, "longest_seconds": 86_400}
    await compare(world, view, [compared(), compared(95)])
    await world.tick()
    now = await now_of(world, view)
    assert now.stored.rollout.stages[0].state is StageState.RUNNING
    assert now.stored.rollout.stages[0].counts.agreed == 2
    decisions = await world.rollouts.verdicts(now.stored.rollout.rollout_id, after_number=0, limit=9)
    assert [each.verdict.decision for each in decisions] == [Decision.OPENED, Decision.PROMOTED]
    assert (await ordered(world, first.device_id))["order"] == Order.INSTALL
    kept = await parts(world, view)
    assert kept[1].shadow == compared(95)
    assert kept[1].agrees is True


async def test_candidate_that_breaks_halts_a_small_stage_before_anybody_runs_it(world: UpdateWorld) -> None:
    """The others are told to let go of it; nothing leads back."""
    view = await begin(world, 3, shadow=Shadow())
    await compare(world, view, [compared(failure="crash: expected an answer")])
    now = await now_of(world, view)
    assert now.stored.rollout.state is RolloutState.HALTED
    assert "expected no model that breaks in shadow, found 1" in now.stored.rollout.halted_reason
    await world.tick()
    for action in await parts(world, view):
        assert (await ordered(world, action.device_id))["action_id"] is None
    assert (await now_of(world, view)).stored.rollout.unresolved == 0
    with pytest.raises(RolloutStateError):
        await world.rollouts.resume(RELEASER, now.stored.rollout.rollout_id)


async def test_device_still_downloading_at_the_halt_does_not_install(world: UpdateWorld) -> None:
    """It was told to compare, so what it has begun is no installation that it may finish."""
    view = await begin(world, 2, shadow=Shadow())
    slow, quick = await parts(world, view)
    await ordered(world, slow.device_id)
    await say(world, slow, ActionState.DOWNLOADING)
    await ordered(world, quick.device_id)
    await say(world, quick, ActionState.SHADOWING, compared(failure="hang: expected an answer"))
    assert (await ordered(world, slow.device_id))["action_id"] is None


async def test_small_stage_that_disagrees_asks_and_a_person_may_promote(world: UpdateWorld) -> None:
    """The answer yes is kept as a person's."""
    view = await begin(world, 2, shadow=Shadow(acceptable=0.3, worst=0.6))
    await compare(world, view, [compared(), compared(50)])
    now = await now_of(world, view)
    assert now.stored.rollout.state is RolloutState.PAUSED
    assert "1 agreed in shadow, 1 disagreed" in now.stored.rollout.question
    _, explained = await world.rollouts.explain(now.stored.rollout.rollout_id)
    found = [(kind.agrees, kind.devices, [action.shadow for action in kind.first]) for kind in explained.compared]
    assert found == [(False, 1, [compared(50)]), (True, 1, [compared()])]
    resumed = await world.rollouts.resume(RELEASER, now.stored.rollout.rollout_id)
    assert resumed.stored.rollout.stages[0].state is StageState.RUNNING
    decisions = await world.rollouts.verdicts(now.stored.rollout.rollout_id, after_number=0, limit=9)
    assert (decisions[-1].verdict.decision, decisions[-1].verdict.gate) == (Decision.PROMOTED, "approval")


async def test_evidence_halts_a_large_stage_of_devices_that_disagree(world: UpdateWorld) -> None:
    """Before all have reported; a result that comes twice counts once."""
    gates = EvidenceGates(failures=(FailureGate(),))
    view = await begin(world, 60, shadow=Shadow(), gates=gates)
    actions = await parts(world, view)
    for action in actions:
        await ordered(world, action.device_id)
    for action in actions:
        await say(world, action, ActionState.SHADOWING, compared(20))
        await say(world, action, ActionState.SHADOWING, compared(20))
        if (await now_of(world, view)).stored.rollout.state is RolloutState.HALTED:
            break
    rollout = (await now_of(world, view)).stored.rollout
    assert rollout.state is RolloutState.HALTED
    number = rollout.stages[0].counts.disagreed
    assert number < 10
    assert f"found {number} of 60" in rollout.halted_reason


async def test_shadow_of_another_release_than_one_model_is_refused(world: UpdateWorld) -> None:
    """The error says what the release has."""
    await world.add_devices(1)
    await world.release("r1")
    new = NewRollout("r1", "Production", None, Plan(stages=EVERYBODY, shadow=Shadow()))
    with pytest.raises(ShadowReleaseError, match="expected a model alone, which can run in shadow, found a7"):
        await world.rollouts.create(RELEASER, new, start_now=False)
