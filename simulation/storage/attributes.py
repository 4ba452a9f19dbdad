"""Attributes of devices in memory."""

from collections.abc import Collection, Iterator, Mapping

from service.application.attribute_repository import Attributes
from simulation.storage.journal import Journal


class MemoryAttributes:
    """Implements `AttributeRepository`; devices with the same attributes share one row."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, Attributes] = {}
        self._shared: dict[frozenset[tuple[str, str]], Attributes] = {}
        self._holders: dict[tuple[str, str], dict[str, None]] = {}  # who ever had a value; the rows say who has

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Attributes]:
        """See `AttributeRepository.of`."""
        return {device_id: self._rows[device_id] for device_id in device_ids if device_id in self._rows}

    async def put(self, attributes: Mapping[str, Attributes]) -> None:
        """See `AttributeRepository.put`."""
        for device_id, values in attributes.items():
            if values:
                same = dict(sorted(values.items()))
                self._journal.put(self._rows, device_id, self._shared.setdefault(frozenset(same.items()), same))
                for pair in same.items():
                    self._holders.setdefault(pair, {})[device_id] = None
            else:
                self._journal.remove(self._rows, device_id)

    def holders(self, name: str, value: str) -> Iterator[str]:
        """Return the devices that have a value of an attribute."""
        known = self._holders.get((name, value), {})
        return (device_id for device_id in known if self._rows.get(device_id, {}).get(name) == value)
