"""One thread that waits for the sockets of thousands of links, and a few that connect them.

Everything that touches a connected socket runs in the loop's thread, one thing after the other, so that no link needs
a lock for it. TCP's and TLS's handshakes block, and are paid for in signatures, so threads of their own do them.
"""

import heapq
import itertools
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from device_sim.hardware.clock import Clock

CONNECTORS = 4  # threads; a handshake is mostly arithmetic, and the host has few cores
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

T = TypeVar("T")
Ready = Callable[[int], None]
"""Told which of READ and WRITE a socket is ready for."""


class LinkLoop:
    """Waits for sockets and moments; runs from its first use until `close`.

    Args:
        clock: only `monotonic` is used.
        on_crash: is told of a job that raised; the loop goes on.
        connectors: threads for handshakes.
    """

    def __init__(self, clock: Clock, *, on_crash: Callable[[Exception], None], connectors: int = CONNECTORS) -> None:
        self._clock = clock
        self._on_crash = on_crash
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._waker.settimeout(0)
        self._woken.settimeout(0)
        self._selector.register(self._woken, READ, self._drain)
        self._calls: deque[Callable[[], None]] = deque()
        self._moments: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._connectors = ThreadPoolExecutor(connectors, thread_name_prefix="link-connector")
        self._thread = threading.Thread(target=self._run, name="link-loop", daemon=True)
        self._closing = self._is_asleep = False
        self._thread.start()

    def now(self) -> float:
        """Return seconds on the loop's monotonic clock."""
        return self._clock.monotonic()

    def call(self, job: Callable[[], None]) -> None:
        """Run a job in the loop; any thread may ask."""
        self._calls.append(job)
        if self._is_asleep:
            self._wake()

    def call_at(self, moment: float, job: Callable[[], None]) -> None:
        """Run a job in the loop, not before a moment; only from within the loop."""
        heapq.heappush(self._moments, (moment, next(self._order), job))

    def offload(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run a blocking job in another thread and hand its result to the loop; only from within the loop."""

        def work() -> None:
            result = job()
            self.call(lambda: then(result))

        self._connectors.submit(work)

    def watch(self, connection: socket.socket, ready: Ready) -> None:
        """Tell when a socket can be read; only from within the loop."""
        self._selector.register(connection, READ, ready)

    def want(self, connection: socket.socket, ready: Ready, *, write: bool) -> None:
        """Tell when a watched socket can be written, too, or no more; only from within the loop."""
        wanted = READ | WRITE if write else READ
        if self._selector.get_key(connection).events != wanted:
            self._selector.modify(connection, wanted, ready)

    def is_watched(self, connection: socket.socket) -> bool:
        """Whether a socket is watched."""
        return connection.fileno() >= 0 and connection in self._selector.get_map()

    def unwatch(self, connection: socket.socket) -> None:
        """Forget a socket that is watched, before it is closed; only from within the loop."""
        self._selector.unregister(connection)

    def settle(self) -> None:
        """Wait until what was asked so far is done; not from within the loop."""
        done = threading.Event()
        self.call(done.set)
        done.wait()

    def close(self) -> None:
        """Do what was asked so far, then end the loop; links that are connected stay so."""
        self._connectors.shutdown()
        self.call(self._stop)
        self._thread.join()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _stop(self) -> None:
        self._closing = True

    def _wake(self) -> None:
        self._is_asleep = False
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            return  # a wake-up waits already

    def _drain(self, _mask: int) -> None:
        self._woken.recv(4096)

    def _run(self) -> None:
        while not self._closing:
            self._is_asleep = True  # before the look at the calls: who adds one after it sends a wake-up
            ready = self._selector.select(self._pause())
            self._is_asleep = False
            for key, mask in ready:
                self._do(partial(key.data, mask))
            for _ in range(len(self._calls)):
                self._do(self._calls.popleft())
            now = self._clock.monotonic()
            while self._moments and self._moments[0][0] <= now:
                self._do(heapq.heappop(self._moments)[2])

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - one broken link must not take the others' thread with it
            self._on_crash(error)

    def _pause(self) -> float | None:
        if self._calls:
            return 0.0
        if not self._moments:
            return None
        return max(0.0, self._moments[0][0] - self._clock.monotonic())
