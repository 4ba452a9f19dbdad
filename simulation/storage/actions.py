"""Actions in memory.

Queues beside the rows: actions that no device was given yet and held ones, by rollout, deadlines, and who waits for
which place. An entry of a queue counts only while its action is as the entry says.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from protocol.messages import ActionState, Cause
from service.application.attribute_repository import AttributeRepository
from service.application.update_repositories import InstalledRepository, NumberedAction
from service.domain.action import Action, Hold, UnknownActionError
from service.domain.targets import EVERYBODY, Condition, holds
from simulation.storage.devices import MemoryDevices
from simulation.storage.journal import Journal, Partial
from simulation.storage.sorted_ids import SortedIds


class MemoryActions(Partial):
    """Implements `ActionRepository`.

    Args:
        devices: knows the members of groups.
        attributes: of devices.
        installed: what devices run.
    """

    def __init__(
        self,
        journal: Journal,
        devices: MemoryDevices,
        *,
        attributes: AttributeRepository,
        installed: InstalledRepository,
    ) -> None:
        self._journal = journal
        self._attributes = attributes
        self._installed = installed
        self._members = devices.members
        self._is_member = devices.is_member
        self._rows: dict[str, Action] = {}
        self._numbers: dict[str, int] = {}  # by action id, in the order they were made
        self._by_number: dict[int, str] = {}
        self._counter: dict[str, int] = {"number": 0}
        self._unfinished: dict[str, tuple[str, ...]] = {}  # action ids by device, oldest first
        self._newest: dict[str, str] = {}
        self._of_rollout: dict[tuple[str, str], str] = {}  # (rollout, device), apart from ones that heal
        self._given: dict[tuple[str, str], tuple[str, ...]] = {}  # (rollout, device) → actions that gave its release
        self._exposed: dict[str, SortedIds] = {}  # by rollout, devices that were ever given it, in their order
        self._waiting: dict[str, list[int]] = {}  # by rollout, numbers of scheduled actions
        self._held: dict[str, list[tuple[datetime, int]]] = {}  # by rollout, when held actions' time comes
        self._at_places: dict[str, tuple[int, ...]] = {}  # numbers of scheduled actions, oldest first
        self._deadlines: list[tuple[datetime, int]] = []

    async def add(self, actions: Sequence[Action]) -> None:
        """See `ActionRepository.add`."""
        for action in actions:
            number = self._counter["number"] + 1
            self._journal.put(self._counter, "number", number)
            self._journal.put(self._numbers, action.action_id, number)
            self._journal.put(self._by_number, number, action.action_id)
            self._journal.put(self._newest, action.device_id, action.action_id)
            if not action.heals:
                self._journal.put(self._of_rollout, (action.rollout_id, action.device_id), action.action_id)
            if action.due_at is not None:
                self._begin(action)
            self._put(action)

    async def get(self, action_id: str, *, lock: bool = False) -> Action:
        """See `ActionRepository.get`."""
        del lock  # nothing runs beside a unit of work
        if action_id not in self._rows:
            raise UnknownActionError(f"action: expected one of this device, found none of id {action_id[:60]!r}")
        return self._rows[action_id]

    async def save(self, actions: Sequence[Action]) -> None:
        """See `ActionRepository.save`."""
        for action in actions:
            before = self._rows.get(action.action_id)
            if before is None:
                continue
            if before.due_at is not None and action.due_at is None:
                self._finish(action)
            if before.due_at is None and action.due_at is not None:
                self._begin(action)
            self._put(action)

    async def queue(self, device_id: str) -> Sequence[Action]:
        """See `ActionRepository.queue`."""
        found = self._unfinished_of(device_id)
        return found if len(found) < 2 else sorted(found, key=lambda action: action.state is ActionState.SCHEDULED)  # noqa: PLR2004 - nothing to sort

    async def unfinished(self, device_ids: Collection[str]) -> Sequence[Action]:
        """See `ActionRepository.unfinished`."""
        found = [action for device_id in set(device_ids) for action in self._unfinished_of(device_id)]
        return sorted(found, key=lambda action: self._numbers[action.action_id])

    async def newest(self, device_id: str) -> Action | None:
        """See `ActionRepository.newest`."""
        action_id = self._newest.get(device_id)
        return None if action_id is None else self._rows[action_id]

    async def newest_of(self, device_ids: Collection[str]) -> Mapping[str, Action]:
        """See `ActionRepository.newest_of`."""
        found = {device_id: self._newest.get(device_id) for device_id in device_ids}
        return {device_id: self._rows[action_id] for device_id, action_id in found.items() if action_id is not None}

    async def known(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, int]:
        """See `ActionRepository.known`."""
        found = {device_id: self._of_rollout.get((rollout_id, device_id)) for device_id in device_ids}
        return {device_id: self._rows[id_].stage_index for device_id, id_ in found.items() if id_ is not None}

    async def of_devices(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, Action]:
        """See `ActionRepository.of_devices`."""
        found = {device_id: self._of_rollout.get((rollout_id, device_id)) for device_id in device_ids}
        return {device_id: self._rows[action_id] for device_id, action_id in found.items() if action_id is not None}

    async def scheduled(self, rollout_id: str, *, limit: int) -> Sequence[Action]:
        """See `ActionRepository.scheduled`."""
        queue = self._waiting.get(rollout_id, [])
        found = self._first(queue, limit, self._waiting_action)
        for action in found:
            heapq.heappush(queue, self._numbers[action.action_id])
        return found

    async def ended_badly(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """See `ActionRepository.ended_badly`; looks at every later action, so it is for small fleets."""
        return self._numbered(
            lambda action: action.rollout_id == rollout_id and not action.heals and _ended_badly(action),
            after_number,
            limit,
        )

    async def held(self, rollout_id: str, *, until: datetime, limit: int) -> Sequence[Action]:
        """See `ActionRepository.held`."""
        queue = self._held.get(rollout_id, [])
        found: list[Action] = []
        while queue and len(found) < limit and queue[0][0] <= until:
            action = self._action_held(self._journal.drop(queue))
            if action is not None and (not found or found[-1] is not action):
                found.append(action)
        for action in found:
            self._queue_held(action)
        return found

    async def holds(self, rollout_id: str) -> Mapping[Hold, int]:
        """See `ActionRepository.holds`; looks at every action, so it is for the end of a run."""
        return Counter(action.hold for action in self._holding(rollout_id) if action.hold is not None)

    async def first_holding(self, rollout_id: str, hold: Hold, *, limit: int) -> Sequence[Action]:
        """See `ActionRepository.first_holding`; looks at every action, so it is for the end of a run."""
        return [action for action in self._holding(rollout_id) if action.hold is hold][:limit]

    async def first_held(self, rollout_id: str) -> datetime | None:
        """See `ActionRepository.first_held`."""
        queue = self._held.get(rollout_id, [])
        while queue and self._action_held(queue[0]) is None:
            self._journal.drop(queue)
        return queue[0][0] if queue else None

    async def failed(self, rollout_id: str, *, until: datetime) -> Mapping[frozenset[Cause], int]:
        """See `ActionRepository.failed`; looks at every action, so it is for the end of a run."""
        return Counter(action.all_blames for action in self._failed(rollout_id, until))

    async def first_failed(
        self, rollout_id: str, causes: frozenset[Cause], *, until: datetime, limit: int
    ) -> Sequence[Action]:
        """See `ActionRepository.first_failed`; looks at every action, so it is for the end of a run."""
        found = [action for action in self._failed(rollout_id, until) if action.all_blames == causes]
        return sorted(found, key=lambda action: (action.failed_at, self._numbers[action.action_id]))[:limit]

    async def compared(self, rollout_id: str) -> Mapping[bool, int]:
        """See `ActionRepository.compared`; looks at every action, so it is for the end of a run."""
        return Counter(
            action.agrees
            for action in self._rows.values()
            if action.rollout_id == rollout_id and action.agrees is not None
        )

    async def first_compared(self, rollout_id: str, *, agrees: bool, limit: int) -> Sequence[Action]:
        """See `ActionRepository.first_compared`; looks at every action, so it is for the end of a run."""
        said = self._numbered(lambda action: (action.rollout_id, action.agrees) == (rollout_id, agrees), 0, limit)
        return [numbered.action for numbered in said]

    async def due(self, now: datetime, *, limit: int) -> Sequence[Action]:
        """See `ActionRepository.due`."""
        queue = self._deadlines
        found: list[Action] = []
        while queue and len(found) < limit and queue[0][0] <= now:
            entry = self._journal.drop(queue)
            action = self._action_due(entry)
            if action is not None and (not found or found[-1] is not action):
                found.append(action)
        for action in found:
            self._queue_deadline(action)
        return found

    async def page(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """See `ActionRepository.page`; looks at every later action, so it is for the end of a run."""
        return self._numbered(lambda action: action.rollout_id == rollout_id, after_number, limit)

    async def page_unfinished(self, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """See `ActionRepository.page_unfinished`; looks at every later action, so it is for a start."""
        return self._numbered(lambda action: action.due_at is not None, after_number, limit)

    async def members(self, group_id: str, *, begins: str, condition: Condition = EVERYBODY) -> Sequence[str]:
        """See `ActionRepository.members`."""
        found = self._members(group_id, begins=begins)
        if condition is EVERYBODY:
            return found
        attributes, installed = await self._attributes.of(found), await self._installed.of(found)
        return [id_ for id_ in found if holds(condition, attributes.get(id_, {}), installed.get(id_, {}))]

    async def exposed(self, rollout_id: str, group_id: str, *, begins: str, limit: int | None = None) -> Sequence[str]:
        """See `ActionRepository.exposed`."""
        ids = self._exposed.setdefault(rollout_id, SortedIds()).beginning(begins)
        return [id_ for id_ in ids if (rollout_id, id_) in self._given and self._is_member(group_id, id_)][:limit]

    async def count_members(self, group_id: str, *, condition: Condition = EVERYBODY) -> int:
        """See `ActionRepository.count_members`."""
        return len(await self.members(group_id, begins="", condition=condition))

    async def count_exposed(self, rollout_id: str, group_id: str) -> int:
        """See `ActionRepository.count_exposed`."""
        return len(await self.exposed(rollout_id, group_id, begins=""))

    async def missed(self, rollout_id: str, *, by: str | None, limit: int) -> Sequence[str]:
        """See `ActionRepository.missed`."""
        ids = self._exposed.setdefault(rollout_id, SortedIds()).beginning("")
        given = [id_ for id_ in ids if (rollout_id, id_) in self._given]
        return [id_ for id_ in given if by is None or not self._has_part(by, id_)][:limit]

    async def count_missed(self, rollout_id: str, *, by: str | None) -> int:
        """See `ActionRepository.count_missed`."""
        return len(await self.missed(rollout_id, by=by, limit=len(self._rows)))

    @property
    def places(self) -> Collection[str]:
        """The places that scheduled actions name."""
        return self._at_places.keys()

    def at_place(self, place: str) -> list[Action]:
        """Return the scheduled actions that name a place, oldest first."""
        return [self._rows[self._by_number[number]] for number in self._at_places.get(place, ())]

    def rollout_of(self, action_id: str) -> str | None:
        """Return the id of an action's rollout, or None without such an action."""
        action = self._rows.get(action_id)
        return None if action is None else action.rollout_id

    def first_deadline(self) -> datetime | None:
        """Return when the first unfinished action is due."""
        while self._deadlines and self._action_due(self._deadlines[0]) is None:
            self._journal.drop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _put(self, action: Action) -> None:
        before = self._rows.get(action.action_id)
        self._journal.put(self._rows, action.action_id, action)
        if action.due_at is not None and (before is None or before.due_at != action.due_at):
            self._queue_deadline(action)
        self._move(before, action)
        if action.leaves_the_pace and (before is None or before.not_before != action.not_before):
            self._queue_held(action)
        if action.offered != (before is not None and before.offered):
            self._give(action)
        is_waiting = action.state is ActionState.SCHEDULED and not action.heals
        if is_waiting and (before is None or before.state is not ActionState.SCHEDULED):
            heapq.heappush(self._waiting.setdefault(action.rollout_id, []), self._numbers[action.action_id])

    def _has_part(self, rollout_id: str, device_id: str) -> bool:
        """Whether a device has an action of a rollout that was not cancelled."""
        part = self._of_rollout.get((rollout_id, device_id))
        ids = (*self._given.get((rollout_id, device_id), ()), *(() if part is None else (part,)))
        return any(self._rows[each].state is not ActionState.CANCELLED for each in ids)

    def _give(self, action: Action) -> None:
        """Follow that a device was given a release, or that it was put off before it ran anything of it."""
        key = (action.rollout_id, action.device_id)
        others = tuple(id_ for id_ in self._given.get(key, ()) if id_ != action.action_id)
        if action.offered:
            self._journal.put(self._given, key, (*others, action.action_id))
            self._exposed.setdefault(action.rollout_id, SortedIds()).add(action.device_id)
        elif others:
            self._journal.put(self._given, key, others)
        else:
            self._journal.remove(self._given, key)

    def _begin(self, action: Action) -> None:
        held = (*self._unfinished.get(action.device_id, ()), action.action_id)
        self._journal.put(self._unfinished, action.device_id, tuple(sorted(held, key=self._numbers.__getitem__)))

    def _move(self, before: Action | None, action: Action) -> None:
        """Follow an action from place to place."""
        was = before.place if before is not None and before.state is ActionState.SCHEDULED else ""
        place = action.place if action.state is ActionState.SCHEDULED else ""
        if was == place:
            return
        number = self._numbers[action.action_id]
        if was:
            self._set_place(was, [each for each in self._at_places[was] if each != number])
        if place:
            self._set_place(place, sorted([*self._at_places.get(place, ()), number]))

    def _set_place(self, place: str, numbers: Sequence[int]) -> None:
        if numbers:
            self._journal.put(self._at_places, place, tuple(numbers))
        else:
            self._journal.remove(self._at_places, place)

    def _finish(self, action: Action) -> None:
        held = tuple(id_ for id_ in self._unfinished.get(action.device_id, ()) if id_ != action.action_id)
        if held:
            self._journal.put(self._unfinished, action.device_id, held)
        else:
            self._journal.remove(self._unfinished, action.device_id)

    def _queue_deadline(self, action: Action) -> None:
        if action.due_at is not None:
            heapq.heappush(self._deadlines, (action.due_at, self._numbers[action.action_id]))

    def _queue_held(self, action: Action) -> None:
        if action.not_before is not None:
            entry = (action.not_before, self._numbers[action.action_id])
            heapq.heappush(self._held.setdefault(action.rollout_id, []), entry)

    def _first(self, queue: list[int], limit: int, live: Callable[[int], Action | None]) -> list[Action]:
        """Take the first live entries off a queue, and what is stale before them."""
        found: list[Action] = []
        while queue and len(found) < limit:
            action = live(self._journal.drop(queue))
            if action is not None and (not found or found[-1] is not action):
                found.append(action)
        return found

    def _waiting_action(self, number: int) -> Action | None:
        action = self._rows.get(self._by_number.get(number, ""))
        return action if action is not None and action.state is ActionState.SCHEDULED else None

    def _action_due(self, entry: tuple[datetime, int]) -> Action | None:
        action = self._rows.get(self._by_number.get(entry[1], ""))
        return action if action is not None and action.due_at == entry[0] else None

    def _action_held(self, entry: tuple[datetime, int]) -> Action | None:
        action = self._rows.get(self._by_number.get(entry[1], ""))
        return action if action is not None and action.leaves_the_pace and action.not_before == entry[0] else None

    def _unfinished_of(self, device_id: str) -> list[Action]:
        return [self._rows[action_id] for action_id in self._unfinished.get(device_id, ())]

    def _holding(self, rollout_id: str) -> list[Action]:
        """Return the held actions of a rollout in the order they were made."""
        return [action for action in self._rows.values() if action.rollout_id == rollout_id and action.is_held]

    def _failed(self, rollout_id: str, until: datetime) -> list[Action]:
        mine = [action for action in self._rows.values() if action.rollout_id == rollout_id]
        return [action for action in mine if action.failed_at is not None and action.failed_at <= until]

    def _numbered(self, wanted: Callable[[Action], bool], after_number: int, limit: int) -> list[NumberedAction]:
        found: list[NumberedAction] = []
        for number in range(after_number + 1, self._counter["number"] + 1):
            if len(found) == limit:
                break
            action = self._rows[self._by_number[number]]
            if wanted(action):
                found.append(NumberedAction(number, action))
        return found


def _ended_badly(action: Action) -> bool:
    return action.state.is_failure or action.state is ActionState.CANCELLED
