"""Attributes of devices in memory."""

from collections.abc import Collection, Mapping

from service.application.attribute_repository import Attributes
from simulation.storage.journal import Journal


class MemoryAttributes:
    """Implements `AttributeRepository`; devices with the same attributes share one row."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, Attributes] = {}
        self._shared: dict[frozenset[tuple[str, str]], Attributes] = {}

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Attributes]:
        """See `AttributeRepository.of`."""
        return {device_id: self._rows[device_id] for device_id in device_ids if device_id in self._rows}

    async def put(self, attributes: Mapping[str, Attributes]) -> None:
        """See `AttributeRepository.put`."""
        for device_id, values in attributes.items():
            if values:
                same = dict(sorted(values.items()))
                self._journal.put(self._rows, device_id, self._shared.setdefault(frozenset(same.items()), same))
            else:
                self._journal.remove(self._rows, device_id)
