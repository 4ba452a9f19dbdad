"""Rollouts: create, start, pause, resume, abort, and look at them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from protocol.plan import Plan
from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.plans import check_shadow, conditions_of, stage_plans, stages_of
from service.application.rollbacks import undo
from service.application.rollout_changes import rollout_event, store_step
from service.application.rollout_explanation import RolloutExplanation, explain_rollout
from service.application.rollout_members import begin, plan_stages
from service.application.targets import check_releases
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import NumberedAction, StoredRollout, StoredVerdict
from service.domain.approval import Approval, ApprovalState
from service.domain.errors import ConflictError, JsonValue
from service.domain.membership import check_plans
from service.domain.operator import Actor
from service.domain.product import DeviceGroup
from service.domain.release import FactoryReleaseError, Release
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import abort, install, pause, resume, retry


class GroupPolicyError(ConflictError):
    """The group's policy takes no updates of this kind."""


class ApprovalNeededError(ConflictError):
    """The plan wants another operator to agree."""


@dataclass(frozen=True, slots=True)
class NewRollout:
    """A rollout to create.

    Attributes:
        release: name or id.
        group: name or id.
        product: name or id; needed where the group's name is not unique.
    """

    release: str
    group: str
    product: str | None
    plan: Plan


@dataclass(frozen=True, slots=True)
class PlannedStages:
    """What a plan would do with a group now.

    Attributes:
        devices: of the group, that could take a release.
        matching: those that the plan is for.
        stages: devices that each stage would let in by itself.
    """

    devices: int
    matching: int
    stages: Sequence[int]


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout with what people call its parts.

    Attributes:
        pending: what its plan has wait for another operator's word, or None; stale where it asks something else now.
    """

    stored: StoredRollout
    release: Release
    group: DeviceGroup
    pending: Approval | None = None


class Rollouts:
    """Use cases of rollouts."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock, entropy: Entropy) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy

    @tried_again
    async def create(self, actor: Actor, new: NewRollout, *, start_now: bool) -> RolloutView:
        """Create a rollout, and start it.

        Raises:
            InvalidPlanError, InvalidGateError: the plan makes no rollout.
            ShadowReleaseError: it wants a shadow of another release than one model.
            UnknownReleaseError, UnknownGroupError, AmbiguousGroupError: release, of a filter too, or group.
            FactoryReleaseError: the release is what devices are made with.
            GroupPolicyError: the group takes no updates.
            EmptyGroupError: it is to be started, and the group has no active device.
        """
        check_plans(stage_plans(new.plan))
        async with self._unit_of_work() as work:
            release, group = await self._target(work, new)
            check_shadow(new.plan, release)
            await check_releases(work, new.plan)
            stored = self._draft(actor, new.plan, release, group)
            await work.rollouts.add(stored)
            facts = {"release": release.name, "group": group.name, "product": group.product_name}
            change = Change("rollout.create", stored.rollout.rollout_id, after=dict(facts))
            await work.audit.add(actor, change, at=stored.created_at)
            work.record(await rollout_event(work, stored.rollout, "created", now=stored.created_at))
            if start_now:
                await self.start_in(work, actor, stored.rollout.rollout_id)
            await work.commit()
        return await self.get(stored.rollout.rollout_id)

    async def preview(self, new: NewRollout) -> PlannedStages:
        """Count the devices that a plan would be for now, and those of its stages; nothing is stored.

        Raises:
            InvalidPlanError, InvalidGateError: the plan makes no rollout.
            UnknownGroupError, AmbiguousGroupError: the group.
            UnknownReleaseError: a filter names a release that is not in force.
        """
        check_plans(stage_plans(new.plan))
        async with self._unit_of_work(read_only=True) as work:
            await check_releases(work, new.plan)
            product = None if new.product is None else await work.products.get(new.product)
            group = await work.products.get_group(new.group, product_id=product.product_id if product else None)
            draft = Rollout("", new.release, group.group_id, conditions_of(new.plan), stages_of(new.plan))
            members, stages = await plan_stages(work, draft, new.plan)
            return PlannedStages(await work.actions.count_members(group.group_id), members, stages)

    async def get(self, rollout_id: str) -> RolloutView:
        """Return a rollout.

        Raises:
            UnknownRolloutError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await _view(work, await work.rollouts.get(rollout_id))

    async def page(self, *, before_number: int | None, limit: int) -> Sequence[RolloutView]:
        """Return at most `limit` rollouts, newest first."""
        async with self._unit_of_work(read_only=True) as work:
            found = await work.rollouts.page(before_number=before_number, limit=limit)
            return [await _view(work, stored) for stored in found]

    async def actions(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """Return at most `limit` actions of a rollout in the order they were made.

        Raises:
            UnknownRolloutError: there is no such rollout.
        """
        async with self._unit_of_work(read_only=True) as work:
            await work.rollouts.get(rollout_id)
            return await work.actions.page(rollout_id, after_number=after_number, limit=limit)

    async def verdicts(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[StoredVerdict]:
        """Return at most `limit` decisions about a rollout in the order they were made.

        Raises:
            UnknownRolloutError: there is no such rollout.
        """
        async with self._unit_of_work(read_only=True) as work:
            await work.rollouts.get(rollout_id)
            return await work.rollouts.verdicts(rollout_id, after_number=after_number, limit=limit)

    async def explain(self, rollout_id: str) -> tuple[RolloutView, RolloutExplanation]:
        """Return a rollout, what was decided about it and on which evidence, and the devices that failed.

        Raises:
            UnknownRolloutError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            view = await _view(work, await work.rollouts.get(rollout_id))
            return view, await explain_rollout(work, view.stored.rollout, now=self._clock.now())

    @tried_again
    async def start(self, actor: Actor, rollout_id: str) -> RolloutView:
        """Start a draft: cut the group into stages and open the first one; running, it stays as it is.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it was started before and does not run.
            EmptyGroupError: the group has no active device.
        """
        async with self._unit_of_work() as work:
            await self.start_in(work, actor, rollout_id)
            await work.commit()
        return await self.get(rollout_id)

    async def pause(self, actor: Actor, rollout_id: str) -> RolloutView:
        """Pause it: nothing new is offered, what has begun may end.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it is neither running nor paused.
        """
        return await self._step(actor, rollout_id, "pause", lambda rollout, _now: pause(rollout))

    @tried_again
    async def resume(self, actor: Actor, rollout_id: str) -> RolloutView:
        """Let it run again, which answers what it asked with yes; a halted one stays halted.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it is neither paused nor running.
            ApprovalNeededError: its plan wants another operator to agree to a yes.
        """
        async with self._unit_of_work() as work:
            await self.resume_in(work, actor, rollout_id)
            await work.commit()
        return await self.get(rollout_id)

    async def resume_in(self, work: UnitOfWork, actor: Actor, rollout_id: str) -> None:
        """Resume a rollout in the caller's transaction; see `resume`.

        Raises:
            ApprovalNeededError: its plan wants another operator to agree to a yes.
        """
        stored = await work.rollouts.get(rollout_id, lock=True)
        if is_yes(stored):
            _check_approved(stored, actor)
        now = self._clock.now()
        after = resume(stored.rollout, now)
        if after != stored.rollout:
            await store_step(work, actor, stored, after, name="resume", now=now)

    async def abort(self, actor: Actor, rollout_id: str) -> RolloutView:
        """End it for good; what no device has begun is cancelled.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it has finished.
        """
        return await self._step(actor, rollout_id, "abort", lambda rollout, _now: abort(rollout))

    @tried_again
    async def retry(self, actor: Actor, rollout_id: str) -> RolloutView:
        """Give the release again to the devices that failed or were shut out; without such a device nothing changes.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it is a draft, halted or aborted by a person, or was rolled back.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            stored = await work.rollouts.get(rollout_id, lock=True)
            after = retry(stored.rollout, now)
            if await work.actions.ended_badly(rollout_id, after_number=0, limit=1):
                await store_step(work, actor, stored, after, name="retry", now=now)
                await work.commit()
        return await self.get(rollout_id)

    async def install(self, actor: Actor, rollout_id: str) -> RolloutView:
        """Have devices install what they were told to download, stage by stage; asked twice, nothing more happens.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it does not run, or its plan has nothing wait.
        """
        return await self._step(actor, rollout_id, "install", install)

    @tried_again
    async def roll_back(self, actor: Actor, rollout_id: str) -> RolloutView:
        """Bring back every device of the group that was given the release, by the way back that was signed with it.

        What is not given yet is given no more. Asked twice, it returns the same rollout, or a new one where nobody was
        left to be brought back by that.

        Raises:
            UnknownRolloutError: there is none.
            RolloutStateError: it was never started.
            NoWayBackError: no way back was signed with the release, or this rollout is one itself.
            EmptyGroupError: nobody who was given the release is in the group.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            stored = await work.rollouts.get(rollout_id, lock=True)
            undoing = await undo(work, stored, actor, now=now, entropy=self._entropy)
            await work.commit()
        return await self.get(undoing)

    @tried_again
    async def _step(
        self,
        actor: Actor,
        rollout_id: str,
        name: str,
        step: Callable[[Rollout, datetime], Rollout],
    ) -> RolloutView:
        now = self._clock.now()
        async with self._unit_of_work() as work:
            stored = await work.rollouts.get(rollout_id, lock=True)
            after = step(stored.rollout, now)
            if after != stored.rollout:
                await store_step(work, actor, stored, after, name=name, now=now)
                await work.commit()
        return await self.get(rollout_id)

    async def start_in(self, work: UnitOfWork, actor: Actor, rollout_id: str) -> None:
        """Start a draft in the caller's transaction; see `start`.

        Raises:
            ApprovalNeededError: its plan wants another operator to agree.
        """
        now = self._clock.now()
        stored = await work.rollouts.get(rollout_id, lock=True)
        if stored.rollout.state is RolloutState.RUNNING:
            return
        _check_approved(stored, actor)
        after = await begin(work, stored.rollout, stored.plan, now=now)
        await store_step(work, actor, stored, after, name="start", now=now)

    async def _target(self, work: UnitOfWork, new: NewRollout) -> tuple[Release, DeviceGroup]:
        product = None if new.product is None else await work.products.get(new.product)
        group = await work.products.get_group(new.group, product_id=product.product_id if product else None)
        release = await work.releases.get(new.release)
        if release.factory:
            raise FactoryReleaseError(f"release {release.name}: expected one to roll out, found the factory release")
        if not group.takes_updates:
            raise GroupPolicyError(
                f"group {group.name}: expected a policy that takes updates, found {group.policy.update_policy}"
            )
        return release, group

    def _draft(self, actor: Actor, plan: Plan, release: Release, group: DeviceGroup) -> StoredRollout:
        rollout = Rollout(
            rollout_id=self._entropy.guid(),
            release_id=release.release_id,
            group_id=group.group_id,
            conditions=conditions_of(plan),
            stages=stages_of(plan),
        )
        return StoredRollout(rollout, plan, created_at=self._clock.now(), created_by=actor.name)


