"""A bounded pool of threads that steps many devices, each when it is due and never two threads in one device.

The heap holds (due, order, device); an entry is stale when the device has been given another due time since. What is
due is on the monotonic clock, so a virtual scheduler can drive the same devices without threads.

Of the threads that have nothing to do, one alone watches the clock; the others sleep until it takes a device and has
the next one watch. Were all to wake at each device's time, a fleet would spend more on waking than on its devices.
"""

import heapq
import itertools
import math
import threading
from collections.abc import Callable
from typing import Protocol

from device_sim.hardware.clock import Clock


class Steppable(Protocol):
    """What a scheduler drives."""

    def step(self, now: float) -> float:
        """Do what is due.

        Args:
            now: seconds on the monotonic clock.

        Returns:
            When to be stepped again, on the same clock; infinity for never.
        """


class Scheduler:
    """Steps devices until it is stopped.

    Args:
        clock: only `monotonic` is used.
        workers: threads.
        on_crash: is told of a step that raised; its device is not stepped again.
    """

    def __init__(self, clock: Clock, *, workers: int, on_crash: Callable[[Steppable, Exception], None]) -> None:
        self._clock = clock
        self._on_crash = on_crash
        self._lock = threading.Lock()
        self._first_changed = threading.Condition(self._lock)  # the watching thread waits for it
        self._watch_is_free = threading.Condition(self._lock)  # the others wait for it
        self._is_watched = False
        self._heap: list[tuple[float, int, Steppable]] = []
        self._due: dict[Steppable, float] = {}
        self._running: set[Steppable] = set()
        self._woken: set[Steppable] = set()
        self._order = itertools.count()
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"device-worker-{n}") for n in range(workers)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def add(self, device: Steppable, *, due: float) -> None:
        """Step a device from a time on."""
        with self._lock:
            self._put(device, due)

    def wake(self, device: Steppable) -> None:
        """Step a device now, or again at once if it is being stepped."""
        with self._lock:
            if device in self._running:
                self._woken.add(device)
            elif device in self._due:
                self._put(device, self._clock.monotonic())

    def stop(self) -> None:
        """Let every step end and no other begin; returns when no thread runs."""
        with self._lock:
            self._stopping = True
            self._first_changed.notify_all()
            self._watch_is_free.notify_all()
        for thread in self._threads:
            thread.join()

    def _put(self, device: Steppable, due: float) -> None:
        self._due[device] = due
        if due < math.inf:
            heapq.heappush(self._heap, (due, next(self._order), device))
            if self._heap[0][2] is device:
                self._first_changed.notify()

    def _work(self) -> None:
        while (device := self._take()) is not None:
            due = self._step(device)
            with self._lock:
                self._running.discard(device)
                woken = device in self._woken
                self._woken.discard(device)
                self._put(device, self._clock.monotonic() if woken and due < math.inf else due)

    def _step(self, device: Steppable) -> float:
        try:
            return device.step(self._clock.monotonic())
        except Exception as error:  # noqa: BLE001 - one broken device must not take the fleet's threads with it
            self._on_crash(device, error)
            return math.inf

    def _take(self) -> Steppable | None:
        with self._lock:
            while not self._stopping:
                pause = self._pause()
                if pause is not None and pause <= 0:
                    _, _, device = heapq.heappop(self._heap)
                    self._running.add(device)
                    self._watch_is_free.notify()
                    return device
                self._wait(pause)
        return None

    def _wait(self, pause: float | None) -> None:
        """Watch the clock for the first device, or sleep until no other thread does."""
        if self._is_watched:
            self._watch_is_free.wait()
            return
        self._is_watched = True
        self._first_changed.wait(pause)
        self._is_watched = False

    def _pause(self) -> float | None:
        """Return the seconds until the first entry that is not stale, or None without one."""
        while self._heap:
            due, _, device = self._heap[0]
            if self._due[device] == due and device not in self._running:
                return due - self._clock.monotonic()
            heapq.heappop(self._heap)
        return None
