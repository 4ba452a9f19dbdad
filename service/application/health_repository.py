"""What a unit of work stores of models' health: each core's last window and past, and what gates have counted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from protocol.geometry import Core
from service.domain.gates.arms import Arm
from service.domain.model_health import CoreHealth


@dataclass(frozen=True, slots=True)
class Counted:
    """A device that a gate of a rollout has counted, and never counts again once its event was weighed.

    Attributes:
        what: the event; of a mean the metric.
        detail: expected and found, for people.
        at: UTC, aware.
    """

    rollout_id: str
    gate: str
    device_id: str
    arm: Arm
    what: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CountedKind:
    """What a gate of a rollout has counted devices of an arm for."""

    gate: str
    arm: Arm
    what: str


class HealthRepository(Protocol):
    """Models' health."""

    async def of(self, device_ids: Collection[str]) -> Mapping[tuple[str, Core], CoreHealth]:
        """Return what is kept of devices, by device and core."""

    async def put(self, states: Sequence[CoreHealth]) -> None:
        """Store what is known now, in the place of what was."""

    async def forget(self, *, received_before: datetime) -> None:
        """Delete what was not told anew since a time; who was counted stays with the rollout and its evidence."""

    async def count(self, counted: Sequence[Counted]) -> None:
        """Store that gates have counted devices."""

    async def uncount(
        self, rollout_id: str, gate: str, *, events: Collection[str], since: datetime, before: datetime
    ) -> frozenset[str]:
        """Forget whom a gate has counted for some kinds of events in a period; return the devices."""

    async def counted(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, frozenset[str]]:
        """Return which gates of a rollout have counted which of the devices, by device; others are left out."""

    async def page_counted(
        self, rollout_id: str, *, after: tuple[str, str] | None, limit: int, gate: str | None = None
    ) -> Sequence[Counted]:
        """Return at most `limit` devices that were counted, by gate and device, beyond a gate and device."""

    async def counted_kinds(self, rollout_id: str) -> Mapping[CountedKind, int]:
        """Return how many devices were counted for each kind of thing."""

    async def first_counted(self, rollout_id: str, kind: CountedKind, *, limit: int) -> Sequence[Counted]:
        """Return at most `limit` devices that were counted for a kind of thing, oldest first."""
