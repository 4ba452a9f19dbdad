"""Where devices are at an update, for the disruption budgets of all rollouts.

A device is at work in the places that it belongs to when it is given a release, and, where its attributes change
meanwhile, in those that it comes to belong to as well. All are free again once it has ended.
"""

from collections.abc import Mapping, Sequence

from protocol.messages import ActionState
from service.application.disruption_repository import Place
from service.application.unit_of_work import UnitOfWork
from service.domain.action import Action, Bucket


async def follow_work(
    work: UnitOfWork, changes: Sequence[tuple[Action | None, Action]]
) -> Mapping[str, Sequence[Place]]:
    """Keep who has begun and who has ended; return the places that have become free, by action.

    Args:
        work: the transaction.
        changes: (before, after) of stored actions; before is None of a new one.
    """
    began = [after for before, after in changes if _is_at_work(after) and not _is_at_work(before)]
    await work.disruptions.begin(began)
    ended = [after.action_id for before, after in changes if _is_at_work(before) and not _is_at_work(after)]
    freed = dict(await work.disruptions.end(ended))
    left = {
        after.action_id: [Place.parse(before.place)] for before, after in changes if before and _left(before, after)
    }
    return left | freed


def _is_at_work(action: Action | None) -> bool:
    return action is not None and action.bucket is Bucket.IN_PROGRESS


def _left(before: Action, after: Action) -> bool:
    """Whether a device that waited for a place, or was called to it, does so no more and has not begun."""
    if before.state is not ActionState.SCHEDULED or not before.place or _is_at_work(after):
        return False
    return after.state.is_final or after.place != before.place