def is_yes(stored: StoredRollout) -> bool:
    """Whether resuming a rollout says yes to what it asks, for which its plan wants another operator."""
    return stored.plan.approval == "required" and bool(stored.rollout.question)


def question_of(stored: StoredRollout) -> dict[str, JsonValue]:
    """Return what a request for approval says a rollout asks; nothing where it asks nothing."""
    return {"question": stored.rollout.question} if stored.rollout.question else {}


def _check_approved(stored: StoredRollout, actor: Actor) -> None:
    if stored.plan.approval == "required" and not actor.approved_by:
        raise ApprovalNeededError("rollout: expected another operator's approval, as its plan says, found none")


async def _view(work: UnitOfWork, stored: StoredRollout) -> RolloutView:
    release = await work.releases.get(stored.rollout.release_id)
    group = await work.products.get_group(stored.rollout.group_id)
    return RolloutView(stored, release, group, await _pending(work, stored))


async def _pending(work: UnitOfWork, stored: StoredRollout) -> Approval | None:
    steps = {RolloutState.DRAFT: "rollout.start", RolloutState.PAUSED: "rollout.resume"}
    step = steps.get(stored.rollout.state)
    if stored.plan.approval != "required" or step is None:
        return None
    pending = await work.approvals.pending_on(step, stored.rollout.rollout_id)
    if pending is None or pending.arguments == question_of(stored):
        return pending
    return replace(pending, state=ApprovalState.STALE)
