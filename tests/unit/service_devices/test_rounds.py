"""Rounds: what comes at once is done together, each caller gets its own answer, and a failure stays in its round."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from service.application.rounds import Rounds, RoundsStoppedError


class Doubler:
    """Doubles numbers; a round with a 13 fails. Tests hold rounds back by `gate`."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()

    async def settle(self, items: Sequence[int]) -> Sequence[int]:
        self.rounds.append(list(items))
        self.entered.set()
        await self.gate.wait()
        if 13 in items:
            raise ValueError("expected luck, found 13")
        return [2 * item for item in items]


@asynccontextmanager
async def running(rounds: Rounds[int, int]) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(rounds.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def busy(doubler: Doubler, rounds: Rounds[int, int]) -> asyncio.Task[int]:
    """Let a round begin and wait, so that what comes next collects."""
    doubler.gate.clear()
    first = asyncio.create_task(rounds.settled(0))
    await doubler.entered.wait()
    return first


async def test_items_that_come_during_a_round_share_the_next() -> None:
    """At most `largest` at once, each with its own result."""
    doubler = Doubler()
    rounds = Rounds(doubler.settle, key=str, largest=3)
    async with running(rounds):
        first = await busy(doubler, rounds)
        others = [asyncio.create_task(rounds.settled(number)) for number in (1, 2, 3, 4)]
        await asyncio.sleep(0)
        doubler.gate.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8]
    assert doubler.rounds == [[0], [1, 2, 3], [4]]


async def test_items_of_one_key_follow_one_another() -> None:
    """A device's second request sees what its first one left."""
    doubler = Doubler()
    rounds = Rounds(doubler.settle, key=lambda number: str(number % 10))
    async with running(rounds):
        first = await busy(doubler, rounds)
        others = [asyncio.create_task(rounds.settled(number)) for number in (1, 11, 2, 21)]
        await asyncio.sleep(0)
        doubler.gate.set()
        await asyncio.gather(first, *others)
    assert doubler.rounds == [[0], [1, 2], [11], [21]]


async def test_failed_round_fails_for_its_callers_alone() -> None:
    """The next round is as if nothing had happened."""
    doubler = Doubler()
    rounds = Rounds(doubler.settle, key=str)
    async with running(rounds):
        with pytest.raises(ValueError, match="found 13"):
            await rounds.settled(13)
        assert await rounds.settled(2) == 4


async def test_failing_member_fails_alone() -> None:
    """The others of its round are settled again, each by itself; who gave up meanwhile is left out."""
    doubler = Doubler()

    async def settle(items: Sequence[int]) -> Sequence[int]:
        if len(items) > 1:
            others[3].cancel()
        return await doubler.settle(items)

    rounds = Rounds(settle, key=str)
    async with running(rounds):
        others = [asyncio.create_task(rounds.settled(number)) for number in (1, 13, 2, 3)]
        results = await asyncio.gather(*others, return_exceptions=True)
    assert results[0] == 2
    assert isinstance(results[1], ValueError)
    assert results[2] == 4
    assert doubler.rounds == [[1, 13, 2, 3], [1], [13], [2]]


async def test_caller_that_gave_up_before_its_round_changes_nothing() -> None:
    """Neither is it in a round, nor does it disturb one."""
    doubler = Doubler()
    rounds = Rounds(doubler.settle, key=str)
    async with running(rounds):
        first = await busy(doubler, rounds)
        gone, stays = (asyncio.create_task(rounds.settled(number)) for number in (1, 2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        doubler.gate.set()
        assert [await first, await stays] == [0, 4]
    assert doubler.rounds == [[0], [2]]


async def test_caller_that_gives_up_during_its_round_does_not_disturb_the_others() -> None:
    """Their answers come."""
    doubler = Doubler()
    rounds = Rounds(doubler.settle, key=str)
    async with running(rounds):
        first = await busy(doubler, rounds)
        first.cancel()
        await asyncio.sleep(0)
        doubler.gate.set()
        assert await rounds.settled(1) == 2


async def test_stop_leaves_nobody_waiting() -> None:
    """Those in the round, those in line, and those who come later learn of it."""
    doubler = Doubler()
    rounds = Rounds(doubler.settle, key=str)
    async with running(rounds):
        first = await busy(doubler, rounds)
        waiting = asyncio.create_task(rounds.settled(1))
        await asyncio.sleep(0)
    for task in (first, waiting):
        with pytest.raises(asyncio.CancelledError):
            await task
    with pytest.raises(RoundsStoppedError, match="found them stopped"):
        await rounds.settled(2)
