"""Actions in the control database."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.messages import ActionState, Cause
from protocol.shadow import ShadowCounts
from protocol.updates import Order
from service.adapters.database.conditions import meets
from service.adapters.database.device_counts import count_of
from service.adapters.database.device_tables import devices
from service.adapters.database.one_of import one_of
from service.adapters.database.prefixes import begins_with
from service.adapters.database.update_tables import actions
from service.application.update_repositories import NumberedAction
from service.domain.action import Action, Attempt, Hold, UnknownActionError
from service.domain.membership import ENROLLED_STATES
from service.domain.targets import EVERYBODY, Condition

_COUNTED = text("NOT actions.heals")  # as the index says it
_ENDED_BADLY = text("actions.state IN ('failed', 'reverted', 'timed-out', 'cancelled')")  # as the index says it
_COMPARED = text("actions.agrees IS NOT NULL")  # as the index says it
_OFFERED = text("actions.offered")  # as the index says it
_MUTABLE = (
    "state",
    "sequence",
    "cause",
    "detail",
    "offered",
    "past",
    "blames",
    "failed_at",
    "not_before",
    "hold",
    "place",
    "deferrals",
    "progressed_at",
    "due_at",
    "order",
    "shadow",
    "agrees",
)
_IS_SCHEDULED = actions.c.state == literal_column(f"'{ActionState.SCHEDULED}'")
_HOLDING = (_IS_SCHEDULED, actions.c.hold.is_not(None))
_HELD = (_IS_SCHEDULED, actions.c.not_before.is_not(None), text("actions.hold <> 'retry'"))  # as the index says it


class SqlActions:
    """Implements `ActionRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, new: Sequence[Action]) -> None:
        """See `ActionRepository.add`."""
        if new:
            rows = [{**_values(action), "created_at": action.progressed_at} for action in new]
            await self._connection.execute(insert(actions), rows)

    async def get(self, action_id: str, *, lock: bool = False) -> Action:
        """See `ActionRepository.get`."""
        query = select(actions).where(actions.c.action_id == action_id)
        row = (await self._connection.execute(query.with_for_update(key_share=True) if lock else query)).first()
        if row is None:
            raise UnknownActionError(f"action: expected one of this device, found none of id {action_id[:60]!r}")
        return action_of(row)

    async def save(self, changed: Sequence[Action]) -> None:
        """See `ActionRepository.save`."""
        if not changed:
            return
        columns: dict[str, BindParameter[Any]] = {name: bindparam(f"new_{name}") for name in _MUTABLE}
        statement = update(actions).where(actions.c.action_id == bindparam("which")).values(columns)
        rows = [
            {"which": action.action_id, **{f"new_{name}": value for name, value in _mutable(action).items()}}
            for action in changed
        ]
        await self._connection.execute(statement, rows)

    async def queue(self, device_id: str) -> Sequence[Action]:
        """See `ActionRepository.queue`."""
        found = await self.unfinished([device_id])
        return sorted(found, key=lambda action: action.state is ActionState.SCHEDULED)

    async def unfinished(self, device_ids: Collection[str]) -> Sequence[Action]:
        """See `ActionRepository.unfinished`."""
        query = select(actions).where(actions.c.device_id.in_(device_ids), actions.c.due_at.is_not(None))
        return await self._fetch(query.order_by(actions.c.number))

    async def newest(self, device_id: str) -> Action | None:
        """See `ActionRepository.newest`."""
        query = select(actions).where(actions.c.device_id == device_id).order_by(actions.c.number.desc()).limit(1)
        return next(iter(await self._fetch(query)), None)

    async def newest_of(self, device_ids: Collection[str]) -> Mapping[str, Action]:
        """See `ActionRepository.newest_of`."""
        is_wanted = one_of(self._connection, actions.c.device_id, device_ids)
        numbers = select(func.max(actions.c.number)).where(is_wanted).group_by(actions.c.device_id)
        query = select(actions).where(actions.c.number.in_(numbers))
        return {action.device_id: action for action in await self._fetch(query)}

    async def known(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, int]:
        """See `ActionRepository.known`."""
        query = select(actions.c.device_id, actions.c.stage_index).where(
            actions.c.rollout_id == rollout_id, actions.c.device_id.in_(device_ids), _COUNTED
        )
        return {row.device_id: row.stage_index for row in await self._connection.execute(query)}

    async def of_devices(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, Action]:
        """See `ActionRepository.of_devices`."""
        is_wanted = one_of(self._connection, actions.c.device_id, device_ids)
        query = select(actions).where(actions.c.rollout_id == rollout_id, is_wanted, _COUNTED)
        return {action.device_id: action for action in await self._fetch(query)}

    async def scheduled(self, rollout_id: str, *, limit: int) -> Sequence[Action]:
        """See `ActionRepository.scheduled`."""
        query = select(actions).where(actions.c.rollout_id == rollout_id, actions.c.state == ActionState.SCHEDULED)
        query = query.where(_COUNTED)
        return await self._fetch(query.order_by(actions.c.number).limit(limit))

    async def ended_badly(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """See `ActionRepository.ended_badly`."""
        condition = (actions.c.rollout_id == rollout_id) & _ENDED_BADLY & _COUNTED
        return await self._numbered(condition, after_number=after_number, limit=limit)

    async def held(self, rollout_id: str, *, until: datetime, limit: int) -> Sequence[Action]:
        """See `ActionRepository.held`."""
        query = select(actions).where(actions.c.rollout_id == rollout_id, *_HELD, actions.c.not_before <= until)
        return await self._fetch(query.order_by(actions.c.not_before).limit(limit))

    async def holds(self, rollout_id: str) -> Mapping[Hold, int]:
        """See `ActionRepository.holds`."""
        query = select(actions.c.hold, func.count()).where(actions.c.rollout_id == rollout_id, *_HOLDING)
        rows = await self._connection.execute(query.group_by(actions.c.hold))
        return {Hold(hold): count for hold, count in rows}

    async def first_holding(self, rollout_id: str, hold: Hold, *, limit: int) -> Sequence[Action]:
        """See `ActionRepository.first_holding`."""
        query = select(actions).where(actions.c.rollout_id == rollout_id, *_HOLDING, actions.c.hold == hold)
        return await self._fetch(query.order_by(actions.c.number).limit(limit))

    async def first_held(self, rollout_id: str) -> datetime | None:
        """See `ActionRepository.first_held`."""
        query = select(actions.c.not_before).where(actions.c.rollout_id == rollout_id, *_HELD)
        found: datetime | None = await self._connection.scalar(query.order_by(actions.c.not_before).limit(1))
        return found

    async def failed(self, rollout_id: str, *, until: datetime) -> Mapping[frozenset[Cause], int]:
        """See `ActionRepository.failed`."""
        query = select(actions.c.blames, func.count()).where(*_failed_by(rollout_id, until)).group_by(actions.c.blames)
        return {_causes(blames): count for blames, count in await self._connection.execute(query)}

    async def first_failed(
        self, rollout_id: str, causes: frozenset[Cause], *, until: datetime, limit: int
    ) -> Sequence[Action]:
        """See `ActionRepository.first_failed`."""
        query = select(actions).where(*_failed_by(rollout_id, until), actions.c.blames == "+".join(sorted(causes)))
        return await self._fetch(query.order_by(actions.c.failed_at, actions.c.number).limit(limit))

    async def compared(self, rollout_id: str) -> Mapping[bool, int]:
        """See `ActionRepository.compared`."""
        query = select(actions.c.agrees, func.count()).where(actions.c.rollout_id == rollout_id, _COMPARED)
        rows = await self._connection.execute(query.group_by(actions.c.agrees))
        return {bool(agrees): count for agrees, count in rows}

    async def first_compared(self, rollout_id: str, *, agrees: bool, limit: int) -> Sequence[Action]:
        """See `ActionRepository.first_compared`."""
        said = (actions.c.rollout_id == rollout_id, _COMPARED, actions.c.agrees == agrees)
        return await self._fetch(select(actions).where(*said).order_by(actions.c.number).limit(limit))

    async def due(self, now: datetime, *, limit: int) -> Sequence[Action]:
        """See `ActionRepository.due`."""
        query = select(actions).where(actions.c.due_at <= now)
        return await self._fetch(query.order_by(actions.c.due_at).limit(limit))

    async def page(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """See `ActionRepository.page`."""
        return await self._numbered(actions.c.rollout_id == rollout_id, after_number=after_number, limit=limit)

    async def page_unfinished(self, *, after_number: int, limit: int) -> Sequence[NumberedAction]:
        """See `ActionRepository.page_unfinished`."""
        return await self._numbered(actions.c.due_at.is_not(None), after_number=after_number, limit=limit)

    async def members(self, group_id: str, *, begins: str, condition: Condition = EVERYBODY) -> Sequence[str]:
        """See `ActionRepository.members`."""
        query = select(devices.c.device_id).where(_is_member(group_id), begins_with(devices.c.device_id, begins))
        query = query.where(meets(condition, devices.c.device_id, begins=begins))
        return list(await self._connection.scalars(query))

    async def exposed(self, rollout_id: str, group_id: str, *, begins: str, limit: int | None = None) -> Sequence[str]:
        """See `ActionRepository.exposed`."""
        query = _exposed(rollout_id, group_id).where(begins_with(actions.c.device_id, begins))
        return list(await self._connection.scalars(query.limit(limit)))

    async def count_members(self, group_id: str, *, condition: Condition = EVERYBODY) -> int:
        """See `ActionRepository.count_members`."""
        if condition == EVERYBODY:
            return await count_of(self._connection, group_id)
        query = select(func.count()).select_from(devices).where(_is_member(group_id))
        query = query.where(meets(condition, devices.c.device_id, begins=""))
        return await self._connection.scalar(query) or 0

    async def count_exposed(self, rollout_id: str, group_id: str) -> int:
        """See `ActionRepository.count_exposed`."""
        query = select(func.count()).select_from(_exposed(rollout_id, group_id).subquery())
        return await self._connection.scalar(query) or 0

    async def missed(self, rollout_id: str, *, by: str | None, limit: int) -> Sequence[str]:
        """See `ActionRepository.missed`."""
        query = _missed(rollout_id, by).order_by(actions.c.device_id).limit(limit)
        return list(await self._connection.scalars(query))

    async def count_missed(self, rollout_id: str, *, by: str | None) -> int:
        """See `ActionRepository.count_missed`."""
        query = select(func.count()).select_from(_missed(rollout_id, by).subquery())
        return await self._connection.scalar(query) or 0

    async def _numbered(self, condition: Any, *, after_number: int, limit: int) -> list[NumberedAction]:  # noqa: ANN401
        query = select(actions).where(condition, actions.c.number > after_number)
        rows = await self._connection.execute(query.order_by(actions.c.number).limit(limit))
        return [NumberedAction(row.number, action_of(row)) for row in rows]

    async def _fetch(self, query: Select[Any]) -> list[Action]:
        return [action_of(row) for row in await self._connection.execute(query)]


def _is_member(group_id: str) -> ColumnElement[bool]:
    return and_(devices.c.group_id == group_id, devices.c.state.in_(ENROLLED_STATES))


def _given(rollout_id: str) -> Select[tuple[str]]:
    return select(actions.c.device_id).distinct().where(actions.c.rollout_id == rollout_id, _OFFERED)


def _exposed(rollout_id: str, group_id: str) -> Select[tuple[str]]:
    given = _given(rollout_id).join(devices, devices.c.device_id == actions.c.device_id)
    return given.where(_is_member(group_id))


def _missed(rollout_id: str, by: str | None) -> Select[tuple[str]]:
    if by is None:
        return _given(rollout_id)
    others = actions.alias("others")
    is_its = and_(others.c.rollout_id == by, others.c.device_id == actions.c.device_id)
    has_part = select(others.c.action_id).where(is_its, others.c.state != ActionState.CANCELLED)
    return _given(rollout_id).where(~has_part.exists())


def _failed_by(rollout_id: str, until: datetime) -> tuple[ColumnElement[bool], ...]:
    return actions.c.rollout_id == rollout_id, actions.c.blames.is_not(None), actions.c.failed_at <= until


def _causes(blames: str) -> frozenset[Cause]:
    return frozenset(map(Cause, blames.split("+")))


def _values(action: Action) -> dict[str, Any]:
    fixed = ("action_id", "rollout_id", "device_id", "stage_index", "heals")
    return {name: getattr(action, name) for name in fixed} | _mutable(action)


def _mutable(action: Action) -> dict[str, Any]:
    derived = {
        "past": [_attempt_row(each) for each in action.past],
        "blames": "+".join(sorted(action.all_blames)) or None,
        "shadow": _shadow_row(action.shadow),
    }
    return {name: derived[name] if name in derived else getattr(action, name) for name in _MUTABLE}


def _attempt_row(attempt: Attempt) -> dict[str, Any]:
    return {
        "state": attempt.state,
        "cause": attempt.cause,
        "detail": attempt.detail,
        "ended_at": attempt.ended_at.isoformat(),
        "offered": attempt.offered,
        "shadow": _shadow_row(attempt.shadow),
        "agrees": attempt.agrees,
    }


def _shadow_row(counts: ShadowCounts | None) -> dict[str, Any] | None:
    return None if counts is None else counts.model_dump(mode="json")


def _shadow(row: dict[str, Any] | None) -> ShadowCounts | None:
    return None if row is None else ShadowCounts.model_validate(row)


def _attempt(row: dict[str, Any]) -> Attempt:
    return Attempt(
        state=ActionState(row["state"]),
        cause=None if row["cause"] is None else Cause(row["cause"]),
        detail=row["detail"],
        ended_at=datetime.fromisoformat(row["ended_at"]),
        offered=row["offered"],
        shadow=_shadow(row.get("shadow")),
        agrees=row.get("agrees"),
    )


def action_of(row: Row[Any]) -> Action:
    """Return the action of a row."""
    return Action(
        action_id=row.action_id,
        rollout_id=row.rollout_id,
        device_id=row.device_id,
        stage_index=row.stage_index,
        state=ActionState(row.state),
        progressed_at=row.progressed_at,
        due_at=row.due_at,
        sequence=row.sequence,
        cause=None if row.cause is None else Cause(row.cause),
        detail=row.detail,
        offered=row.offered,
        heals=row.heals,
        past=tuple(map(_attempt, row.past)),
        not_before=row.not_before,
        hold=None if row.hold is None else Hold(row.hold),
        place=row.place,
        deferrals=row.deferrals,
        order=Order(row.order),
        shadow=_shadow(row.shadow),
        agrees=row.agrees,
    )
