"""Models' health in memory."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from protocol.geometry import Core
from service.application.health_repository import Counted, CountedKind
from service.domain.model_health import CoreHealth
from simulation.storage.journal import Journal


class MemoryHealth:
    """Implements `HealthRepository`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._states: dict[tuple[str, Core], CoreHealth] = {}
        self._counted: dict[tuple[str, str], dict[str, Counted]] = {}  # by rollout and device, then by gate

    async def of(self, device_ids: Collection[str]) -> Mapping[tuple[str, Core], CoreHealth]:
        """See `HealthRepository.of`."""
        keys = [(device_id, core) for device_id in set(device_ids) for core in Core]
        return {key: self._states[key] for key in keys if key in self._states}

    async def put(self, states: Sequence[CoreHealth]) -> None:
        """See `HealthRepository.put`."""
        for state in states:
            self._journal.put(self._states, (state.device_id, state.last.core), state)

    async def forget(self, *, received_before: datetime) -> None:
        """See `HealthRepository.forget`."""
        for key in [key for key, state in self._states.items() if state.received_at < received_before]:
            self._journal.remove(self._states, key)

    async def count(self, counted: Sequence[Counted]) -> None:
        """See `HealthRepository.count`."""
        for each in counted:
            pair = (each.rollout_id, each.device_id)
            self._journal.put(self._counted, pair, {each.gate: each, **self._counted.get(pair, {})})

    async def uncount(
        self, rollout_id: str, gate: str, *, events: Collection[str], since: datetime, before: datetime
    ) -> frozenset[str]:
        """See `HealthRepository.uncount`."""
        of_gate = [each for each in self._of_rollout(rollout_id) if each.gate == gate and each.what in events]
        gone = frozenset(each.device_id for each in of_gate if since <= each.at < before)
        for pair in ((rollout_id, device_id) for device_id in gone):
            left = {name: each for name, each in self._counted[pair].items() if name != gate}
            self._journal.put(self._counted, pair, left)
        return gone

    async def counted(self, rollout_id: str, device_ids: Collection[str]) -> Mapping[str, frozenset[str]]:
        """See `HealthRepository.counted`."""
        found = {device_id: frozenset(self._counted.get((rollout_id, device_id), {})) for device_id in device_ids}
        return {device_id: gates for device_id, gates in found.items() if gates}

    async def page_counted(
        self, rollout_id: str, *, after: tuple[str, str] | None, limit: int, gate: str | None = None
    ) -> Sequence[Counted]:
        """See `HealthRepository.page_counted`."""
        found = [each for each in self._of_rollout(rollout_id) if gate in (None, each.gate)]
        beyond = [each for each in found if after is None or (each.gate, each.device_id) > after]
        return sorted(beyond, key=lambda each: (each.gate, each.device_id))[:limit]

    async def counted_kinds(self, rollout_id: str) -> Mapping[CountedKind, int]:
        """See `HealthRepository.counted_kinds`."""
        return Counter(_kind(each) for each in self._of_rollout(rollout_id))

    async def first_counted(self, rollout_id: str, kind: CountedKind, *, limit: int) -> Sequence[Counted]:
        """See `HealthRepository.first_counted`."""
        found = [each for each in self._of_rollout(rollout_id) if _kind(each) == kind]
        return sorted(found, key=lambda each: (each.at, each.device_id))[:limit]

    def _of_rollout(self, rollout_id: str) -> list[Counted]:
        return [each for (owner, _), gates in self._counted.items() if owner == rollout_id for each in gates.values()]


def _kind(counted: Counted) -> CountedKind:
    return CountedKind(counted.gate, counted.arm, counted.what)
