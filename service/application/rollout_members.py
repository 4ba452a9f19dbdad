"""Which devices a rollout is for: those of its group, or exactly those that another rollout gave its release."""

from collections.abc import Sequence

from service.application.unit_of_work import UnitOfWork
from service.domain.errors import ConflictError
from service.domain.membership import position_of
from service.domain.rollout import Rollout

MEMBERS_PER_PAGE = 5000


class EmptyGroupError(ConflictError):
    """The group has no device that could take a release."""


async def members_of(work: UnitOfWork, rollout: Rollout, *, after_id: str, limit: int) -> Sequence[str]:
    """Return at most `limit` ids of the devices that a rollout is for, by id."""
    if rollout.undoes is None:
        return await work.actions.members(rollout.group_id, after_id=after_id, limit=limit)
    return await work.actions.exposed(rollout.undoes, rollout.group_id, after_id=after_id, limit=limit)


async def is_member(work: UnitOfWork, rollout: Rollout, device_id: str) -> bool:
    """Say whether a rollout is for a device."""
    return device_id in await members_of(work, rollout, after_id=device_id[:-1], limit=1)


async def positions_of(work: UnitOfWork, rollout: Rollout) -> list[int]:
    """Return the positions of all devices that a rollout is for; the one time that it counts them.

    Raises:
        EmptyGroupError: there is none.
    """
    found: list[int] = []
    last = ""
    while members := await members_of(work, rollout, after_id=last, limit=MEMBERS_PER_PAGE):
        found += [position_of(rollout.rollout_id, device_id) for device_id in members]
        last = members[-1]
    if not found:
        raise EmptyGroupError("group: expected at least one active device, found none")
    return found
