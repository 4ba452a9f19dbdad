"""The answer to a device's poll, from memory: no row is read or written for it.

`PendingActions` holds the unfinished actions of every device. It is read from the database at start and follows the
event feed from then on, which brings the changes of other processes too (PostgreSQL: within a second, so a device
may have to poll once more). It is a hint, not a permission: the Director reads the database before it signs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from protocol.messages import ActionState, PollReply
from protocol.updates import Order
from service.application.entropy import Entropy
from service.application.events import EventType, StoredEvent
from service.application.passages import come_first
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.action import Action
from service.domain.errors import JsonValue
from service.domain.rollout import RolloutState

ACTIONS_PER_PAGE = 5000
JITTER = 0.2  # of the interval, to either side
_RANDOM_BYTES = 2


@dataclass(frozen=True, slots=True)
class PollPacing:
    """How often devices are to poll.

    Attributes:
        idle_seconds: where nothing waits.
        busy_seconds: while a rollout runs.
        largest_rate: polls per second that the whole fleet may make; a larger fleet polls less often.
    """

    idle_seconds: float = 60.0
    busy_seconds: float = 5.0
    largest_rate: float = 2000.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a device may have now: an action, which attempt at it, and what the device is to do."""

    action_id: str
    attempt: int
    order: Order


@dataclass(frozen=True, slots=True)
class PendingAction:
    """What is known of an unfinished action without reading a row.

    Attributes:
        is_independent: its device may have it whatever becomes of its rollout.
        is_held: its device may not have it yet.
        kept: what the device was told to do, if that was not to install.
        is_given: its device was given the release.
    """

    action_id: str
    rollout_id: str
    stage_index: int
    is_independent: bool
    is_held: bool
    attempt: int
    kept: Order | None
    is_given: bool

    def to(self, order: Order) -> Waiting:
        """Return it with what its device is to do."""
        return Waiting(self.action_id, self.attempt, order)


@dataclass(frozen=True, slots=True)
class _Open:
    """A rollout that runs or is paused: what devices of each stage are to do.

    Attributes:
        release: its name.
        after: names of the releases that a device must run before.
    """

    state: RolloutState
    orders: tuple[Order, ...]
    release: str
    after: frozenset[str]

    def waiting(self, entry: PendingAction) -> Waiting | None:
        if self.state is RolloutState.RUNNING:
            return entry.to(self.orders[entry.stage_index])
        return None if entry.kept is None else entry.to(entry.kept)


class PendingActions:
    """Unfinished actions by device."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[PendingAction, ...]] = {}
        self._open: dict[str, _Open] = {}  # by rollout id

    @property
    def any_running(self) -> bool:
        """Whether a rollout runs."""
        return any(rollout.state is RolloutState.RUNNING for rollout in self._open.values())

    async def load(self, unit_of_work: UnitOfWorkFactory) -> None:
        """Read what is unfinished; at start, after the feed has taken its position."""
        async with unit_of_work(read_only=True) as work:
            for rollout_id in await work.rollouts.states():
                rollout = (await work.rollouts.get(rollout_id)).rollout
                release = await work.releases.get(rollout.release_id)
                opened = _Open(rollout.state, rollout.orders, release.name, await come_first(work, release))
                self._note(rollout_id, opened)
            number = 0
            while page := await work.actions.page_unfinished(after_number=number, limit=ACTIONS_PER_PAGE):
                for numbered in page:
                    action = numbered.action
                    self._put(action.device_id, _entry(action))
                number = page[-1].number

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed."""
        event = stored.event
        if event.type is EventType.ROLLOUT:
            self._note(event.subject_id, _opened(event.data))
        elif event.type is EventType.ACTION:
            device_id = str(event.data["device_id"])
            if event.data["is_final"]:
                self._drop(device_id, event.subject_id)
            else:
                self._put(device_id, _told(event.subject_id, str(event.data["rollout_id"]), event.data))

    def waiting(self, device_id: str) -> str | None:
        """Return the id of the action that the device may have now, or None."""
        found = self.first(device_id)
        return None if found is None else found.action_id

    def first(self, device_id: str) -> Waiting | None:
        """Return what the device may have now, or None."""
        whole = self._queues.get(device_id)
        if whole is None:
            return None
        queue = [entry for entry in whole if not entry.is_held]
        begun = [entry for entry in queue if entry.is_independent]
        if begun:
            return max(begun, key=lambda entry: entry.is_given).to(Order.INSTALL)
        given = sorted(queue, key=lambda entry: entry.kept is None)  # what it was given first
        opened = [(self._open.get(entry.rollout_id), entry) for entry in given]
        waiting = {rollout.release for entry in whole if (rollout := self._open.get(entry.rollout_id))}
        found = (
            rollout.waiting(entry)
            for rollout, entry in opened
            if rollout is not None and (entry.is_given or not rollout.after & waiting)
        )
        return next(filter(None, found), None)

    def devices_of(self, rollout_id: str) -> list[str]:
        """Return the devices with an unfinished action of a rollout."""
        return [
            device_id
            for device_id, queue in self._queues.items()
            if any(entry.rollout_id == rollout_id for entry in queue)
        ]

    def _note(self, rollout_id: str, rollout: _Open) -> None:
        if rollout.state in {RolloutState.RUNNING, RolloutState.PAUSED}:
            self._open[rollout_id] = rollout
        else:
            self._open.pop(rollout_id, None)

    def _put(self, device_id: str, entry: PendingAction) -> None:
        queue = self._queues.get(device_id, ())
        known = [old.action_id for old in queue]
        if entry.action_id in known:
            place = known.index(entry.action_id)
            self._queues[device_id] = (*queue[:place], entry, *queue[place + 1 :])
        else:
            self._queues[device_id] = (*queue, entry)

    def _drop(self, device_id: str, action_id: str) -> None:
        rest = tuple(entry for entry in self._queues.get(device_id, ()) if entry.action_id != action_id)
        if rest:
            self._queues[device_id] = rest
        else:
            self._queues.pop(device_id, None)


