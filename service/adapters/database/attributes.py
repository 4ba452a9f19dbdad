"""Attributes of devices in the control database."""

from collections.abc import Collection, Mapping

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.device_tables import device_attributes
from service.adapters.database.one_of import one_of
from service.application.attribute_repository import Attributes


class SqlAttributes:
    """Implements `AttributeRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Attributes]:
        """See `AttributeRepository.of`."""
        query = select(device_attributes).where(one_of(self._connection, device_attributes.c.device_id, device_ids))
        found: dict[str, dict[str, str]] = {}
        for row in await self._connection.execute(query.order_by(device_attributes.c.name)):
            found.setdefault(row.device_id, {})[row.name] = row.value
        return found

    async def put(self, attributes: Mapping[str, Attributes]) -> None:
        """See `AttributeRepository.put`."""
        if not attributes:
            return
        column = device_attributes.c.device_id
        await self._connection.execute(delete(device_attributes).where(one_of(self._connection, column, attributes)))
        rows = [
            {"device_id": device_id, "name": name, "value": value}
            for device_id, values in sorted(attributes.items())
            for name, value in values.items()
        ]
        if rows:
            await self._connection.execute(insert(device_attributes), rows)
