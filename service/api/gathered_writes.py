"""A transport that sends the head of an answer together with its body.

uvicorn writes a head and each part of a body as they come. Under TLS each write is a record of its own and a system
call, which is most of the price of a short answer, and of a range of an artifact.
"""

import asyncio
from typing import Any

from typing_extensions import override

LONGEST_HELD = 2048  # bytes; heads are shorter
_RECORD_BYTES = 16 * 1024  # of a TLS record at most (RFC 8446 §5.1)


class GatheredWrites(asyncio.Transport):
    """What an HTTP protocol uses of a transport.

    Invariants: bytes leave in the order in which they were written; at most one short write is held, until the next
    write, `close`, or the loop's next turn, whichever comes first. So whoever writes much is told to pause as before.

    Args:
        transport: what the bytes go to.
        loop: that the transport is of.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._held = b""
        self._is_due = False

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._held:
            held, self._held = self._held, b""
            if len(held) + len(data) <= _RECORD_BYTES:
                self._transport.write(held + data)
            else:
                self._transport.writelines((held, data))
        elif len(data) > LONGEST_HELD:
            self._transport.write(data)
        else:
            self._held = bytes(data)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        self._send_held()

    def _send_held(self) -> None:
        held, self._held = self._held, b""
        if held and not self._transport.is_closing():
            self._transport.write(held)

    @override
    def close(self) -> None:
        self._send_held()
        self._transport.close()

    @override
    def abort(self) -> None:
        self._held = b""
        self._transport.abort()

    @override
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    @override
    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    @override
    def pause_reading(self) -> None:
        self._transport.pause_reading()

    @override
    def resume_reading(self) -> None:
        self._transport.resume_reading()