def _entry(action: Action) -> PendingAction:
    return PendingAction(
        action.action_id,
        action.rollout_id,
        action.stage_index,
        action.is_independent,
        is_held=action.is_held,
        attempt=action.attempt,
        kept=action.order if action.is_kept else None,
        is_given=action.state is not ActionState.SCHEDULED,
    )


def _opened(data: Mapping[str, JsonValue]) -> _Open:
    orders, after = (cast("Sequence[JsonValue]", data[name]) for name in ("orders", "after"))
    return _Open(
        RolloutState(str(data["state"])),
        tuple(Order(str(each)) for each in orders),
        str(data["release"]),
        frozenset(map(str, after)),
    )


def _told(action_id: str, rollout_id: str, data: Mapping[str, JsonValue]) -> PendingAction:
    attempt = data.get("attempt", 1)
    return PendingAction(
        action_id,
        rollout_id,
        int(str(data["stage_index"])),
        bool(data["is_independent"]),
        is_held=bool(data.get("is_held")),
        attempt=attempt if isinstance(attempt, int) else 1,
        kept=None if data["order"] is None else Order(str(data["order"])),
        is_given=data["state"] != ActionState.SCHEDULED,
    )


class Poll:
    """Answers polls."""

    def __init__(self, pending: PendingActions, *, pacing: PollPacing, entropy: Entropy) -> None:
        self._pending = pending
        self._pacing = pacing
        self._entropy = entropy

    def reply(self, device_id: str, *, fleet_size: int) -> PollReply:
        """Return what waits for a device, and when it is to ask again.

        Args:
            device_id: 128 hex digits.
            fleet_size: devices that poll.
        """
        share = int.from_bytes(self._entropy.octets(_RANDOM_BYTES), "big") / (1 << 8 * _RANDOM_BYTES)
        seconds = self.interval_seconds(fleet_size=fleet_size) * (1 + JITTER * (2 * share - 1))
        next_poll, waiting = round(seconds, 3), self._pending.first(device_id)
        if waiting is None:
            return PollReply(next_poll_seconds=next_poll)
        return PollReply(
            action_id=waiting.action_id, attempt=waiting.attempt, order=waiting.order, next_poll_seconds=next_poll
        )

    def interval_seconds(self, *, fleet_size: int) -> float:
        """Return the mean time between two polls of a device, as things stand."""
        wanted = self._pacing.busy_seconds if self._pending.any_running else self._pacing.idle_seconds
        return max(wanted, fleet_size / self._pacing.largest_rate)
