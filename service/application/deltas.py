"""Patches: which are wanted, made in the background, signed online, withdrawn when nobody needs them.

A patch is wanted from the images that most devices have in a slot to one that a release brings. `DeltaQueue` notes them
in the transaction in which the image comes into force; `DeltaMaker` makes them one at a time:

    1. bound: one that is not among the newest `MAX_OFFERED` is not made;
    2. make: matching and coding in a process of its own, which also applies the patch as a device would and compares;
    3. judge: a patch of more than so many percent of the full image is not worth it;
    4. store: the bytes, under their hash, which the row names before they are there;
    5. offer: the row, and the target in the role `deltas`, in one transaction.
Each transaction that writes patches holds the repository first, as publications do, which queue patches: so none of the
two waits for the other's rows while the other waits for the repository.
A kill at any point leaves the row queued, and the same bytes are made again. So does a fault that may pass: the patch
goes to the end of the queue, and the maker rests. What is settled is not made again. Patches are signed by an online
key: what they make is checked against the image's hash, which is signed offline.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from pki.metadata import DELTAS_ROLE, content_target
from pki.repository import delegated_roles
from protocol.delta import FORMAT, MAX_IMAGE_BYTES
from protocol.geometry import HOME_BYTES, Slot
from protocol.image import digest_of
from protocol.updates import delta_target_name, slot_of_image_target
from service.application.artifacts import ArtifactStore
from service.application.clock import Clock
from service.application.delta_repository import Delta, DeltaState
from service.application.events import Event, EventType, Signal, StoredEvent, wait_for
from service.application.publication import Publication
from service.application.repository import ImageRepository, NoOnlineRoleError
from service.application.role_changes import delegators_in_force
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import MetadataRole, RepositoryName
from service.domain.errors import NotFoundError, ServiceError
from service.domain.release import MetadataRaceError, target_sha256
from service.domain.rollout import RolloutState

MAX_OFFERED = 64  # deltas.json is what every device reads that looks for a patch
LOOK_INTERVAL = timedelta(minutes=10)  # between two looks at what devices have
LOOK_SECONDS = 30.0  # between two looks whether this process is the one that makes patches
REST = timedelta(minutes=1)  # after a fault; each that follows doubles it
MAX_REST = timedelta(hours=1)
_PAGE = 200
_log = structlog.get_logger()


class UnknownDeltaError(NotFoundError):
    """There is no patch between these images."""


class PatchMakeError(ServiceError):
    """No patch comes of two images, however often it is tried."""


class PatchMaker(Protocol):
    """Makes patches; the matching, and a process to do it in, behind it."""

    async def make(self, old: bytes, new: bytes) -> bytes:
        """Return a patch that was applied and made the new image.

        Raises:
            PatchMakeError: there is none.
            ServiceError: it may work another time.
        """


@dataclass(frozen=True, slots=True)
class DeltaPolicy:
    """Which patches are made.

    Attributes:
        sources: of how many images of a slot, the most common; 0 for no patches at all.
        max_percent: of the full image; a larger patch is not offered.
    """

    sources: int = 8
    max_percent: float = 70.0


class DeltaQueue:
    """Notes the patches that a publication makes wanted; implements `PublicationListener`."""

    def __init__(self, policy: DeltaPolicy) -> None:
        self._policy = policy

    async def published(self, work: UnitOfWork, publication: Publication, *, now: datetime) -> None:
        """See `PublicationListener.published`."""
        for name, target in publication.added.items():
            slot = slot_of_image_target(name)
            if slot is not None and slot in HOME_BYTES:
                wanted = await self.wanted(work, slot, target_sha256(target), length=target.length, now=now)
                await work.deltas.queue(wanted)

    async def wanted(self, work: UnitOfWork, slot: Slot, sha256: str, *, length: int, now: datetime) -> Sequence[Delta]:
        """Return the patches to one image that are worth making, to be queued.

        Args:
            work: reads alone.
            slot: where the image goes.
            sha256: of the image.
            length: of the image, bytes.
            now: UTC, aware.
        """
        if self._policy.sources == 0 or length > MAX_IMAGE_BYTES:
            return ()
        common = await work.deltas.installed_in(slot, limit=self._policy.sources)
        known = await work.metadata.images_of(list(common))
        return [Delta(source, sha256, length, now, now) for source in common if source in known and source != sha256]


class Deltas:
    """Use cases of operators."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def page(self, *, after: str | None, limit: int) -> Sequence[Delta]:
        """Return at most `limit` patches beyond the one with the key `after` (see `key_of`)."""
        to_sha256, _, from_sha256 = (after or "").partition("/")
        async with self._unit_of_work(read_only=True) as work:
            return await work.deltas.page(after=(to_sha256, from_sha256), limit=limit)

    async def get(self, from_sha256: str, to_sha256: str) -> Delta:
        """Return a patch.

        Raises:
            UnknownDeltaError: there is none.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.deltas.find(from_sha256, to_sha256)
        if found is None:
            raise UnknownDeltaError(f"patch: expected one from {from_sha256[:12]}… to {to_sha256[:12]}…, found none")
        return found


def key_of(delta: Delta) -> str:
    """Return a patch's place in the order of all patches."""
    return f"{delta.to_sha256}/{delta.from_sha256}"


