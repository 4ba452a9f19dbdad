"""Releases, the images in force, rollouts, the Director's last word, what devices run, and leases in memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from protocol.geometry import Slot
from protocol.versions import Build
from service.application.lease_repository import Lease, LeaseLostError
from service.application.update_repositories import (
    DirectorSet,
    ImageTarget,
    RepositoryName,
    StoredManifest,
    StoredRollout,
    StoredVerdict,
)
from service.domain.errors import NameTakenError
from service.domain.listening import Listening
from service.domain.release import Release, UnknownReleaseError
from service.domain.rollout import RolloutState, UnknownRolloutError
from service.domain.verdict import Verdict
from simulation.storage.actions import MemoryActions
from simulation.storage.journal import Journal, Partial

_OPEN_STATES = frozenset({RolloutState.DRAFT, RolloutState.RUNNING, RolloutState.PAUSED})


class MemoryReleases(Partial):
    """Implements `ReleaseRepository` as far as it is reached."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, Release] = {}  # by id and by name

    async def add(self, release: Release) -> None:
        """See `ReleaseRepository.add`."""
        if release.name in self._rows:
            raise NameTakenError(f"release: expected a name that is free, found {release.name!r}")
        for key in (release.release_id, release.name):
            self._journal.put(self._rows, key, release)

    async def get(self, id_or_name: str) -> Release:
        """See `ReleaseRepository.get`."""
        if id_or_name not in self._rows:
            raise UnknownReleaseError(f"release: expected an id or name in use, found {id_or_name[:60]!r}")
        return self._rows[id_or_name]

    async def way_back_of(self, name: str) -> Release | None:
        """See `ReleaseRepository.way_back_of`."""
        return next((release for release in self._rows.values() if release.way_back_of == name), None)

    async def highest_counter(self) -> int:
        """See `ReleaseRepository.highest_counter`."""
        return max((release.counter for release in self._rows.values()), default=0)

    async def newest_with(self, digests: Collection[str]) -> Mapping[str, str]:
        """See `ReleaseRepository.newest_with`."""
        found: dict[str, str] = {}
        for release in sorted(self._rows.values(), key=lambda release: release.counter):
            found |= {digest: release.name for digest in release.digests.values() if digest in digests}
        return found


