"""Which devices a rollout is for, in its order: those of its group, or exactly those that another one gave its release.

Nothing reads them all: a start counts them, and finds where those begin that are held out; a stage that opens walks
from bucket to bucket, each a range of an index, until it holds what it may.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from protocol.plan import Plan
from service.application.plans import stage_plans
from service.application.unit_of_work import UnitOfWork
from service.domain.errors import ConflictError
from service.domain.membership import HeldOut, cut_stages, held_out
from service.domain.order import NO_POSITION, digits_for
from service.domain.rollout import Rollout, Stage, start

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
    """

    new: Sequence[str]
    position: int
    is_end: bool


async def begin(work: UnitOfWork, draft: Rollout, plan: Plan, *, now: datetime) -> Rollout:
    """Return a draft started, with its stages planned by the number of devices that it is for.

    Raises:
        EmptyGroupError: it is for none.
        RolloutStateError: it is no draft.
    """
    if draft.undoes is None:
        members = await work.actions.count_members(draft.group_id)
    else:
        members = await work.actions.count_exposed(draft.undoes, draft.group_id)
    if not members:
        raise EmptyGroupError("group: expected at least one active device, found none")
    ordered = replace(draft, bucket_digits=digits_for(members))
    held = None if plan.hold_out is None else await _held_out(work, ordered, held_out(plan.hold_out.percent, members))
    return start(ordered, cut_stages(stage_plans(plan), members, held_out=held), now=now)


async def _held_out(work: UnitOfWork, rollout: Rollout, devices: int) -> HeldOut:
    """Find where the last devices begin, from the end of the order."""
    left = devices
    for prefix in reversed(rollout.order.prefixes()):
        placed = sorted(map(rollout.order.position, await _members(work, rollout, prefix)), reverse=True)
        if len(placed) > left:
            return HeldOut(devices, placed[left])
        left -= len(placed)
    return HeldOut(devices, NO_POSITION)


async def is_member(work: UnitOfWork, rollout: Rollout, device_id: str) -> bool:
    """Say whether a rollout is for a device."""
    return bool(await _members(work, rollout, device_id))


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
    looked_at = position = stage.walked
    until = stage.until if stage.is_control else min(stage.until, rollout.held_after)
    while ids_to_read > 0:
        bucket = rollout.order.bucket_after(position)
        if bucket is None or position >= until:
            return Walk(new, looked_at, is_end=True)
        found = await _members(work, rollout, bucket.prefix)
        placed = sorted((rollout.order.position(device_id), device_id) for device_id in found)
        placed = [each for each in placed if position < each[0] <= until]
        known = await work.actions.known(rollout.rollout_id, [device_id for _, device_id in placed])
        for looked_at, device_id in placed:
            if device_id not in known:
                new.append(device_id)
            if len(new) == limit:
                return Walk(new, looked_at, is_end=False)
        position = bucket.last
        ids_to_read -= max(LEAST_PER_BUCKET, len(found))
    return Walk(new, position, is_end=False)


async def _members(work: UnitOfWork, rollout: Rollout, begins: str) -> Sequence[str]:
    if rollout.undoes is None:
        return await work.actions.members(rollout.group_id, begins=begins)
    return await work.actions.exposed(rollout.undoes, rollout.group_id, begins=begins)
