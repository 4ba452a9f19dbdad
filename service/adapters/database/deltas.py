"""Patches in the database, and what devices have that they could start from."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import Row, Select, delete, exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Slot
from service.adapters.database.supply_chain_tables import deltas
from service.adapters.database.update_tables import installed_images
from service.adapters.database.upsert import insert_into, upsert
from service.application.delta_repository import Delta, DeltaState

_KEY = tuple_(deltas.c.from_sha256, deltas.c.to_sha256)


class SqlDeltas:
    """Implements `DeltaRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def queue(self, queued: Sequence[Delta]) -> int:
        """See `DeltaRepository.queue`."""
        if not queued:
            return 0
        added = insert_into(self._connection, deltas).on_conflict_do_nothing().returning(deltas.c.from_sha256)
        return len((await self._connection.execute(added.values([asdict(delta) for delta in queued]))).all())

    async def next_queued(self) -> Delta | None:
        """See `DeltaRepository.next_queued`."""
        query = _of_state(DeltaState.QUEUED).order_by(deltas.c.updated_at, deltas.c.to_sha256, deltas.c.from_sha256)
        row = (await self._connection.execute(query.limit(1))).first()
        return None if row is None else _delta(row)

    async def find(self, from_sha256: str, to_sha256: str) -> Delta | None:
        """See `DeltaRepository.find`."""
        query = select(deltas).where(deltas.c.from_sha256 == from_sha256, deltas.c.to_sha256 == to_sha256)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _delta(row)

    async def save(self, delta: Delta) -> None:
        """See `DeltaRepository.save`."""
        await self._connection.execute(upsert(self._connection, deltas), asdict(delta))

    async def remove(self, removed: Sequence[Delta]) -> None:
        """See `DeltaRepository.remove`."""
        keys = [(delta.from_sha256, delta.to_sha256) for delta in removed]
        await self._connection.execute(delete(deltas).where(_KEY.in_(keys)))

    async def page(self, *, after: tuple[str, str], limit: int) -> Sequence[Delta]:
        """See `DeltaRepository.page`."""
        key = tuple_(deltas.c.to_sha256, deltas.c.from_sha256)
        query = select(deltas).where(key > after).order_by(deltas.c.to_sha256, deltas.c.from_sha256).limit(limit)
        return [_delta(row) for row in await self._connection.execute(query)]

    async def current(self, *, limit: int) -> Sequence[Delta]:
        """See `DeltaRepository.current`."""
        query = _of_state(DeltaState.QUEUED, DeltaState.OFFERED).limit(limit)
        query = query.order_by(deltas.c.created_at.desc(), deltas.c.to_sha256, deltas.c.from_sha256)
        return [_delta(row) for row in await self._connection.execute(query)]

    async def unwanted(self, slots: Collection[Slot], *, limit: int) -> Sequence[Delta]:
        """See `DeltaRepository.unwanted`."""
        installed = exists().where(
            installed_images.c.slot.in_(slots), installed_images.c.sha256 == deltas.c.from_sha256
        )
        query = select(deltas).where(~installed, deltas.c.state != DeltaState.WITHDRAWN)
        query = query.order_by(deltas.c.to_sha256, deltas.c.from_sha256).limit(limit)
        return [_delta(row) for row in await self._connection.execute(query)]

    async def left_over(self, *, limit: int) -> Sequence[Delta]:
        """See `DeltaRepository.left_over`."""
        is_needed = deltas.c.state.in_([DeltaState.QUEUED, DeltaState.OFFERED])
        query = select(deltas).where(~is_needed, deltas.c.patch_sha256.is_not(None)).limit(limit)
        return [_delta(row) for row in await self._connection.execute(query)]

    async def installed_in(self, slot: Slot, *, limit: int) -> Mapping[str, int]:
        """See `DeltaRepository.installed_in`."""
        sha256, devices = installed_images.c.sha256, func.count()
        query = select(sha256, devices).where(installed_images.c.slot == slot).group_by(sha256)
        found = await self._connection.execute(query.order_by(devices.desc(), sha256).limit(limit))
        return {row[0]: row[1] for row in found}


def _of_state(*states: DeltaState) -> Select[tuple[object, ...]]:
    return select(deltas).where(deltas.c.state.in_(states))


def _delta(row: Row[tuple[object, ...]]) -> Delta:
    facts = dict(row._mapping)  # noqa: SLF001 - the row's public mapping
    return Delta(**facts | {"state": DeltaState(facts["state"])})
