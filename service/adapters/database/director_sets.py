"""The Director's last metadata per device, and what runs on devices."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Slot
from protocol.updates import Order
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
        return await _put_rising(self._connection, director_sets, "version", values)


class SqlInstalled:
    """Implements `InstalledRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Mapping[Slot, str]]:
        """See `InstalledRepository.of`."""
        query = select(installed_images).where(installed_images.c.device_id.in_(device_ids))
        found: dict[str, dict[Slot, str]] = {}
        for row in await self._connection.execute(query):
            found.setdefault(row.device_id, {})[Slot(row.slot)] = row.sha256
        return found

    async def put(self, device_id: str, images: Mapping[Slot, str], *, at: datetime) -> None:
        """See `InstalledRepository.put`."""
        if not images:
            return
        rows = [
            {"device_id": device_id, "slot": slot, "sha256": sha256, "reported_at": at}
            for slot, sha256 in images.items()
        ]
        await self._connection.execute(upsert(self._connection, installed_images), rows)

    async def manifest(self, device_id: str) -> StoredManifest | None:
        """See `InstalledRepository.manifest`."""
        query = select(version_manifests).where(version_manifests.c.device_id == device_id)
        row = (await self._connection.execute(query)).first()
        return None if row is None else StoredManifest(**row._mapping)  # noqa: SLF001 - the row's public mapping

    async def put_manifest(self, manifest: StoredManifest) -> bool:
        """See `InstalledRepository.put_manifest`."""
        values = {name: getattr(manifest, name) for name in StoredManifest.__dataclass_fields__}
        return await _put_rising(self._connection, version_manifests, "counter", values)


async def _put_rising(connection: AsyncConnection, table: Table, column: str, values: dict[str, Any]) -> bool:
    """Insert or replace a device's row where a number rises; False where it does not."""
    result = await connection.execute(upsert(connection, table, rising=column), values)
    return result.rowcount == 1
