"""Writes that go out together: in order, none lost, none held for longer than a turn of the loop."""

import asyncio
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from service.api.gathered_writes import LONGEST_HELD, GatheredWrites

HEAD = b"HTTP/1.1 206 Partial Content\r\n\r\n"


class RecordingTransport(asyncio.Transport):
    """Keeps what it is given, call by call."""

    def __init__(self) -> None:
        super().__init__({"cipher": "AES"})
        self.calls: list[bytes] = []
        self.closed = False
        self.reading = True

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    @override
    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.calls.append(b"".join(list_of_data))

    @override
    def close(self) -> None:
        self.closed = True

    @override
    def abort(self) -> None:
        self.closed = True

    @override
    def is_closing(self) -> bool:
        return self.closed

    @override
    def pause_reading(self) -> None:
        self.reading = False

    @override
    def resume_reading(self) -> None:
        self.reading = True


def _gathered() -> tuple[GatheredWrites, RecordingTransport]:
    inner = RecordingTransport()
    return GatheredWrites(inner, asyncio.get_running_loop()), inner


async def test_head_and_body_are_one_write() -> None:
    """A short body and a long one."""
    for body in (b"{}", b"x" * 65_536):
        transport, inner = _gathered()
        transport.write(HEAD)
        assert inner.calls == []
        transport.write(body)
        assert inner.calls == [HEAD + body]
        await asyncio.sleep(0)
        assert inner.calls == [HEAD + body]


async def test_head_without_a_body_leaves_with_the_next_turn_of_the_loop() -> None:
    """An answer to HEAD, or a stream whose first event is yet to come; and again for the next one."""
    transport, inner = _gathered()
    for count in (1, 2):
        transport.write(HEAD)
        await asyncio.sleep(0)
        assert inner.calls == [HEAD] * count


async def test_further_blocks_are_written_at_once() -> None:
    """So a transport that has too much to send says so before more is written."""
    transport, inner = _gathered()
    block = b"x" * (LONGEST_HELD + 1)
    for part in (HEAD, block, block):
        transport.write(part)
    assert inner.calls == [HEAD + block, block]


async def test_close_sends_what_is_held_first() -> None:
    """An answer that ends its connection."""
    transport, inner = _gathered()
    transport.write(HEAD)
    transport.close()
    assert (inner.calls, transport.is_closing()) == ([HEAD], True)


async def test_nothing_is_sent_after_an_abort() -> None:
    """By the protocol, or by whoever closed the connection below: a device that was blocked."""
    transport, inner = _gathered()
    transport.write(HEAD)
    transport.abort()
    other, below = _gathered()
    other.write(HEAD)
    below.abort()
    await asyncio.sleep(0)
    assert inner.calls == below.calls == []


async def test_rest_of_a_transport_is_that_of_the_one_below() -> None:
    """What uvicorn asks for, and flow control."""
    transport, inner = _gathered()
    assert transport.get_extra_info("cipher") == "AES"
    transport.pause_reading()
    assert not inner.reading
    transport.resume_reading()
    assert inner.reading


@given(st.lists(st.sampled_from([b"", b"a", b"b" * LONGEST_HELD, b"c" * (LONGEST_HELD + 1), None])))
def test_any_writes_keep_their_order(parts: list[bytes | None]) -> None:
    """Whatever their lengths, and turns of the loop (None) between them."""

    async def write() -> bytes:
        transport, inner = _gathered()
        for part in parts:
            if part is None:
                await asyncio.sleep(0)
            else:
                transport.write(part)
        transport.close()
        return b"".join(inner.calls)

    assert asyncio.run(write()) == b"".join(part for part in parts if part)
