"""Models' health in the control database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Row, delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Core
from protocol.health import HealthReport
from service.adapters.database.health_tables import counted_devices, model_health
from service.adapters.database.one_of import one_of
from service.adapters.database.upsert import insert_into, upsert
from service.application.health_repository import Counted, CountedKind
from service.domain.gates.arms import Arm
from service.domain.model_health import CoreHealth, CountedWindows, Past

MAX_DETAIL = 500  # characters
_COUNTED = TypeAdapter(CountedWindows)


class SqlHealth:
    """Implements `HealthRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, device_ids: Collection[str]) -> Mapping[tuple[str, Core], CoreHealth]:
        """See `HealthRepository.of`."""
        query = select(model_health).where(one_of(self._connection, model_health.c.device_id, device_ids))
        rows = await self._connection.execute(query)
        return {(row.device_id, Core(row.core)): _health(row) for row in rows}

    async def put(self, states: Sequence[CoreHealth]) -> None:
        """See `HealthRepository.put`."""
        # In the order of the key, so that two processes never wait for one another's rows.
        rows = sorted(map(_row, states), key=lambda row: (row["device_id"], row["core"]))
        if rows:
            await self._connection.execute(upsert(self._connection, model_health), rows)

    async def forget(self, *, received_before: datetime) -> None:
        """See `HealthRepository.forget`."""
        await self._connection.execute(delete(model_health).where(model_health.c.received_at < received_before))

    async def count(self, counted: Sequence[Counted]) -> None:
        """See `HealthRepository.count`."""
        rows = [{**asdict(each), "detail": each.detail[:MAX_DETAIL]} for each in counted]
        if rows:
            await self._connection.execute(
                insert_into(self._connection, counted_devices).on_conflict_do_nothing(), rows
            )

    async def uncount(
        self, rollout_id: str, gate: str, *, events: Collection[str], since: datetime, before: datetime
    ) -> frozenset[str]:
        """See `HealthRepository.uncount`."""
        rows = delete(counted_devices).where(
            counted_devices.c.rollout_id == rollout_id,
            counted_devices.c.gate == gate,
            counted_devices.c.what.in_(sorted(events)),
            counted_devices.c.at >= since,
            counted_devices.c.at < before,
        )
        gone = await self._connection.execute(rows.returning(counted_devices.c.device_id))
        return frozenset(gone.scalars())

    async def counted(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, frozenset[str]]:
        """See `HealthRepository.counted`."""
        query = select(counted_devices.c.device_id, counted_devices.c.gate).where(
            counted_devices.c.rollout_id == rollout_id,
            one_of(self._connection, counted_devices.c.device_id, device_ids),
        )
        found: dict[str, frozenset[str]] = {}
        for device_id, gate in await self._connection.execute(query):
            found[device_id] = found.get(device_id, frozenset()) | {gate}
        return found

    async def page_counted(
        self, rollout_id: str, *, after: tuple[str, str] | None, limit: int, gate: str | None = None
    ) -> Sequence[Counted]:
        """See `HealthRepository.page_counted`."""
        key = (counted_devices.c.gate, counted_devices.c.device_id)
        query = select(counted_devices).where(counted_devices.c.rollout_id == rollout_id).order_by(*key).limit(limit)
        if after is not None:
            query = query.where(tuple_(*key) > after)
        if gate is not None:
            query = query.where(counted_devices.c.gate == gate)
        return [_counted(row) for row in await self._connection.execute(query)]

    async def counted_kinds(self, rollout_id: str) -> Mapping[CountedKind, int]:
        """See `HealthRepository.counted_kinds`."""
        kind = (counted_devices.c.gate, counted_devices.c.arm, counted_devices.c.what)
        query = select(*kind, func.count()).where(counted_devices.c.rollout_id == rollout_id).group_by(*kind)
        rows = await self._connection.execute(query)
        return {CountedKind(gate, Arm(arm), what): devices for gate, arm, what, devices in rows}

    async def first_counted(self, rollout_id: str, kind: CountedKind, *, limit: int) -> Sequence[Counted]:
        """See `HealthRepository.first_counted`."""
        query = select(counted_devices).where(
            counted_devices.c.rollout_id == rollout_id,
            counted_devices.c.gate == kind.gate,
            counted_devices.c.arm == kind.arm,
            counted_devices.c.what == kind.what,
        )
        query = query.order_by(counted_devices.c.at, counted_devices.c.device_id).limit(limit)
        return [_counted(row) for row in await self._connection.execute(query)]


def _row(state: CoreHealth) -> dict[str, Any]:
    return {
        "device_id": state.device_id,
        "core": state.last.core,
        "received_at": state.received_at,
        "last": state.last.model_dump(mode="json"),
        "past": asdict(state.past),
        "before": None if state.before is None else asdict(state.before),
        "counted": None if state.counted is None else _COUNTED.dump_python(state.counted, mode="json"),
    }


def _health(row: Row[Any]) -> CoreHealth:
    return CoreHealth(
        device_id=row.device_id,
        last=HealthReport.model_validate(row.last),
        received_at=row.received_at,
        past=Past(**row.past),
        before=None if row.before is None else Past(**row.before),
        counted=None if row.counted is None else _COUNTED.validate_python(row.counted),
    )


def _counted(row: Row[Any]) -> Counted:
    return Counted(**{**row._mapping, "arm": Arm(row.arm)})  # noqa: SLF001 - the row's public mapping
