"""Rollouts that take two persons: by their plan or by the catalog's settings; on a real database."""

from datetime import timedelta

import pytest

from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, Plan, PlanStage
from service.application.approvals import AlreadyRequestedError, Approvals, SubjectChangedError
from service.application.rollout_approvals import RolloutRequests
from service.application.rollouts import ApprovalNeededError, NewRollout, RolloutView
from service.domain.approval import Approval, ApprovalDecidedError, ApprovalState, SamePersonError
from service.domain.operator import Actor, Operator, Role
from service.domain.rollout import RolloutState
from tests.integration.service_updates.update_world import UpdateWorld

ANNE, BEN, CLEO = (Actor(name, Role.RELEASER) for name in ("anne", "ben", "cleo"))
PLAN = Plan(
    stages=(PlanStage(count=2), PlanStage(percent=100)),
    gates=EvidenceGates(small_stage_rule=False),
    approval="required",
)
NEW = NewRollout("first", "Production", None, PLAN)


async def office(world: UpdateWorld, *two_person: str) -> tuple[RolloutRequests, Approvals]:
    """Three operators, a release and three devices."""
    await world.add_devices(3)
    await world.release("first")
    async with world.unit_of_work() as work:
        for actor in (ANNE, BEN, CLEO):
            made = Operator(
                world.entropy.guid(), actor.name, actor.role, None, from_file=False, created_at=world.clock.now()
            )
            await work.operators.add(made)
        await work.commit()
    approvals = Approvals(world.unit_of_work, clock=world.clock, entropy=world.entropy, two_person=two_person)
    return RolloutRequests(world.rollouts, approvals), approvals


def pending(found: RolloutView | Approval) -> Approval:
    assert isinstance(found, Approval)
    return found


async def state(world: UpdateWorld, view: RolloutView) -> RolloutState:
    return (await world.rollouts.get(view.stored.rollout.rollout_id)).stored.rollout.state


async def test_start_waits_for_another_operator(world: UpdateWorld) -> None:
    """It is a draft that shows who asked; the creator cannot approve; once approved it runs, and both are audited."""
    requests, approvals = await office(world)
    view = await requests.create(ANNE, NEW, start_now=True)
    assert view.stored.rollout.state is RolloutState.DRAFT
    assert view.pending is not None
    assert (view.pending.action, view.pending.requested_by) == ("rollout.start", "anne")
    with pytest.raises(SamePersonError, match="expected another operator than anne"):
        await approvals.approve(ANNE, view.pending.approval_id)
    with pytest.raises(AlreadyRequestedError, match="found one by anne"):
        await requests.start(BEN, view.stored.rollout.rollout_id)
    assert await state(world, view) is RolloutState.DRAFT
    await approvals.approve(BEN, view.pending.approval_id)
    after = await world.rollouts.get(view.stored.rollout.rollout_id)
    assert (after.stored.rollout.state, after.pending) == (RolloutState.RUNNING, None)
    with pytest.raises(ApprovalDecidedError, match="found it approved"):
        await approvals.approve(CLEO, view.pending.approval_id)
    async with world.unit_of_work(read_only=True) as work:
        audited = {entry.change.action: entry for entry in await work.audit.page(before_id=None, limit=50)}
    assert (audited["rollout.start"].actor, audited["rollout.start"].change.after["approved_by"]) == ("anne", "ben")


async def test_creator_cannot_approve_what_another_asked_for(world: UpdateWorld) -> None:
    """A draft of one, a request of another: a third one is needed, and nothing has happened before."""
    requests, approvals = await office(world)
    view = await requests.create(ANNE, NEW, start_now=False)
    assert view.pending is None
    request = pending(await requests.start(BEN, view.stored.rollout.rollout_id))
    with pytest.raises(SamePersonError, match="expected another operator than anne, who created it"):
        await approvals.approve(ANNE, request.approval_id)
    assert await state(world, view) is RolloutState.DRAFT
    await approvals.approve(CLEO, request.approval_id)
    assert await state(world, view) is RolloutState.RUNNING


async def test_no_way_leads_past_the_second_person(world: UpdateWorld) -> None:
    """The use case itself refuses what its plan has wait."""
    await office(world)
    draft = await world.rollouts.create(ANNE, NEW, start_now=False)
    with pytest.raises(ApprovalNeededError, match="expected another operator's approval"):
        await world.rollouts.start(ANNE, draft.stored.rollout.rollout_id)
    with pytest.raises(ApprovalNeededError, match="expected another operator's approval"):
        await world.rollouts.create(ANNE, NEW, start_now=True)
    assert await state(world, draft) is RolloutState.DRAFT


async def asking(world: UpdateWorld, requests: RolloutRequests, approvals: Approvals) -> RolloutView:
    """Return a rollout that asks whether its first stage may pass."""
    view = await requests.create(ANNE, NEW, start_now=True)
    assert view.pending is not None
    await approvals.approve(BEN, view.pending.approval_id)
    await world.tick()
    first, second = [numbered.action for numbered in await world.actions(view)]
    await world.report(first.device_id, first.action_id, ActionState.FAILED, cause=Cause.FLASH)
    await world.report(second.device_id, second.action_id, ActionState.CONFIRMED, digests=view.release.digests)
    assert await state(world, view) is RolloutState.PAUSED
    return view


