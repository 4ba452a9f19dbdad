"""Bringing back the devices that were given a release, by the way back that was signed with it.

A rollback is a rollout of its own: of the way back, all at once, to the devices that were given the release and are in
the group now. What any others do is not its business; they are named (`missed`).
The rollout that it undoes offers nothing any more; a device that is at its update ends it first, and goes back then.
"""

from datetime import datetime

from protocol.plan import EvidenceGates, Plan, PlanStage, ThresholdGates
from service.application.audit import Change
from service.application.entropy import Entropy
from service.application.missed import nobody_in_reach
from service.application.plans import conditions_of, stages_of
from service.application.rollout_changes import rollout_event, store_rollout, store_step
from service.application.rollout_members import EmptyGroupError, begin
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredRollout
from service.domain.errors import ConflictError
from service.domain.operator import SERVICE, Actor
from service.domain.release import Release
from service.domain.rollout import Rollout, RolloutState, RolloutStateError
from service.domain.rollout_commands import abort, mark_undone


class NoWayBackError(ConflictError):
    """No way back was signed with the release."""


async def undo(work: UnitOfWork, stored: StoredRollout, actor: Actor, *, now: datetime, entropy: Entropy) -> str:
    """Start the rollback of a rollout, or return the one that was started, unless nobody was left to have that.

    Args:
        work: the transaction, which holds the rollout's row.
        stored: the rollout, as it was read in this transaction.
        actor: who asked for it.
        now: UTC, aware.
        entropy: for the ids.

    Returns:
        The id of the rollout that brings the devices back.

    Raises:
        RolloutStateError: it was never started.
        NoWayBackError: none was signed, or this is a rollback itself.
        EmptyGroupError: nobody who was given the release is in the group; it names the first of them.
    """
    rollout = stored.rollout
    undoing = await work.rollouts.undoing(rollout.rollout_id)
    if undoing is not None and not (await work.rollouts.get(undoing)).rollout.has_ended_empty:
        return undoing
    if rollout.state is RolloutState.DRAFT:
        raise RolloutStateError("rollout: expected one that was started, found a draft")
    release = await work.releases.get(rollout.release_id)
    back = None if rollout.undoes else await work.releases.way_back_of(release.name)
    if back is None:
        raise NoWayBackError(f"release {release.name}: expected a way back that was signed with it, found none")
    new = await _new_rollout(work, stored, release, back, actor=actor, now=now, entropy=entropy)
    ended = rollout if rollout.state.is_over else abort(rollout)
    await store_step(work, actor, stored, mark_undone(ended, new.rollout.rollout_id), name="roll-back", now=now)
    return new.rollout.rollout_id


async def undo_after_halt(work: UnitOfWork, stored: StoredRollout, *, now: datetime, entropy: Entropy) -> None:
    """Bring the devices back by the plan's own word; a halt with nothing to bring back by stays a halt."""
    try:
        await undo(work, stored, SERVICE, now=now, entropy=entropy)
    except (NoWayBackError, EmptyGroupError) as error:
        await store_rollout(work, stored, mark_undone(stored.rollout, "", reason=str(error)), now=now)


async def _new_rollout(
    work: UnitOfWork,
    stored: StoredRollout,
    release: Release,
    back: Release,
    *,
    actor: Actor,
    now: datetime,
    entropy: Entropy,
) -> StoredRollout:
    plan = Plan(
        name="way back",
        description=f"Brings back what rollout {stored.rollout.rollout_id} gave release {release.name} to.",
        stages=(PlanStage(percent=100),),
        gates=stored.plan.gates.model_copy(update=_changes_of(stored.plan.gates)),
        device_timeout=stored.plan.device_timeout,
        retries=stored.plan.retries,
    )
    draft = Rollout(
        rollout_id=entropy.guid(),
        release_id=back.release_id,
        group_id=stored.rollout.group_id,
        conditions=conditions_of(plan),
        stages=stages_of(plan),
        undoes=stored.rollout.rollout_id,
    )
    try:
        begun = await begin(work, draft, plan, now=now)
    except EmptyGroupError:
        raise EmptyGroupError(await nobody_in_reach(work, stored.rollout)) from None
    created = StoredRollout(draft, plan, created_at=now, created_by=actor.name)
    await work.rollouts.add(created)
    facts = {"release": back.name, "undoes": stored.rollout.rollout_id}
    await work.audit.add(actor, Change("rollout.create", draft.rollout_id, after=dict(facts)), at=now)
    work.record(await rollout_event(work, draft, "created", now=now))
    added = await work.rollouts.get(draft.rollout_id, lock=True)
    await store_step(work, actor, added, begun, name="start", now=now)
    return added


def _changes_of(gates: EvidenceGates | ThresholdGates) -> dict[str, object]:
    """Return what differs where devices go back.

    One device that cannot go back must not leave the others with a release that was given up, and nobody is in control.
    """
    kept = {"control": (), "means": ()} if isinstance(gates, EvidenceGates) else {}
    return {"small_stage_rule": False, **kept}