@dataclass(frozen=True, slots=True)
class DeltaPorts:
    """What the maker works with.

    Attributes:
        is_leader: whether this process is the one that does background work.
    """

    unit_of_work: UnitOfWorkFactory
    repository: ImageRepository
    store: ArtifactStore
    patches: PatchMaker
    clock: Clock
    is_leader: Callable[[], bool]


class DeltaMaker:
    """Makes what is queued, one patch at a time, while its process leads."""

    def __init__(self, ports: DeltaPorts, policy: DeltaPolicy) -> None:
        self._ports = ports
        self._policy = policy
        self._queue = DeltaQueue(policy)
        self._changed = Signal()
        self._look_at: datetime | None = None
        self._rest_until: datetime | None = None
        self._faults = 0
        self._may_sign_by = (0, False)  # version of targets.json, and whether it delegates to the role

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed: releases and rollouts make patches wanted."""
        if stored.event.type in {EventType.RELEASE, EventType.ROLLOUT}:
            self._look_at = None
            self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            ticket = self._changed.ticket()
            if not await self._survive():
                await wait_for(ticket, LOOK_SECONDS)

    async def _survive(self) -> bool:
        try:
            return await self.work()
        except MetadataRaceError:
            return True  # somebody else published; what is queued still is
        except Exception:  # noqa: BLE001 - a patch that cannot be made must not end the service
            _log.exception("deltas_failed")
            self._rest_until = self._ports.clock.now() + min(REST * 2**self._faults, MAX_REST)
            self._faults = min(self._faults + 1, MAX_REST // REST)
            return False

    async def work(self) -> bool:
        """Do one bounded round; True if there is more to do at once."""
        now = self._ports.clock.now()
        is_resting = self._rest_until is not None and now < self._rest_until
        if is_resting or not self._ports.is_leader() or not await self._may_sign():
            return False
        if self._look_at is None or now >= self._look_at:
            self._look_at = now + LOOK_INTERVAL
            await self._look(now)
        async with self._ports.unit_of_work(read_only=True) as work:
            queued = await work.deltas.next_queued()
            newest = await work.deltas.current(limit=MAX_OFFERED)
        if queued is None or self._policy.sources == 0:
            return False
        # Step 1: bound.
        if queued in newest:
            await self._attempt(queued)
        else:
            await self._settle(_superseded(queued))
        return True

    async def _may_sign(self) -> bool:
        async with self._ports.unit_of_work(read_only=True) as work:
            version = await work.metadata.version(RepositoryName.IMAGE, MetadataRole.TARGETS)
            if version != self._may_sign_by[0]:
                state = await delegators_in_force(work)
                self._may_sign_by = (version, DELTAS_ROLE in delegated_roles(state.targets))
        return self._may_sign_by[1]

    async def _look(self, now: datetime) -> None:
        """Queue what running rollouts want by now, and withdraw what nobody does or newer ones take the place of."""
        wanted = await self._wanted(now)
        async with self._ports.unit_of_work() as work:
            await work.metadata.hold()
            await work.deltas.queue(wanted)
            unwanted = await self._unwanted(work)
            current = await work.deltas.current(limit=MAX_OFFERED + _PAGE)
            surplus = [delta for delta in current if delta not in unwanted][MAX_OFFERED:]
            await work.deltas.remove([delta for delta in unwanted if delta.patch_sha256 is None])
            withdrawn = [replace(delta, state=DeltaState.WITHDRAWN) for delta in unwanted if delta.patch_sha256]
            for delta in (*withdrawn, *map(_superseded, surplus)):
                await work.deltas.save(replace(delta, updated_at=now))
            await self._withdraw(work, [*unwanted, *surplus], now=now)
            await work.commit()
        await self._sweep()

    async def _sweep(self) -> None:
        """Remove the bytes of patches that are offered no more; rows name them until they are gone."""
        async with self._ports.unit_of_work(read_only=True) as work:
            left = await work.deltas.left_over(limit=_PAGE)
        for delta in left:
            await self._ports.store.delete(delta.patch_sha256 or "")
        if not left:
            return
        async with self._ports.unit_of_work() as work:
            await work.metadata.hold()
            await work.deltas.remove([delta for delta in left if delta.state is DeltaState.WITHDRAWN])
            for delta in left:
                if delta.state is not DeltaState.WITHDRAWN:
                    await work.deltas.save(replace(delta, patch_sha256=None))
            await work.commit()

    async def _wanted(self, now: datetime) -> Sequence[Delta]:
        """Count what devices have before anything is written: in a large fleet that takes a while."""
        found: list[Delta] = []
        async with self._ports.unit_of_work(read_only=True) as work:
            for rollout_id, (state, _) in (await work.rollouts.states()).items():
                if state is RolloutState.RUNNING:
                    release = await work.releases.get((await work.rollouts.get(rollout_id)).rollout.release_id)
                    for slot, image in release.images.items():
                        found += await self._queue.wanted(work, slot, image.sha256, length=image.length, now=now)
        return found

    async def _unwanted(self, work: UnitOfWork) -> Sequence[Delta]:
        if self._policy.sources == 0:
            return await work.deltas.current(limit=_PAGE)
        return await work.deltas.unwanted(list(HOME_BYTES), limit=_PAGE)

    async def _withdraw(self, work: UnitOfWork, gone: Sequence[Delta], *, now: datetime) -> None:
        names = [_name(delta) for delta in gone if delta.state is DeltaState.OFFERED]
        if names:
            with contextlib.suppress(NoOnlineRoleError):  # then nothing lists them any more
                await self._ports.repository.publish_online(work, DELTAS_ROLE, added=(), removed=names, now=now)
        for delta in gone:
            work.record(_event(delta, "withdrawn", now=now))

    async def _attempt(self, queued: Delta) -> None:
        try:
            await self._make(queued)
        except PatchMakeError as error:
            await self._settle(replace(queued, state=DeltaState.FAILED, reason=str(error)[:500]))
        except Exception:
            await self._settle(queued)  # to the end of the queue: others may be made
            raise
        self._faults = 0

    async def _make(self, queued: Delta) -> None:
        # Step 2: make.
        old, new = await self._image(queued.from_sha256), await self._image(queued.to_sha256)
        patch = await self._ports.patches.make(old, new)
        # Step 3: judge.
        made = replace(queued, patch_length=len(patch))
        words = f"{len(patch)} of {queued.full_length} bytes, {made.percent or 0:.1f} %"
        if len(patch) > queued.full_length * self._policy.max_percent / 100:
            reason = f"expected at most {self._policy.max_percent:g} % of the full image, found {words}"
            await self._settle(replace(made, state=DeltaState.TOO_LARGE, reason=reason))
            return
        # Step 4: store.
        sha256 = digest_of(patch)
        if not await self._settle(replace(queued, patch_sha256=sha256)):
            return
        await self._ports.store.put(sha256, patch)
        offered = replace(made, state=DeltaState.OFFERED, reason=words, format=FORMAT, patch_sha256=sha256)
        if not await self._settle(offered, patch):
            await self._ports.store.delete(sha256)

    async def _settle(self, delta: Delta, patch: bytes = b"") -> bool:
        """Store a patch's new state; False if it is wanted no more, or another process has made it meanwhile."""
        now = self._ports.clock.now()
        async with self._ports.unit_of_work() as work:
            await work.metadata.hold()
            found = await work.deltas.find(delta.from_sha256, delta.to_sha256)
            if found is None or found.state is not DeltaState.QUEUED:
                return found is not None and found.patch_sha256 == delta.patch_sha256
            await work.deltas.save(
                replace(delta, patch_sha256=delta.patch_sha256 or found.patch_sha256, updated_at=now)
            )
            # Step 5: offer.
            if patch:
                target = content_target(_name(delta), patch)
                await self._ports.repository.publish_online(work, DELTAS_ROLE, added=[target], removed=(), now=now)
            if delta.state is not DeltaState.QUEUED:
                work.record(_event(delta, delta.state.value, now=now))
            await work.commit()
        return True

    async def _image(self, sha256: str) -> bytes:
        length = await self._ports.store.length(sha256)
        if length is None or length > MAX_IMAGE_BYTES:
            raise PatchMakeError(
                f"image {sha256[:12]}…: expected 1 to {MAX_IMAGE_BYTES} bytes, found {length or 'none'}"
            )
        return b"".join([block async for block in self._ports.store.read(sha256, start=0, end=length)])


def _superseded(delta: Delta) -> Delta:
    reason = f"expected one of the newest {MAX_OFFERED} patches, found newer ones"
    return replace(delta, state=DeltaState.SUPERSEDED, reason=reason, format="")


def _name(delta: Delta) -> str:
    return delta_target_name(delta.from_sha256, delta.to_sha256)


def _event(delta: Delta, change: str, *, now: datetime) -> Event:
    facts = {"from": delta.from_sha256, "patch_length": delta.patch_length, "full_length": delta.full_length}
    return Event(EventType.DELTA, delta.to_sha256, change, now, {**facts, "reason": delta.reason})
