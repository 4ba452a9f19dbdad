"""Devices by site of a rollout in the control database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.messages import Cause
from service.adapters.database.update_tables import rollout_sites
from service.adapters.database.upsert import upsert
from service.domain.sites import SiteDevice


class SqlSites:
    """Implements `SiteRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, rollout_id: str, attribute: str, device_ids: Collection[str]) -> Mapping[str, SiteDevice]:
        """See `SiteRepository.find`."""
        query = select(rollout_sites).where(
            rollout_sites.c.rollout_id == rollout_id,
            rollout_sites.c.attribute == attribute,
            rollout_sites.c.device_id.in_(device_ids),
        )
        return {row.device_id: _device(row) for row in await self._connection.execute(query)}

    async def members(
        self, rollout_id: str, attribute: str, sites: Collection[str]
    ) -> Mapping[str, Sequence[SiteDevice]]:
        """See `SiteRepository.members`."""
        query = select(rollout_sites).where(
            rollout_sites.c.rollout_id == rollout_id,
            rollout_sites.c.attribute == attribute,
            rollout_sites.c.site.in_(sites),
        )
        found: dict[str, list[SiteDevice]] = {}
        for row in await self._connection.execute(query.order_by(rollout_sites.c.site, rollout_sites.c.place)):
            found.setdefault(row.site, []).append(_device(row))
        return found

    async def put(self, rollout_id: str, devices: Sequence[SiteDevice]) -> None:
        """See `SiteRepository.put`."""
        rows = [
            {
                "rollout_id": rollout_id,
                "attribute": device.attribute,
                "device_id": device.device_id,
                "site": device.site,
                "place": device.place,
                "causes": sorted(device.causes),
                "is_settled": device.is_settled,
                "is_confirmed": device.is_confirmed,
            }
            for device in devices
        ]
        await self._connection.execute(upsert(self._connection, rollout_sites), rows)


def _device(row: Row[Any]) -> SiteDevice:
    return SiteDevice(
        device_id=row.device_id,
        attribute=row.attribute,
        site=row.site,
        place=row.place,
        causes=frozenset(map(Cause, row.causes)),
        is_settled=row.is_settled,
        is_confirmed=row.is_confirmed,
    )
