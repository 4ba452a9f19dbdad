"""Means of devices in two arms, fed to the test of `means`.

What is compared of a device is a change: the mean of one window less the device's own past. Each device that has the
release is paired with one that has not, of about the same time, and the difference of their changes is one
observation: what changes for everybody, such as the light, is in both and cancels out. A device counts once.

A pair is made when the device with the release reports, of what is known before, so nobody chooses its partner by how
it did. Its two windows ended at about the same time, whenever they came: a device that tells its morning in the evening
is not compared with the evening of others. Nothing is estimated: see `means`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from protocol.geometry import Core
from protocol.plan import Metric
from service.domain.gates.arms import Arm
from service.domain.gates.kept import Kept
from service.domain.gates.means import MeanGate
from service.domain.verdict import Figure

MOST_WAITING = 64  # devices without the release that may be paired
FURTHEST = timedelta(minutes=30)  # between the ends of a pair's windows: in an hour, a day's course moves everybody


@dataclass(frozen=True, slots=True)
class AverageGate:
    """Halts where a mean moves further than it may; implements `KeptGate`.

    Attributes:
        metric: of what.
        core: that runs the model.
        test: how far it may move.
        weight: of its part of the error budget.
    """

    name: str
    metric: Metric
    core: Core
    test: MeanGate
    weight: float = 1.0

    def seen(self, kept: Kept, arm: Arm, device_id: str, *, change: float, at: datetime) -> tuple[Kept, frozenset[str]]:
        """Return what is kept once a device has told a mean, and which devices have counted by that.

        Args:
            kept: until now.
            arm: of the device.
            device_id: one that has not counted yet.
            change: from its own past.
            at: when its window ended, UTC, aware.
        """
        waiting: list[list[Any]] = [each for each in kept.get("waiting", []) if each[0] != device_id]
        if arm is Arm.CONTROL:
            return {**kept, "waiting": [*waiting, [device_id, at.isoformat(), change]][-MOST_WAITING:]}, frozenset()
        apart = [abs(at - datetime.fromisoformat(ended)) for _, ended, _ in waiting]
        place = min(range(len(waiting)), key=lambda place: (apart[place], -place), default=None)
        if place is None or apart[place] > FURTHEST:
            return kept, frozenset()
        other, _, usual = waiting[place]
        after = self._with_pair(kept, change - usual)
        return {**after, "waiting": [*waiting[:place], *waiting[place + 1 :]]}, frozenset({device_id, other})

    def may_halt(self, kept: Kept) -> bool:
        """See `KeptGate.may_halt`: no average is above the largest."""
        return "wealth" in kept and max(kept["wealth"]) > 0

    def log_evidence(self, kept: Kept) -> float:
        """See `KeptGate.log_evidence`."""
        return self.test.log_evidence(np.array(kept["wealth"])) if "wealth" in kept else 0.0

    def finding(self, kept: Kept) -> str:
        """See `KeptGate.finding`."""
        side = "above" if self.test.higher_is_worse else "below"
        return (
            f"expected {self.metric} on {self.core} to move no more than {self.test.margin:g} {side} "
            f"{self.test.expected_change:+g}, found {kept['mean']:+.4g} over {kept['pairs']} pairs of devices, "
            f"each cut at {self.test.cut:g} from there"
        )

    def figures(self, kept: Kept) -> Mapping[str, Figure]:
        """See `KeptGate.figures`."""
        found: dict[str, Figure] = {
            "pairs": kept.get("pairs", 0),
            "expected_change": self.test.expected_change,
            "margin": self.test.margin,
            "bound": self.test.cut,
        }
        if "pairs" in kept:
            found["change"] = round(kept["mean"], 6)
        return found

    def next_look(self, kept: Kept) -> datetime | None:
        """See `KeptGate.next_look`: reports tell everything."""
        del kept
        return None

    def _with_pair(self, kept: Kept, difference: float) -> Kept:
        excess = self.test.excess(difference)
        side = 1 if self.test.higher_is_worse else -1
        cut = self.test.expected_change + side * (self.test.margin + self.test.cut * excess)
        pairs, mean = kept.get("pairs", 0) + 1, kept.get("mean", 0.0)
        wealth = np.array(kept["wealth"]) if "wealth" in kept else self.test.start()
        after = self.test.after(wealth, excess).tolist()
        return {**kept, "wealth": after, "pairs": pairs, "mean": mean + (cut - mean) / pairs}
