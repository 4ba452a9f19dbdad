"""The Director's last metadata per device, and what runs on devices."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Slot
from protocol.updates import Order
from service.adapters.database.one_of import one_of
from service.adapters.database.update_tables import director_sets, installed_images, version_manifests
from service.adapters.database.upsert import upsert
from service.application.update_repositories import DirectorSet, StoredManifest


class SqlDirectorSets:
    """Implements `DirectorRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, device_id: str) -> DirectorSet | None:
        """See `DirectorRepository.find`."""
        query = select(director_sets).where(director_sets.c.device_id == device_id)
        row = (await self._connection.execute(query)).first()
        if row is None:
            return None
        return DirectorSet(**{**row._mapping, "order": Order(row.order)})  # noqa: SLF001 - the row's public mapping

    async def put(self, director_set: DirectorSet) -> bool:
        """See `DirectorRepository.put`."""
        values = {name: getattr(director_set, name) for name in DirectorSet.__dataclass_fields__}
        result = await self._connection.execute(upsert(self._connection, director_sets, rising="version"), values)
        return result.rowcount == 1


class SqlInstalled:
    """Implements `InstalledRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Mapping[Slot, str]]:
        """See `InstalledRepository.of`."""
        query = select(installed_images).where(one_of(self._connection, installed_images.c.device_id, device_ids))
        found: dict[str, dict[Slot, str]] = {}
        for row in await self._connection.execute(query):
            found.setdefault(row.device_id, {})[Slot(row.slot)] = row.sha256
        return found

    async def put(self, device_id: str, images: Mapping[Slot, str], *, at: datetime) -> None:
        """See `InstalledRepository.put`."""
        await self.put_all({device_id: images}, at=at)

    async def put_all(self, images: Mapping[str, Mapping[Slot, str]], *, at: datetime) -> None:
        """See `InstalledRepository.put_all`; rows are locked in the order of the key."""
        rows = [
            {"device_id": device_id, "slot": slot, "sha256": sha256, "reported_at": at}
            for device_id, its in sorted(images.items())
            for slot, sha256 in sorted(its.items())
        ]
        if rows:
            await self._connection.execute(upsert(self._connection, installed_images), rows)

    async def manifests(self, device_ids: Collection[str]) -> Mapping[str, StoredManifest]:
        """See `InstalledRepository.manifests`."""
        is_wanted = one_of(self._connection, version_manifests.c.device_id, device_ids)
        rows = await self._connection.execute(select(version_manifests).where(is_wanted))
        return {row.device_id: StoredManifest(**row._mapping) for row in rows}  # noqa: SLF001 - the row's public mapping

    async def put_manifests(self, manifests: Sequence[StoredManifest]) -> Collection[str]:
        """See `InstalledRepository.put_manifests`; rows are locked in the order of the key."""
        if not manifests:
            return ()
        ordered = sorted(manifests, key=lambda manifest: manifest.device_id)
        rows = [{name: getattr(one, name) for name in StoredManifest.__dataclass_fields__} for one in ordered]
        statement = upsert(self._connection, version_manifests, rising="counter")
        return list(await self._connection.scalars(statement.returning(version_manifests.c.device_id), rows))
