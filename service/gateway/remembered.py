"""Subscriptions in memory before the database, where this process is the only gateway.

A device reconnects far more often than it subscribes, and a read through the asynchronous database costs more than the
rest of a resumed connection. With several gateway processes on one database do not use it: they would not see each
other's writes.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from typing_extensions import override

from service.application.messaging import SubscriptionStore

_REMEMBERED_DEVICES = 100_000


class RememberedSubscriptions(SubscriptionStore):
    """A `SubscriptionStore` that writes through to another and reads from it once per device."""

    def __init__(self, store: SubscriptionStore) -> None:
        self._store = store
        self._by_device: OrderedDict[str, Mapping[str, int]] = OrderedDict()
        self._writes = 0

    @override
    async def load(self, device_id: str) -> Mapping[str, int]:
        """See `SubscriptionStore.load`."""
        known = self._by_device.get(device_id)
        if known is not None:
            self._by_device.move_to_end(device_id)
            return known
        writes = self._writes
        read = await self._store.load(device_id)
        if writes == self._writes:  # else a write that came meanwhile may be missing in what was read
            self._remember(device_id, read)
        return read

    @override
    async def save(self, device_id: str, subscriptions: Mapping[str, int]) -> None:
        """See `SubscriptionStore.save`."""
        await self._store.save(device_id, subscriptions)
        self._forget(device_id)

    @override
    async def remove(self, device_id: str, topic_filters: Sequence[str]) -> None:
        """See `SubscriptionStore.remove`."""
        await self._store.remove(device_id, topic_filters)
        self._forget(device_id)

    @override
    async def clear(self, device_id: str) -> None:
        """See `SubscriptionStore.clear`."""
        await self._store.clear(device_id)
        self._forget(device_id)

    def _remember(self, device_id: str, subscriptions: Mapping[str, int]) -> None:
        self._by_device[device_id] = subscriptions
        if len(self._by_device) > _REMEMBERED_DEVICES:
            self._by_device.popitem(last=False)

    def _forget(self, device_id: str) -> None:
        self._writes += 1
        self._by_device.pop(device_id, None)
