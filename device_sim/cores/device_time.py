"""A device's own time line: when its cores compute, and when its flash makes them wait.

The host runs a model and writes flash in its own time; what counts on the device is modelled here, in seconds since
the device was switched on. Both M4 cores execute in place from the one flash chip, so an erase or a program stops
both until it is done. Therefore flash work is placed where no core computes; a core that leaves no room gives up a
twentieth of its time, so that an update ends.

An inference is judged at the moment when it ends: by then all that stopped it is known.
"""

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

from device_sim.hardware.clock import Clock
from protocol.geometry import Core

RESOLUTION_SECONDS = 1e-6  # what two ways of adding up the same times may differ by
_PATIENCE_SECONDS = 10.0  # how far ahead a gap is looked for
_FORCED_SHARE = 0.05  # of a core's time that flash work takes where there is no gap
_REMEMBERED_SECONDS = 60.0  # no inference began longer ago


class FlashPlacement(Enum):
    """When flash work is done."""

    IN_GAPS = "in-gaps"  # where no core computes
    AT_ONCE = "at-once"  # without a look at the cores; for comparison


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the time line, seconds."""

    begin: float
    end: float

    def free_from(self, at: float, seconds: float) -> float:
        """Return `at`, if so many seconds from there are outside, else the end."""
        return self.end if self.begin < at + seconds and at < self.end else at


@dataclass(frozen=True, slots=True)
class Routine:
    """What a core does again and again, seconds.

    Attributes:
        begin: of the next inference.
        length: of one.
        period: from one to the next.
    """

    begin: float
    length: float
    period: float

    def free_from(self, at: float, seconds: float) -> float:
        """Return `at`, if the core leaves so many seconds free there, else the end of what is in the way."""
        first = max(0, math.floor((at - self.begin) / self.period)) if at > self.begin else 0
        for number in (first, first + 1):
            begin = self.begin + number * self.period
            if begin < at + seconds and at < begin + self.length:
                return begin + self.length
        return at


class DeviceTime:
    """The time line of one device; used by one thread at a time.

    Args:
        clock: only `monotonic` is used.
        placement: of flash work.
    """

    def __init__(self, clock: Clock, *, placement: FlashPlacement = FlashPlacement.IN_GAPS) -> None:
        self._clock = clock
        self._origin = clock.monotonic()
        self._placement = placement
        self._routines: dict[Core, Routine] = {}
        self._single: dict[Core, Span] = {}
        self._stalls: deque[Span] = deque()
        self._flash_free = 0.0
        self._flash_operations = 0

    @property
    def now(self) -> float:
        """Seconds since the device was switched on."""
        return self._clock.monotonic() - self._origin

    @property
    def flash_busy_seconds(self) -> float:
        """How long the flash work that was asked for will still take; 0 when all of it is done."""
        return max(0.0, self._flash_free - self.now)

    @property
    def busy_seconds(self) -> float:
        """How long flash work and single runs that were asked for will still take; 0 when all of it is done."""
        return max(self.flash_busy_seconds, *(span.end - self.now for span in self._single.values()), 0.0)

    @property
    def flash_operations(self) -> int:
        """Page programs and erases that were asked for so far."""
        return self._flash_operations

    def moment_of(self, seconds: float) -> float:
        """Return a time of the line on the clock that drives it."""
        return self._origin + seconds

    def expect(self, core: Core, routine: Routine | None) -> None:
        """Take note of what a core does next and from then on; None: nothing that flash work could disturb."""
        if routine is None:
            self._routines.pop(core, None)
        else:
            self._routines[core] = routine

    def occupy_core(self, core: Core, seconds: float) -> None:
        """Have a core compute once, beside its routine, after all that it was given so before.

        Args:
            core: which one.
            seconds: of computing.
        """
        begin = self.free_from(core, self.now)
        before = self._single.get(core)
        since = before.begin if before is not None and before.end == begin else begin
        self._single[core] = Span(since, self.end_of(begin, seconds))

    def free_from(self, core: Core, at: float) -> float:
        """Return when a core is through with its single runs, at a time or later."""
        return max(at, self._single[core].end) if core in self._single else at

    def end_of(self, begin: float, seconds: float) -> float:
        """Return when work of a core ends that begins at a time, with every stop of the flash so far.

        Args:
            begin: device time.
            seconds: of computing.
        """
        reached, left = begin, seconds
        for stall in self._stalls:
            if stall.begin >= reached + left:
                break
            if stall.end > reached:
                left -= max(0.0, stall.begin - reached)
                reached = stall.end
        return reached + left

    def occupy_flash(self, seconds: float) -> None:
        """Place one operation of the flash, after all that were asked for before.

        Args:
            seconds: that it takes; no core executes in that time.
        """
        earliest = max(self.now, self._flash_free)
        begin = earliest if self._placement is FlashPlacement.AT_ONCE else self._gap(earliest, seconds)
        self._flash_free = begin + seconds
        self._flash_operations += 1
        self._stall(Span(begin, self._flash_free))

    def _gap(self, earliest: float, seconds: float) -> float:
        at = earliest
        while at < earliest + _PATIENCE_SECONDS:
            computing: tuple[Routine | Span, ...] = (*self._routines.values(), *self._single.values())
            later = max((each.free_from(at, seconds) for each in computing), default=at)
            if later <= at:
                return at
            at = later
        return earliest + seconds / _FORCED_SHARE

    def _stall(self, stall: Span) -> None:
        while self._stalls and self._stalls[0].end < self.now - _REMEMBERED_SECONDS:
            self._stalls.popleft()
        if self._stalls and stall.begin <= self._stalls[-1].end:
            self._stalls[-1] = Span(self._stalls[-1].begin, stall.end)
        else:
            self._stalls.append(stall)
