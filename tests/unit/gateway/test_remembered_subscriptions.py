"""Subscriptions in memory before the store: the same answers, fewer reads."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from typing_extensions import override

from service.gateway.remembered import RememberedSubscriptions
from tests.integration.gateway.gateway_fakes import MemorySubscriptions


@dataclass(slots=True)
class CountingSubscriptions(MemorySubscriptions):
    """Counts its reads, and can hold one back after it has looked."""

    reads: int = 0
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    @override
    async def load(self, device_id: str) -> Mapping[str, int]:
        self.reads += 1
        found = dict(self.by_device.get(device_id, {}))
        self.looked.set()
        await self.may_answer.wait()
        return found


async def test_second_load_reads_nothing() -> None:
    """Also when there was nothing to find."""
    store = CountingSubscriptions()
    remembered = RememberedSubscriptions(store)
    for _ in range(2):
        assert await remembered.load("device") == {}
    assert store.reads == 1


async def test_every_write_goes_through_and_is_seen() -> None:
    """Save, remove and clear."""
    store = CountingSubscriptions()
    remembered = RememberedSubscriptions(store)
    await remembered.load("device")
    await remembered.save("device", {"a": 1, "b": 0})
    assert await remembered.load("device") == store.by_device["device"] == {"a": 1, "b": 0}
    await remembered.remove("device", ["a"])
    assert await remembered.load("device") == store.by_device["device"] == {"b": 0}
    await remembered.clear("device")
    assert await remembered.load("device") == {}
    assert store.by_device == {}


async def test_read_that_a_write_overtook_is_not_remembered() -> None:
    """The read looked before the write and answered after it."""
    store = CountingSubscriptions()
    remembered = RememberedSubscriptions(store)
    store.may_answer.clear()
    overtaken = asyncio.create_task(remembered.load("device"))
    await store.looked.wait()
    await remembered.save("device", {"a": 1})
    store.may_answer.set()
    assert await overtaken == {}
    assert await remembered.load("device") == {"a": 1}