class MemoryMetadata(Partial):
    """Implements `MetadataRepository` as far as it is reached: the images in force; no file is signed or kept."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._images: dict[str, ImageTarget] = {}  # by digest
        self._version: dict[str, int] = {"targets": 0}

    async def version(self, repository: RepositoryName, role: str) -> int:
        """See `MetadataRepository.version`: nobody signs a root, so its version stays 0."""
        return self._version.get(role, 0) if repository is RepositoryName.IMAGE else 0

    async def add_images(self, images: Sequence[ImageTarget]) -> None:
        """See `MetadataRepository.add_images`; the version of the targets rises."""
        for image in images:
            self._journal.put(self._images, image.sha256, image)
        self._journal.put(self._version, "targets", self._version["targets"] + 1)

    async def builds(self, *, component_id: str | None, name: str | None) -> Sequence[Build]:
        """See `MetadataRepository.builds`."""
        found = [image.custom.build(image.sha256) for image in self._images.values()]
        found = [build for build in found if component_id in (None, build.component_id)]
        return [build for build in found if name in (None, build.name.partition("@")[0])]

    async def images_of(self, digests: Collection[str]) -> Mapping[str, ImageTarget]:
        """See `MetadataRepository.images_of`."""
        return {digest: self._images[digest] for digest in digests if digest in self._images}


class MemoryRollouts(Partial):
    """Implements `RolloutRepository`; there are few rollouts, so none of its answers needs an index."""

    def __init__(self, journal: Journal, actions: MemoryActions) -> None:
        self._journal = journal
        self._actions = actions
        self._rows: dict[str, StoredRollout] = {}
        self._counter: dict[str, int] = {"number": 0}
        self._verdicts: dict[int, tuple[str, StoredVerdict]] = {}

    async def add(self, stored: StoredRollout) -> None:
        """See `RolloutRepository.add`."""
        number = self._counter["number"] + 1
        self._journal.put(self._counter, "number", number)
        self._journal.put(self._rows, stored.rollout.rollout_id, replace(stored, number=number))

    async def get(self, rollout_id: str, *, lock: bool = False) -> StoredRollout:
        """See `RolloutRepository.get`."""
        del lock  # nothing runs beside a unit of work
        if rollout_id not in self._rows:
            raise UnknownRolloutError(f"rollout: expected an id in use, found {rollout_id[:60]!r}")
        return self._rows[rollout_id]

    async def lock(self, rollout_ids: Collection[str]) -> Mapping[str, StoredRollout]:
        """See `RolloutRepository.lock`."""
        found = sorted((self._rows[id_] for id_ in rollout_ids if id_ in self._rows), key=lambda row: -row.number)
        return {stored.rollout.rollout_id: stored for stored in found}

    async def save(self, stored: StoredRollout, *, before: StoredRollout) -> None:
        """See `RolloutRepository.save`; rows are whole, so what is equal need not be told apart."""
        del before
        self._journal.put(self._rows, stored.rollout.rollout_id, replace(stored, version=stored.version + 1))

    async def add_verdicts(self, rollout_id: str, verdicts: Sequence[Verdict], *, at: datetime) -> None:
        """See `RolloutRepository.add_verdicts`."""
        for verdict in verdicts:
            number = len(self._verdicts) + 1
            self._journal.put(self._verdicts, number, (rollout_id, StoredVerdict(number, at, verdict)))

    async def verdicts(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[StoredVerdict]:
        """See `RolloutRepository.verdicts`."""
        found = [stored for owner, stored in self._verdicts.values() if owner == rollout_id]
        return [stored for stored in found if stored.number > after_number][:limit]

    async def undoing(self, rollout_id: str) -> str | None:
        """See `RolloutRepository.undoing`."""
        found = [stored for stored in self._rows.values() if stored.rollout.undoes == rollout_id]
        newest = max(found, key=lambda stored: stored.number, default=None)
        return None if newest is None else newest.rollout.rollout_id

    async def of_action(self, action_id: str) -> StoredRollout | None:
        """See `RolloutRepository.of_action`."""
        rollout_id = self._actions.rollout_of(action_id)
        return None if rollout_id is None else self._rows[rollout_id]

    async def page(self, *, before_number: int | None, limit: int) -> Sequence[StoredRollout]:
        """See `RolloutRepository.page`."""
        found = [stored for stored in self._rows.values() if before_number is None or stored.number < before_number]
        return sorted(found, key=lambda stored: -stored.number)[:limit]

    async def of_group(self, group_id: str) -> Sequence[StoredRollout]:
        """See `RolloutRepository.of_group`."""
        return self._of(group_id, _OPEN_STATES)

    async def finished(self, group_id: str, *, limit: int) -> Sequence[StoredRollout]:
        """See `RolloutRepository.finished`."""
        return self._of(group_id, frozenset({RolloutState.FINISHED}))[::-1][:limit]

    async def due(self, now: datetime, *, limit: int) -> Sequence[str]:
        """See `RolloutRepository.due`."""
        looks = [(row.look_at, row.rollout.rollout_id) for row in self._rows.values() if row.look_at is not None]
        return [rollout_id for look_at, rollout_id in sorted(looks) if look_at <= now][:limit]

    async def next_look(self) -> datetime | None:
        """See `RolloutRepository.next_look`."""
        looks = [self._actions.first_deadline(), *(row.look_at for row in self._rows.values())]
        return min((look for look in looks if look is not None), default=None)

    async def states(self) -> Mapping[str, tuple[RolloutState, str]]:
        """See `RolloutRepository.states`."""
        rollouts = (row.rollout for row in self._rows.values())
        return {each.rollout_id: (each.state, each.group_id) for each in rollouts if each.state in _OPEN_STATES}

    def is_running(self, rollout_id: str) -> bool:
        """Say whether a rollout runs."""
        return self._rows[rollout_id].rollout.state is RolloutState.RUNNING

    def _of(self, group_id: str, states: Collection[RolloutState]) -> list[StoredRollout]:
        found = [row for row in self._rows.values() if row.rollout.group_id == group_id and row.rollout.state in states]
        return sorted(found, key=lambda row: row.number)


class MemoryDirectorSets:
    """Implements `DirectorRepository`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, DirectorSet] = {}

    async def find(self, device_id: str) -> DirectorSet | None:
        """See `DirectorRepository.find`."""
        return self._rows.get(device_id)

    async def put(self, director_set: DirectorSet) -> bool:
        """See `DirectorRepository.put`."""
        last = self._rows.get(director_set.device_id)
        if last is not None and last.version >= director_set.version:
            return False
        self._journal.put(self._rows, director_set.device_id, director_set)
        return True


