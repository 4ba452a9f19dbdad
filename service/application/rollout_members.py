"""Which devices a rollout is for, in its order: those of its group, or exactly those that another one gave its release.

Nothing reads them all: a start takes the count that storage keeps of the group, or counts those that a filter matches,
and finds where those begin that are held out; a stage that opens walks from bucket to bucket, each a range of an index,
until it holds what it may.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from protocol.plan import Plan
from protocol.plan.targets import Target
from service.application.plans import stage_plans
from service.application.targets import condition_of
from service.application.unit_of_work import UnitOfWork
from service.domain.errors import ConflictError
from service.domain.membership import HeldOut, cut_stages, held_out
from service.domain.order import NO_POSITION, digits_for
from service.domain.rollout import Rollout
from service.domain.rollout_commands import start
from service.domain.stage import Stage
from service.domain.targets import Condition

LEAST_PER_BUCKET = 50  # what looking at a bucket counts for, in ids that are read


class EmptyGroupError(ConflictError):
    """The group has no device that could take a release."""


@dataclass(frozen=True, slots=True)
class Walk:
    """What a stage came to in one step.

    Attributes:
        new: devices that it has not let in yet, in their order.
        position: of the last device that it looked at.
        is_end: nothing of it lies beyond.
        elsewhere: further devices on the way that stages of other filters have let in.
    """

    new: Sequence[str]
    position: int
    is_end: bool
    elsewhere: int = 0


async def begin(work: UnitOfWork, draft: Rollout, plan: Plan, *, now: datetime) -> Rollout:
    """Return a draft started, with its stages planned by the number of devices that it is for.

    Raises:
        EmptyGroupError: it is for none.
        RolloutStateError: it is no draft.
    """
    members = await _count(work, draft)
    if not members:
        raise EmptyGroupError("group: expected at least one active device that the rollout is for, found none")
    ordered = replace(draft, bucket_digits=digits_for(members))
    held = None if plan.hold_out is None else await _held_out(work, ordered, held_out(plan.hold_out.percent, members))
    matching = {where: await _count(work, draft, where) for where in draft.filters}
    return start(ordered, cut_stages(stage_plans(plan), members, held_out=held, matching=matching), now=now)


async def plan_stages(work: UnitOfWork, draft: Rollout, plan: Plan) -> tuple[int, Sequence[int]]:
    """Return how many devices a plan is for now, and how many each of its stages would let in by itself."""
    members = await _count(work, draft)
    matching = {where: await _count(work, draft, where) for where in draft.filters}
    held = None if plan.hold_out is None else HeldOut(held_out(plan.hold_out.percent, members), NO_POSITION)
    cuts = cut_stages(stage_plans(plan), members, held_out=held, matching=matching)
    return members, [cut.planned for cut in cuts]


async def _held_out(work: UnitOfWork, rollout: Rollout, devices: int) -> HeldOut:
    """Find where the last devices begin, from the end of the order."""
    left = devices
    condition = await _condition(work, rollout)
    for prefix in reversed(rollout.order.prefixes()):
        placed = sorted(map(rollout.order.position, await _members(work, rollout, prefix, condition)), reverse=True)
        if len(placed) > left:
            return HeldOut(devices, placed[left])
        left -= len(placed)
    return HeldOut(devices, NO_POSITION)


async def is_member(work: UnitOfWork, rollout: Rollout, device_id: str) -> bool:
    """Say whether a rollout is for a device."""
    return bool(await _members(work, rollout, device_id, await _condition(work, rollout)))


async def last_members(work: UnitOfWork, rollout: Rollout, *, fewest: int) -> Sequence[str]:
    """Return the devices that a rollout comes to last, or holds out: at least so many, or all."""
    found: list[str] = []
    condition = await _condition(work, rollout)
    for prefix in reversed(rollout.order.prefixes()):
        found += await _members(work, rollout, prefix, condition)
        if len(found) >= fewest:
            break
    return found


async def filters_of(work: UnitOfWork, rollout: Rollout, device_id: str) -> Sequence[Target]:
    """Return the filters of a rollout's stages that match a device of its group."""
    conditions = {where: await _condition(work, rollout, where) for where in rollout.filters}
    return [where for where, each in conditions.items() if await _members(work, rollout, device_id, each)]


async def _condition(work: UnitOfWork, rollout: Rollout, where: Target | None = None) -> Condition:
    return await condition_of(work, rollout.conditions.target, where)


async def _count(work: UnitOfWork, rollout: Rollout, where: Target | None = None) -> int:
    if rollout.undoes is not None:
        return await work.actions.count_exposed(rollout.undoes, rollout.group_id)
    return await work.actions.count_members(rollout.group_id, condition=await _condition(work, rollout, where))


async def walk(work: UnitOfWork, rollout: Rollout, stage: Stage, *, limit: int, ids_to_read: int) -> Walk:
    """Go on from where a stage is, until as many devices are found as may be let in, or it has read enough.

    Args:
        work: the transaction.
        rollout: of the stage.
        stage: is being opened.
        limit: devices, at least 1.
        ids_to_read: after which the next step goes on; a bucket is read whole.
    """
    new: list[str] = []
    elsewhere = 0
    looked_at = position = stage.walked
    condition = await _condition(work, rollout, stage.where)
    until = stage.until if stage.is_control else min(stage.until, rollout.held_after)
    while ids_to_read > 0:
        bucket = rollout.order.bucket_after(position)
        if bucket is None or position >= until:
            return Walk(new, looked_at, is_end=True, elsewhere=elsewhere)
        found = set(await _members(work, rollout, bucket.prefix, condition))
        others = await _let_in_before(work, rollout, stage, bucket.prefix)
        placed = sorted((rollout.order.position(device_id), device_id) for device_id in found | others)
        placed = [each for each in placed if position < each[0] <= until]
        known = await work.actions.known(rollout.rollout_id, [device_id for _, device_id in placed])
        for looked_at, device_id in placed:
            if device_id not in known:
                new += [device_id] if device_id in found else []
            elif rollout.stages[known[device_id]].where != stage.where and looked_at > stage.threshold:
                elsewhere += 1
            if len(new) + elsewhere == limit:
                return Walk(new, looked_at, is_end=False, elsewhere=elsewhere)
        position = min(bucket.last, until)  # who comes behind is not the stage's, though of the same bucket
        ids_to_read -= max(LEAST_PER_BUCKET, len(found))
    return Walk(new, position, is_end=False, elsewhere=elsewhere)


async def _let_in_before(work: UnitOfWork, rollout: Rollout, stage: Stage, begins: str) -> set[str]:
    """Return the devices of a bucket that may have been let in by other stages, and are no target any more since."""
    if rollout.conditions.target is None or not rollout.filters:
        return set()
    return set(await _members(work, rollout, begins, await condition_of(work, stage.where)))


async def _members(work: UnitOfWork, rollout: Rollout, begins: str, condition: Condition) -> Sequence[str]:
    if rollout.undoes is None:
        return await work.actions.members(rollout.group_id, begins=begins, condition=condition)
    return await work.actions.exposed(rollout.undoes, rollout.group_id, begins=begins)
