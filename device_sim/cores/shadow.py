"""A model in shadow on one core: compared frame by frame with the model that it is to replace, and counted.

Both run in time slices of the one core, one arena at a time: the candidate's takes the place of the incumbent's between
two frames, so each has to fit alone. The candidate looks at the frame that the incumbent has just answered. What it
says goes nowhere but into these counts. Counts are volatile: after a restart the comparison begins again.
"""

import math
from collections import Counter

from device_sim.cores.device_time import DeviceTime
from device_sim.cores.m4 import InferenceOutcome
from protocol.geometry import Slot
from protocol.shadow import MAX_PAIRS, OTHERS, SCORE_TOLERANCE, ShadowCounts, ShadowTask, pair

MAX_FAILURE_CHARACTERS = 200


class Comparison:
    """One comparison on one device.

    Args:
        slot: of the model.
        digest: SHA-256 of the candidate's package, 64 hex digits.
        task: how long.
        time: of the device.
        by_score: whether both models have one label alone, and are compared by its score.
    """

    def __init__(self, slot: Slot, digest: str, task: ShadowTask, *, time: DeviceTime, by_score: bool) -> None:
        self.slot = slot
        self.digest = digest
        self._task = task
        self._time = time
        self._by_score = by_score
        self._ends_at = time.now + task.longest_seconds
        self._seen = self._frames = self._agreements = 0
        self._differing: Counter[str] = Counter()
        self._gaps = self._m4_ms = 0.0
        self._arena_bytes = 0
        self._every = 1
        self._failure = ""
        self._refusal = ""

    @property
    def due(self) -> float:
        """When it ends at the latest, on the clock that drives the device."""
        return self._time.moment_of(self._ends_at)

    @property
    def has_ended(self) -> bool:
        """Whether no further frame is compared."""
        is_late = self._time.now >= self._ends_at
        return bool(self._failure or self._refusal) or self._frames >= self._task.frames or is_late

    @property
    def refusal(self) -> str:
        """Why there is nothing to report although it has ended, or an empty string."""
        if self.has_ended and not self._frames and not self._failure:
            longest = self._task.longest_seconds
            return self._refusal or f"shadow: expected a frame to compare within {longest} s, found none"
        return ""

    @property
    def result(self) -> ShadowCounts | None:
        """What it came to, once it has ended."""
        if not self.has_ended or self.refusal:
            return None
        return ShadowCounts(
            frames=self._frames,
            agreements=self._agreements,
            differing=dict(self._differing),
            score_gap=round(self._gaps / self._frames, 6) if self._frames else 0.0,
            m4_ms=round(self._m4_ms, 3),
            arena_bytes=self._arena_bytes,
            every=self._every,
            failure=self._failure,
        )

    def fail(self, reason: str) -> None:
        """End it, because the candidate broke."""
        self._failure = reason.replace("\0", "\ufffd")[:MAX_FAILURE_CHARACTERS] or "expected an answer, found none"

    def takes_frame(self, *, period: float, incumbent: float, candidate: float) -> bool:
        """Say whether the candidate is to look at the frame that was just answered.

        Where both do not fit into one period it looks at each k-th frame, with the smallest k whose periods have room
        for k answers of the incumbent and one of the candidate, so that the incumbent loses no frame.

        Args:
            period: from one frame to the next, seconds.
            incumbent: modelled latency of the model that runs, seconds.
            candidate: of the one in shadow, seconds.
        """
        if self.has_ended:
            return False
        left = period - incumbent
        if left <= 0:
            self._refusal = f"shadow: expected time between two answers every {period:g} s, found none"
            return False
        self._every = max(1, math.ceil(candidate / left))
        self._seen += 1
        return (self._seen - 1) % self._every == 0

    def add(self, incumbent: InferenceOutcome, candidate: InferenceOutcome) -> None:
        """Count two answers to one frame."""
        if candidate.cause is not None or candidate.error:
            self.fail(f"{candidate.cause or 'input'}: {candidate.error}")
            return
        self._frames += 1
        self._gaps += candidate.score - incumbent.score
        self._m4_ms, self._arena_bytes = candidate.m4_ms, candidate.arena_bytes
        if self._agree(incumbent, candidate):
            self._agreements += 1
            return
        kind = pair(incumbent.label, candidate.label)
        is_known = kind in self._differing or len(self._differing) < MAX_PAIRS
        self._differing[kind if is_known else OTHERS] += 1

    def _agree(self, incumbent: InferenceOutcome, candidate: InferenceOutcome) -> bool:
        if self._by_score:
            return abs(candidate.score - incumbent.score) <= SCORE_TOLERANCE
        return candidate.label == incumbent.label
