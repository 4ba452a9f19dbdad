"""A virtual flash: how many operations, how long they take, and at which of them the power fails; no cells.

Erases of sectors and programs of pages are counted as a chip of the revision's geometry does them. What they take is
put on the device's own time line (`cores.device_time`), where an update waits for it, so that a power cut can come in
between. Work is done in batches: all that one step of an update does. Not counted: the journal's records.
"""

import math
import random

from device_sim.cores.device_time import DeviceTime
from device_sim.errors import PowerCutError
from device_sim.hardware.clock import Clock
from protocol.flash_geometry import FlashLayout


class VirtualFlash:
    """The flash of one device.

    Args:
        layout: of its revision.
        clock: the virtual time.
        idle: time line of every device whose flash has done nothing since it was switched on; shared.
        brown_out_every: mean number of operations between two in which the power fails; 0 for a supply that lasts.
        rng: seeded, of the device.

    Attributes:
        operations: erases and programs so far.
    """

    __slots__ = ("_brown_out_every", "_clock", "_idle", "_left", "_line", "_rng", "layout", "operations")

    def __init__(
        self, layout: FlashLayout, *, clock: Clock, idle: DeviceTime, brown_out_every: int, rng: random.Random
    ) -> None:
        self.layout = layout
        self.operations = 0
        self._clock = clock
        self._idle = idle
        self._line: DeviceTime | None = None
        self._brown_out_every = brown_out_every
        self._rng = rng
        self._left = math.inf  # operations until the power fails

    @property
    def time(self) -> DeviceTime:
        """The device's time line."""
        return self._idle if self._line is None else self._line

    @property
    def now(self) -> float:
        """Seconds of the scenario."""
        return self._clock.monotonic()

    def copy(self, rng: random.Random) -> "VirtualFlash":
        """Return the flash of another device of the same making."""
        return VirtualFlash(
            self.layout, clock=self._clock, idle=self._idle, brown_out_every=self._brown_out_every, rng=rng
        )

    def switch_on(self) -> None:
        """Draw when the power will fail, as `fleets.defects` does for a machine that is opened."""
        self._left = int(self._rng.expovariate(1 / self._brown_out_every)) if self._brown_out_every else math.inf

    def switch_off(self) -> int:
        """Lose what was not done yet; returns how many of the bytes that were written last are not there."""
        undone, self._line = self.time.flash_busy_seconds, None
        geometry = self.layout.geometry
        return math.ceil(undone / geometry.program_seconds) * geometry.page_bytes if geometry.program_seconds else 0

    def sectors(self, length: int) -> int:
        """Return how many sectors so many bytes are in."""
        return -(-length // self.layout.geometry.sector_bytes)

    def erase(self, length: int) -> None:
        """Erase so many bytes' sectors.

        Raises:
            PowerCutError: a brown-out.
        """
        sectors = self.sectors(length)
        self._require(self._work(sectors, self.layout.geometry.erase_seconds), sectors)

    def program(self, length: int) -> int:
        """Program bytes, page by page; returns how many it were before the power failed, if it did."""
        geometry = self.layout.geometry
        done = self._work(-(-length // geometry.page_bytes), geometry.program_seconds)
        return min(length, done * geometry.page_bytes)

    def copy_home(self, length: int, *, begun: int) -> int:
        """Erase and program bytes of an image at its home; returns how many operations of that are done now.

        Args:
            length: of the image.
            begun: operations that were done before.
        """
        geometry, erases = self.layout.geometry, self.sectors(length)
        programs = -(-length // geometry.page_bytes)
        seconds = erases * geometry.erase_seconds + programs * geometry.program_seconds
        return begun + self._work(erases + programs - begun, seconds / (erases + programs))

    def home_operations(self, length: int) -> int:
        """Return how many operations a whole copy home takes."""
        return self.sectors(length) + -(-length // self.layout.geometry.page_bytes)

    def hold(self, seconds: float) -> None:
        """Let time pass in which cores verify, load and run what is in the flash."""
        if self._line is None:
            self._line = DeviceTime(self._clock)
        self._line.occupy_flash(seconds)

    def _work(self, count: int, seconds: float) -> int:
        done = int(min(count, self._left))
        self._left -= done
        self.operations += done
        self.hold(done * seconds)
        return done

    def _require(self, done: int, wanted: int) -> None:
        if done < wanted:
            raise brown_out()


def brown_out() -> PowerCutError:
    """Return the error of a power supply that fails in a flash operation."""
    return PowerCutError("brown-out: the power failed in a flash operation")
