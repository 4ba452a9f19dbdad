"""A model in shadow on a virtual device: no frame is looked at; what it comes to follows from the device's faults."""

from collections.abc import Callable

from device_sim.cores.m4 import InferenceOutcome
from protocol.geometry import Slot
from protocol.shadow import ShadowCounts, ShadowTask, pair

FRAME_SECONDS = 1.0  # from one frame to the next; assumed, as a full device's default


class VirtualShadow:
    """One comparison; implements `device_sim.hardware.ports.Shadow`.

    Args:
        slot: of the model.
        digest: of the candidate's package, 64 hex digits.
        task: how long.
        begun: virtual time, seconds.
        now: returns the virtual time.
        differs: share of the frames on which the candidate answers otherwise.
        failure: what ends it at the first frame, or an empty string.
    """

    __slots__ = ("_differs", "_failure", "_frames", "_now", "digest", "due", "slot")

    refusal = ""

    def __init__(
        self,
        slot: Slot,
        digest: str,
        task: ShadowTask,
        *,
        begun: float,
        now: Callable[[], float],
        differs: float,
        failure: str,
    ) -> None:
        self.slot = slot
        self.digest = digest
        self._differs = differs
        self._failure = failure
        self._now = now
        fitting = max(1, int(task.longest_seconds / FRAME_SECONDS))
        self._frames = 1 if failure else min(task.frames, fitting)
        self.due = begun + self._frames * FRAME_SECONDS

    @property
    def result(self) -> ShadowCounts | None:
        """What it came to, once it has ended."""
        if self._now() < self.due:
            return None
        if self._failure:
            return ShadowCounts(frames=0, agreements=0, failure=self._failure)
        differing = round(self._frames * self._differs)
        pairs = {pair("incumbent", "candidate"): differing} if differing else {}
        return ShadowCounts(frames=self._frames, agreements=self._frames - differing, differing=pairs)

    def takes_frame(self, *, period: float, incumbent: float, candidate: float) -> bool:
        """Look at no frame."""
        del period, incumbent, candidate
        return False

    def add(self, incumbent: InferenceOutcome, candidate: InferenceOutcome) -> None:
        """Refuse: no frame was looked at."""
        raise AssertionError(f"a virtual core answers nothing, found {incumbent.label} and {candidate.label}")
