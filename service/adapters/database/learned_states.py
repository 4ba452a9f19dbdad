"""Learned states and orders in the control database."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Core
from protocol.learned_backup import OrderKind
from service.adapters.database.learned_state_tables import learned_orders, learned_states
from service.adapters.database.upsert import upsert
from service.application.learned_state_repository import LearnedBackup, OrderState, StoredOrder

_IS_OPEN = learned_orders.c.state == OrderState.OPEN


class SqlLearnedStates:
    """Implements `LearnedStateRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, backup: LearnedBackup) -> None:
        """See `LearnedStateRepository.put`."""
        await self._connection.execute(upsert(self._connection, learned_states), asdict(backup))

    async def find(self, device_id: str, core: Core) -> LearnedBackup | None:
        """See `LearnedStateRepository.find`."""
        query = select(learned_states).where(learned_states.c.device_id == device_id, learned_states.c.core == core)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _backup(row)

    async def page(
        self, *, after: tuple[str, str] | None, limit: int, device_id: str | None = None
    ) -> Sequence[LearnedBackup]:
        """See `LearnedStateRepository.page`."""
        key = (learned_states.c.device_id, learned_states.c.core)
        query = select(learned_states).order_by(*key).limit(limit)
        if after is not None:
            query = query.where(tuple_(*key) > after)
        if device_id is not None:
            query = query.where(learned_states.c.device_id == device_id)
        return [_backup(row) for row in await self._connection.execute(query)]

    async def add_order(self, order: StoredOrder) -> None:
        """See `LearnedStateRepository.add_order`."""
        older = and_(learned_orders.c.device_id == order.device_id, learned_orders.c.core == order.core, _IS_OPEN)
        withdrawn = _closed(older, OrderState.WITHDRAWN, detail="a newer order came", at=order.ordered_at)
        await self._connection.execute(withdrawn)
        values = {name: value for name, value in asdict(order).items() if name != "number"}
        await self._connection.execute(insert(learned_orders), values)

    async def open_orders(self, device_id: str, *, limit: int) -> Sequence[StoredOrder]:
        """See `LearnedStateRepository.open_orders`."""
        query = select(learned_orders).where(learned_orders.c.device_id == device_id, _IS_OPEN)
        found = await self._connection.execute(query.order_by(learned_orders.c.number).limit(limit))
        return [_order(row) for row in found]

    async def settle(
        self, device_id: str, order_id: str, *, state: OrderState, detail: str, at: datetime
    ) -> StoredOrder | None:
        """See `LearnedStateRepository.settle`."""
        settled = and_(learned_orders.c.device_id == device_id, learned_orders.c.order_id == order_id, _IS_OPEN)
        closed = _closed(settled, state, detail=detail, at=at).returning(*learned_orders.c)
        row = (await self._connection.execute(closed)).first()
        return None if row is None else _order(row)

    async def has_order(self, device_id: str, order_id: str) -> bool:
        """See `LearnedStateRepository.has_order`."""
        known = exists().where(learned_orders.c.device_id == device_id, learned_orders.c.order_id == order_id)
        return bool(await self._connection.scalar(select(known)))

    async def page_orders(
        self, *, before: int | None, limit: int, device_id: str | None = None
    ) -> Sequence[StoredOrder]:
        """See `LearnedStateRepository.page_orders`."""
        query = select(learned_orders).order_by(learned_orders.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(learned_orders.c.number < before)
        if device_id is not None:
            query = query.where(learned_orders.c.device_id == device_id)
        return [_order(row) for row in await self._connection.execute(query)]

    async def forget_orders(self, *, settled_before: datetime) -> None:
        """See `LearnedStateRepository.forget_orders`."""
        await self._connection.execute(delete(learned_orders).where(learned_orders.c.settled_at < settled_before))


def _closed(which: ColumnElement[bool], state: OrderState, *, detail: str, at: datetime) -> Any:  # noqa: ANN401 - Update, with or without RETURNING
    return update(learned_orders).where(which).values(state=state, detail=detail, settled_at=at, content=None)


def _backup(row: Row[Any]) -> LearnedBackup:
    found = LearnedBackup(**row._mapping)  # noqa: SLF001 - the row's public mapping
    return replace(found, core=Core(found.core))


def _order(row: Row[Any]) -> StoredOrder:
    found = StoredOrder(**row._mapping)  # noqa: SLF001 - the row's public mapping
    return replace(found, core=Core(found.core), kind=OrderKind(found.kind), state=OrderState(found.state))
