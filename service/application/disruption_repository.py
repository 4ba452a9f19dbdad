"""The port to what disruption budgets count; part of a unit of work."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

from typing_extensions import override

from service.domain.action import Action


@dataclass(frozen=True, slots=True)
class Place:
    """Devices that belong together: those with one value of an attribute."""

    attribute: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the place that an action names."""
        attribute, _, value = text.partition("=")
        return cls(attribute, value)

    @override
    def __str__(self) -> str:
        return f"{self.attribute}={self.value}"


class DisruptionRepository(Protocol):
    """Who is at an update, or waits to be, by place."""

    async def hold(self, place: Place) -> None:
        """Keep others from deciding about a place until the transaction ends."""

    async def members(self, place: Place) -> int:
        """Return how many devices belong to a place."""

    async def begin(self, actions: Collection[Action]) -> None:
        """Keep that devices are at an update in the places that they belong to now; what was kept before stays.

        Args:
            actions: stored, in progress.
        """

    async def end(self, action_ids: Collection[str]) -> Mapping[str, Sequence[Place]]:
        """Forget where the devices of actions were at an update; return these places by action, sorted."""

    async def at_work(self, place: Place, *, limit: int) -> Sequence[str]:
        """Return at most `limit` devices that are at an update in a place, of whichever rollout."""

    async def called(self, place: Place, *, since: datetime) -> int:
        """Return how many actions of running rollouts were called: about to be let in, or let in after `since`."""

    async def waiting(self, place: Place, *, limit: int) -> Sequence[Action]:
        """Return at most `limit` actions of running rollouts that wait for a place, oldest first."""

    async def waited_for(self, places: Collection[Place]) -> Sequence[Place]:
        """Return those of the places that an action waits for."""

    async def waited_for_by(self, rollout_ids: Collection[str]) -> Sequence[Place]:
        """Return the places that actions of some rollouts wait for."""

    async def is_anybody_waiting(self) -> bool:
        """Return whether any action waits for any place."""
