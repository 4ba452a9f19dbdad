"""What disruption budgets count, in memory.

Who belongs to a place is known from the attributes; who waits for one by a queue that may hold too much, never too
little.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime

from protocol.messages import ActionState
from service.application.disruption_repository import Place
from service.domain.action import Action, Hold
from simulation.storage.actions import MemoryActions
from simulation.storage.attributes import MemoryAttributes
from simulation.storage.journal import Journal


class MemoryDisruptions:
    """Implements `DisruptionRepository`.

    Args:
        actions: knows who waits.
        attributes: know who belongs to a place.
        is_running: whether a rollout runs, by id.
    """

    def __init__(
        self,
        journal: Journal,
        actions: MemoryActions,
        attributes: MemoryAttributes,
        *,
        is_running: Callable[[str], bool],
    ) -> None:
        self._actions = actions
        self._attributes = attributes
        self._is_running = is_running
        self._journal = journal
        self._at_work: dict[str, dict[str, str]] = {}  # devices by place and action
        self._places: dict[str, tuple[Place, ...]] = {}  # by action

    async def hold(self, place: Place) -> None:
        """See `DisruptionRepository.hold`: nothing runs beside a unit of work."""

    async def members(self, place: Place) -> int:
        """See `DisruptionRepository.members`."""
        return sum(1 for _ in self._attributes.holders(place.attribute, place.value))

    async def begin(self, actions: Collection[Action]) -> None:
        """See `DisruptionRepository.begin`."""
        for action in actions:
            attributes = (await self._attributes.of([action.device_id])).get(action.device_id, {})
            known = self._places.get(action.action_id, ())
            new = [place for pair in attributes.items() if (place := Place(*pair)) not in known]
            for place in new:
                self._journal.put(self._at_work.setdefault(str(place), {}), action.action_id, action.device_id)
            if new:
                self._journal.put(self._places, action.action_id, (*known, *new))

    async def end(self, action_ids: Collection[str]) -> Mapping[str, Sequence[Place]]:
        """See `DisruptionRepository.end`."""
        found = {action_id: sorted(self._places[action_id], key=str) for action_id in self._places.keys() & action_ids}
        for action_id, places in found.items():
            self._journal.remove(self._places, action_id)
            for place in places:
                self._journal.remove(self._at_work[str(place)], action_id)
        return found

    async def at_work(self, place: Place, *, limit: int) -> Sequence[str]:
        """See `DisruptionRepository.at_work`."""
        return list(self._at_work.get(str(place), {}).values())[:limit]

    async def called(self, place: Place, *, since: datetime) -> int:
        """See `DisruptionRepository.called`."""
        return sum(1 for action in self._at(str(place)) if _is_called(action, since) and self._runs(action))

    async def waiting(self, place: Place, *, limit: int) -> Sequence[Action]:
        """See `DisruptionRepository.waiting`."""
        found = (action for action in self._at(str(place)) if _waits(action) and self._runs(action))
        return [action for action, _ in zip(found, range(limit), strict=False)]

    async def waited_for(self, places: Collection[Place]) -> Sequence[Place]:
        """See `DisruptionRepository.waited_for`."""
        found = [place for place in places if any(_waits(action) for action in self._at(str(place)))]
        return sorted(found, key=str)

    async def waited_for_by(self, rollout_ids: Collection[str]) -> Sequence[Place]:
        """See `DisruptionRepository.waited_for_by`."""
        waiting = (action for name in self._actions.places for action in self._at(name) if _waits(action))
        return [Place.parse(name) for name in sorted({a.place for a in waiting if a.rollout_id in rollout_ids})]

    async def is_anybody_waiting(self) -> bool:
        """See `DisruptionRepository.is_anybody_waiting`."""
        return any(_waits(action) for name in self._actions.places for action in self._at(name))

    def _at(self, place: str) -> Iterator[Action]:
        return (action for action in self._actions.at_place(place) if action.state is ActionState.SCHEDULED)

    def _runs(self, action: Action) -> bool:
        return self._is_running(action.rollout_id)


def _waits(action: Action) -> bool:
    return action.hold is Hold.BUDGET and action.not_before is None


def _is_called(action: Action, since: datetime) -> bool:
    is_about_to_begin = action.hold is Hold.BUDGET and action.not_before is not None
    return is_about_to_begin or (action.hold is None and action.progressed_at > since)