async def asked_by_anne(world: UpdateWorld) -> tuple[RolloutRequests, Approvals, RolloutView, Approval]:
    """Return the desks, such a rollout, and Anne's request for a yes."""
    requests, approvals = await office(world)
    view = await asking(world, requests, approvals)
    return requests, approvals, view, pending(await requests.resume(ANNE, view.stored.rollout.rollout_id))


async def test_yes_to_a_question_takes_two_and_a_brake_takes_one(world: UpdateWorld) -> None:
    """Resuming waits with what was asked; pausing, and resuming what a person has paused, do not; nor does an abort."""
    requests, approvals, view, request = await asked_by_anne(world)
    rollout_id = view.stored.rollout.rollout_id
    assert "1 of 2 confirmed, 1 failed" in str(request.arguments["question"])
    shown = await world.rollouts.get(rollout_id)
    assert shown.pending is not None
    assert shown.pending.approval_id == request.approval_id
    await approvals.approve(CLEO, request.approval_id)
    assert await state(world, view) is RolloutState.RUNNING
    await world.rollouts.pause(ANNE, rollout_id)
    assert isinstance(await requests.resume(ANNE, rollout_id), RolloutView)
    await world.rollouts.abort(ANNE, rollout_id)
    assert await state(world, view) is RolloutState.ABORTED


async def test_request_for_another_question_is_stale(world: UpdateWorld) -> None:
    """Meanwhile the failed device was tried again: it is shown so, cannot be granted, and gives way to a new one."""
    requests, approvals, view, request = await asked_by_anne(world)
    rollout_id = view.stored.rollout.rollout_id
    with pytest.raises(AlreadyRequestedError, match="found one by anne"):
        await requests.resume(BEN, rollout_id)
    await asked_anew(world, view)
    shown = (await world.rollouts.get(rollout_id)).pending
    assert shown is not None
    assert (shown.approval_id, shown.state) == (request.approval_id, ApprovalState.STALE)
    (listed,) = await approvals.page(before=None, limit=5, pending=True)
    assert listed.state is (await approvals.get(request.approval_id)).state is ApprovalState.STALE
    again = pending(await requests.resume(BEN, rollout_id))
    assert again.replaces == request.approval_id
    closed = await approvals.get(request.approval_id)
    assert (closed.state, closed.decided_by) == (ApprovalState.STALE, "service")
    assert (await world.rollouts.get(rollout_id)).pending == again
    await approvals.approve(CLEO, again.approval_id)
    assert await state(world, view) is RolloutState.RUNNING


async def test_stale_request_is_closed_by_who_would_approve_it_and_by_the_house(world: UpdateWorld) -> None:
    """Whoever comes first; the rollout waits on."""
    requests, approvals, view, first = await asked_by_anne(world)
    rollout_id = view.stored.rollout.rollout_id
    await asked_anew(world, view)
    with pytest.raises(SubjectChangedError, match=r"rollout\.resume: expected its subject to ask for"):
        await approvals.approve(CLEO, first.approval_id)
    second = pending(await requests.resume(ANNE, rollout_id))
    assert second.replaces is None
    await world.rollouts.abort(ANNE, rollout_id)
    await approvals.keep_house(world.clock.now())
    for request in (first, second):
        with pytest.raises(ApprovalDecidedError, match="found it stale"):
            await approvals.approve(CLEO, request.approval_id)
    assert await approvals.page(before=None, limit=5, pending=True) == []


async def asked_anew(world: UpdateWorld, view: RolloutView) -> None:
    """Have the failed device try again and be blocked meanwhile, so that the rollout asks something else."""
    before = (await world.rollouts.get(view.stored.rollout.rollout_id)).stored.rollout.question
    await world.rollouts.retry(ANNE, view.stored.rollout.rollout_id)
    await world.tick()
    (action,) = [each.action for each in await world.actions(view) if each.action.due_at is not None]
    await world.director.timestamp(action.device_id)
    await world.change_device(action.device_id, "blocked")
    await world.tick()
    after = (await world.rollouts.get(view.stored.rollout.rollout_id)).stored.rollout
    assert (after.state, after.question == before) == (RolloutState.PAUSED, False)


async def test_settings_of_the_catalog_want_two_persons(world: UpdateWorld) -> None:
    """A plan that says nothing: the start waits all the same, and expires."""
    requests, approvals = await office(world, "rollout.start")
    approvals.check_settings()
    new = NewRollout("first", "Production", None, PLAN.model_copy(update={"approval": "none"}))
    view = await requests.create(ANNE, new, start_now=True)
    assert view.stored.rollout.state is RolloutState.DRAFT
    (request,) = await approvals.page(before=None, limit=5, pending=True)
    assert (request.action, request.subject_id) == ("rollout.start", view.stored.rollout.rollout_id)
    world.clock.advance(timedelta(days=1).total_seconds())
    await approvals.keep_house(world.clock.now())
    assert isinstance(await requests.start(BEN, view.stored.rollout.rollout_id), Approval)