class MemoryInstalled:
    """Implements `InstalledRepository`; devices that run the same share one row."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, Mapping[Slot, str]] = {}
        self._shared: dict[frozenset[tuple[Slot, str]], Mapping[Slot, str]] = {}
        self._manifests: dict[str, StoredManifest] = {}

    async def of(self, device_ids: Collection[str]) -> Mapping[str, Mapping[Slot, str]]:
        """See `InstalledRepository.of`."""
        return {device_id: self._rows[device_id] for device_id in device_ids if device_id in self._rows}

    async def put(self, device_id: str, images: Mapping[Slot, str], *, at: datetime) -> None:
        """See `InstalledRepository.put`."""
        await self.put_all({device_id: images}, at=at)

    async def put_all(self, images: Mapping[str, Mapping[Slot, str]], *, at: datetime) -> None:
        """See `InstalledRepository.put_all`."""
        del at
        for device_id, its in images.items():
            self._put(device_id, its)

    def _put(self, device_id: str, images: Mapping[Slot, str]) -> None:
        known = self._rows.get(device_id, {})
        merged = {**known, **images}
        if merged != known:
            self._journal.put(self._rows, device_id, self._shared.setdefault(frozenset(merged.items()), merged))

    async def manifests(self, device_ids: Collection[str]) -> Mapping[str, StoredManifest]:
        """See `InstalledRepository.manifests`."""
        return {device_id: self._manifests[device_id] for device_id in device_ids if device_id in self._manifests}

    async def put_manifests(self, manifests: Sequence[StoredManifest]) -> Collection[str]:
        """See `InstalledRepository.put_manifests`."""
        risen = [manifest for manifest in manifests if self._rises(manifest)]
        for manifest in risen:
            self._journal.put(self._manifests, manifest.device_id, manifest)
        return [manifest.device_id for manifest in risen]

    def _rises(self, manifest: StoredManifest) -> bool:
        last = self._manifests.get(manifest.device_id)
        return last is None or last.counter < manifest.counter


class MemoryLeases:
    """Implements `LeaseRepository`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[str, Lease] = {}

    async def acquire(
        self, name: str, owner: str, *, now: datetime, lifetime: timedelta, largest_gap: timedelta
    ) -> Lease | None:
        """See `LeaseRepository.acquire`."""
        last = self._rows.get(name)
        if last is None:
            taken = Lease(name, owner, now + lifetime, Listening(now), 0)
        elif last.owner != owner and last.expires_at > now:
            return None
        else:
            listening = last.listening.at(now, held_until=last.expires_at, largest_gap=largest_gap)
            taken = Lease(name, owner, now + lifetime, listening, last.event_sequence)
        self._journal.put(self._rows, name, taken)
        return taken

    async def advance(self, name: str, owner: str, event_sequence: int) -> None:
        """See `LeaseRepository.advance`."""
        last = self._rows.get(name)
        if last is None or last.owner != owner:
            raise LeaseLostError(name, owner)
        self._journal.put(self._rows, name, replace(last, event_sequence=event_sequence))

    async def release(self, name: str, owner: str, *, now: datetime) -> None:
        """See `LeaseRepository.release`."""
        last = self._rows.get(name)
        if last is not None and last.owner == owner:
            self._journal.put(self._rows, name, replace(last, expires_at=now))

    def acted_on(self) -> int:
        """Return the last event that every holder has acted on; 0 without a lease."""
        return min((lease.event_sequence for lease in self._rows.values()), default=0)
