"""Rounds: what arrives while one transaction runs is done together in the next.

Many callers each want a small transaction of the same kind. One by one, each pays for every statement and for its own
commit; in rounds they share them, so that a round grows with the load: one item when idle, dozens under pressure.

Invariants: a round holds at most one item of a key; a caller that gave up before its round began changes nothing; if
a round fails, nothing of it is done and its items are settled once more, one by one, so that no caller's failure is
another's.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.domain.errors import ServiceError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
LARGEST_ROUND = 64


class RoundsStoppedError(ServiceError):
    """Nobody settles rounds: the service is stopping."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[ItemT, ResultT]):
    item: ItemT
    result: asyncio.Future[ResultT]


class Rounds(Generic[ItemT, ResultT]):
    """Settles items in rounds while `run` runs.

    Args:
        settle: does a round and returns one result for each item, in their order.
        key: items of one key are settled in different rounds, in the order of their arrival.
        largest: items of a round.
    """

    def __init__(
        self,
        settle: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT]]],
        *,
        key: Callable[[ItemT], str],
        largest: int = LARGEST_ROUND,
    ) -> None:
        self._settle = settle
        self._key = key
        self._largest = largest
        self._waiting: deque[_Waiting[ItemT, ResultT]] = deque()
        self._arrived = asyncio.Event()
        self._has_stopped = False

    async def settled(self, item: ItemT) -> ResultT:
        """Wait for the item's round and return its result.

        Raises:
            RoundsStoppedError: no round will come.
            Exception: whatever the item failed with when it was settled alone.
        """
        if self._has_stopped:
            raise RoundsStoppedError("rounds: expected them to run, found them stopped")
        result: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, result))
        self._arrived.set()
        return await result

    async def run(self) -> None:
        """Settle rounds until cancelled; callers that wait then are cancelled, too."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while members := self._next_members():
                    await self._settle_or_cancel(members)
        finally:
            self._has_stopped = True
            for waiting in self._waiting:
                waiting.result.cancel()

    def _next_members(self) -> list[_Waiting[ItemT, ResultT]]:
        members: dict[str, _Waiting[ItemT, ResultT]] = {}
        later: list[_Waiting[ItemT, ResultT]] = []
        while self._waiting and len(members) < self._largest:
            waiting = self._waiting.popleft()
            if waiting.result.done():  # its caller gave up
                continue
            if self._key(waiting.item) in members:
                later.append(waiting)
            else:
                members[self._key(waiting.item)] = waiting
        self._waiting.extendleft(reversed(later))
        return list(members.values())

    async def _settle_or_cancel(self, members: Sequence[_Waiting[ItemT, ResultT]]) -> None:
        try:
            await self._settle_round(members)
        except asyncio.CancelledError:
            for waiting in members:
                waiting.result.cancel()
            raise

    async def _settle_singly(self, members: Sequence[_Waiting[ItemT, ResultT]]) -> None:
        for waiting in members:
            if not waiting.result.done():  # its caller gave up
                await self._settle_round([waiting])

    async def _settle_round(self, members: Sequence[_Waiting[ItemT, ResultT]]) -> None:
        try:
            results = await self._settle([waiting.item for waiting in members])
        except Exception as error:  # noqa: BLE001 - it belongs to a caller, not to the next round
            if len(members) > 1:
                await self._settle_singly(members)
            elif not members[0].result.done():
                members[0].result.set_exception(error)
            return
        for waiting, result in zip(members, results, strict=True):
            if not waiting.result.done():
                waiting.result.set_result(result)
