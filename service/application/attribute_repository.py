"""The port to the attributes of devices; part of a unit of work."""

from collections.abc import Collection, Mapping
from typing import Protocol

Attributes = Mapping[str, str]
"""Values by name."""


class AttributeRepository(Protocol):
    """Attributes of devices."""

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Attributes]:
        """Return the attributes of those of the devices that have any, by device id."""

    async def put(self, attributes: Mapping[str, Attributes]) -> None:
        """Store devices' attributes, by device id, in the place of all that they had."""
