"""Gates whose evidence is more than counts of actions: it is kept with the rollout, by gate, and never reset.

What a gate keeps is a JSON object of its own making. Whoever takes a report hands it to the gate and stores what the
gate makes of it, in the same transaction and with the rollout's row locked; the policy asks for its evidence alone.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

from service.domain.verdict import Figure

Kept = Mapping[str, Any]
"""What one gate keeps, as JSON; empty at first."""
AllKept = Mapping[str, Kept]
"""What the gates of a rollout keep, by name."""
NOTHING_KEPT: AllKept = MappingProxyType({})


class KeptGate(Protocol):
    """A gate that keeps evidence."""

    @property
    def name(self) -> str:
        """Of the gate, in its decisions; one of its own in a plan."""

    @property
    def weight(self) -> float:
        """Of its part of the error budget, above 0."""

    def may_halt(self, kept: Kept) -> bool:
        """Whether E may be above 1: a bound that costs less than E."""

    def log_evidence(self, kept: Kept) -> float:
        """Return ln E; 0 while nothing is known."""

    def finding(self, kept: Kept) -> str:
        """Return what was expected and found, for people."""

    def figures(self, kept: Kept) -> Mapping[str, Figure]:
        """Return what it has seen, by name, without ln E and its threshold."""

    def next_look(self, kept: Kept) -> datetime | None:
        """Return when somebody has to look for it at what no report tells, UTC, aware; None never."""
