"""Releases that devices must pass through on the way to another one."""

from collections.abc import Sequence

from service.application.unit_of_work import UnitOfWork
from service.domain.action import Action
from service.domain.release import Release
from service.domain.rollout import Rollout


async def come_first(work: UnitOfWork, release: Release) -> frozenset[str]:
    """Return the names of the releases that a device must run before a release, one before the other."""
    found: set[str] = set()
    beyond = [release]
    while beyond:
        names = {must.release for must in beyond.pop().after.values()} - found
        found |= names
        beyond += [await work.releases.get(name) for name in sorted(names)]
    return frozenset(found)


async def is_behind(work: UnitOfWork, rollout: Rollout, queue: Sequence[Action]) -> bool:
    """Say whether a device is to have another release of its queue before that of a rollout.

    Args:
        work: the transaction.
        rollout: of one of the actions.
        queue: what the device's rollouts have not finished.
    """
    others = {action.rollout_id for action in queue} - {rollout.rollout_id}
    if not others:
        return False
    first = await come_first(work, await work.releases.get(rollout.release_id))
    waiting = [(await work.rollouts.get(each)).rollout.release_id for each in others] if first else []
    return any([(await work.releases.get(release_id)).name in first for release_id in waiting])
