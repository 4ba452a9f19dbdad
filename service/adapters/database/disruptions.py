"""What disruption budgets count, in the control database."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import and_, delete, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.actions import action_of
from service.adapters.database.advisory_locks import AdvisoryLock
from service.adapters.database.device_counts import count_of
from service.adapters.database.one_of import one_of
from service.adapters.database.update_tables import AT_PLACE, RUNNING, actions, places_at_work, rollouts
from service.application.disruption_repository import Place
from service.domain.action import Action, Hold
from service.domain.rollout import RolloutState

_BEGIN = text(
    "INSERT INTO places_at_work (place, action_id, device_id)"
    " SELECT device_attributes.name || '=' || device_attributes.value, actions.action_id, actions.device_id"
    " FROM actions JOIN device_attributes ON device_attributes.device_id = actions.device_id"
    " WHERE actions.action_id = :action_id ON CONFLICT DO NOTHING"
)
_LOCK = text("SELECT pg_advisory_xact_lock(:purpose, hashtext(:place))")


class SqlDisruptions:
    """Implements `DisruptionRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def hold(self, place: Place) -> None:
        """See `DisruptionRepository.hold`; SQLite has one writer."""
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(_LOCK, {"purpose": int(AdvisoryLock.DISRUPTION), "place": str(place)})

    async def members(self, place: Place) -> int:
        """See `DisruptionRepository.members`."""
        return await count_of(self._connection, str(place))

    async def begin(self, actions: Collection[Action]) -> None:
        """See `DisruptionRepository.begin`."""
        if actions:
            await self._connection.execute(_BEGIN, [{"action_id": action.action_id} for action in actions])

    async def end(self, action_ids: Collection[str]) -> Mapping[str, Sequence[Place]]:
        """See `DisruptionRepository.end`."""
        if not action_ids:
            return {}
        those = delete(places_at_work).where(one_of(self._connection, places_at_work.c.action_id, action_ids))
        gone = await self._connection.execute(those.returning(places_at_work.c.place, places_at_work.c.action_id))
        found: dict[str, list[Place]] = {}
        for row in sorted(gone, key=lambda row: row.place):
            found.setdefault(row.action_id, []).append(Place.parse(row.place))
        return found

    async def at_work(self, place: Place, *, limit: int) -> Sequence[str]:
        """See `DisruptionRepository.at_work`."""
        # A version that keeps no places may have ended it: what counts is the action.
        runs = and_(
            actions.c.device_id == places_at_work.c.device_id,
            actions.c.action_id == places_at_work.c.action_id,
            RUNNING,
        )
        query = select(places_at_work.c.device_id).join(actions, runs).where(places_at_work.c.place == str(place))
        return list(await self._connection.scalars(query.limit(limit)))

    async def called(self, place: Place, *, since: datetime) -> int:
        """See `DisruptionRepository.called`."""
        is_called = or_(
            and_(actions.c.hold == Hold.BUDGET, actions.c.not_before.is_not(None)),
            and_(actions.c.hold.is_(None), actions.c.progressed_at > since),
        )
        query = select(func.count()).select_from(actions).where(AT_PLACE, actions.c.place == str(place), _RUNS)
        return int(await self._connection.scalar(query.where(is_called)) or 0)

    async def waiting(self, place: Place, *, limit: int) -> Sequence[Action]:
        """See `DisruptionRepository.waiting`."""
        query = select(actions).where(AT_PLACE, actions.c.place == str(place), _WAITS, _RUNS)
        return [action_of(row) for row in await self._connection.execute(query.order_by(actions.c.number).limit(limit))]

    async def waited_for(self, places: Collection[Place]) -> Sequence[Place]:
        """See `DisruptionRepository.waited_for`."""
        named = {str(place): place for place in places}
        condition = one_of(self._connection, actions.c.place, named)
        query = select(actions.c.place).where(AT_PLACE, condition, _WAITS).distinct()
        return [named[name] for name in sorted(await self._connection.scalars(query))]

    async def waited_for_by(self, rollout_ids: Collection[str]) -> Sequence[Place]:
        """See `DisruptionRepository.waited_for_by`."""
        condition = one_of(self._connection, actions.c.rollout_id, rollout_ids)
        query = select(actions.c.place).where(AT_PLACE, condition, _WAITS).distinct()
        return [Place.parse(name) for name in sorted(await self._connection.scalars(query))]

    async def is_anybody_waiting(self) -> bool:
        """See `DisruptionRepository.is_anybody_waiting`."""
        # In the order of the index of those at places alone: others that are held may be the whole fleet.
        query = select(actions.c.place).where(AT_PLACE, _WAITS).order_by(actions.c.place).limit(1)
        return await self._connection.scalar(query) is not None


_RUNS = actions.c.rollout_id.in_(select(rollouts.c.rollout_id).where(rollouts.c.state == RolloutState.RUNNING))
_WAITS = and_(actions.c.hold == Hold.BUDGET, actions.c.not_before.is_(None))
