"""The Director: signs for one device which images it is to run, on demand.

A device that asks for its timestamp gets the metadata of the action that waits for it, or metadata without a target;
both name the device (`protocol.updates.DEVICE_FIELD`). What was signed is kept and served again until the action
changes or half of its lifetime is over.

Versions of one device's metadata only rise: max(last + 1, seconds since 1970). The last one is in the database; after
a restore from an older backup the seconds are above every version that was given out before, because no device gets
a new version more often than once a second for long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from protocol.geometry import Slot
from protocol.messages import ActionState
from protocol.updates import DirectorDevice
from service.application.clock import Clock
from service.application.repository import UnknownMetadataError
from service.application.rollout_changes import store_actions, store_rollout
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import DirectorSet, ImageTarget, MetadataRole
from service.domain.action import Action, cancel, offer
from service.domain.release import Release

DIRECTOR_LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DirectedImage:
    """An image and the slot that is to hold it."""

    slot: Slot
    image: ImageTarget


@dataclass(frozen=True, slots=True)
class SignedSet:
    """The Director's three files for one device, JSON bytes."""

    targets: bytes
    snapshot: bytes
    timestamp: bytes


class DirectorSigner(Protocol):
    """Signs with the Director's online key."""

    def sign_director_set(
        self,
        device: DirectorDevice,
        images: Sequence[DirectedImage],
        *,
        release: str,
        version: int,
        expires: datetime,
    ) -> SignedSet:
        """Sign the three files.

        Args:
            device: whom they are for.
            images: what it is to run; empty where nothing waits.
            release: target name of the release document.
            version: of all three.
            expires: of all three, UTC, aware.
        """


class Director:
    """Serves each device its own metadata."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, signer: DirectorSigner, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._signer = signer
        self._clock = clock

    async def timestamp(self, device_id: str) -> bytes:
        """Return the device's timestamp.json; signs a new set where the last one is not right any more."""
        now = self._clock.now()
        async with self._unit_of_work(read_only=True) as work:
            last = await work.director.find(device_id)
            action = await _waiting(work, device_id)
        if last is not None and _is_current(last, action, now):
            return last.timestamp
        return (await self._sign_next(device_id, now)).timestamp

    async def file(self, device_id: str, role: MetadataRole, *, version: int | None = None) -> bytes:
        """Return the device's snapshot.json or targets.json as the last timestamp names it.

        Raises:
            UnknownMetadataError: another version, or the device has not asked for a timestamp yet.
        """
        async with self._unit_of_work(read_only=True) as work:
            last = await work.director.find(device_id)
        if last is None or version not in {None, last.version}:
            found = "none" if last is None else last.version
            raise UnknownMetadataError(f"director {role}.json: expected version {found}, found a request for {version}")
        files = {
            MetadataRole.TIMESTAMP: last.timestamp,
            MetadataRole.SNAPSHOT: last.snapshot,
            MetadataRole.TARGETS: last.targets,
        }
        return files[role]

    async def _sign_next(self, device_id: str, now: datetime) -> DirectorSet:
        await self._withdraw_ended(device_id, now)
        async with self._unit_of_work() as work:
            action = await self._offer(work, device_id, now)
            last = await work.director.find(device_id)
            if last is not None and _is_current(last, action, now):
                return last
            version = max(last.version + 1 if last else 1, int(now.timestamp()))
            signed = await self._sign(work, device_id, action, version=version, now=now)
            await work.director.put(signed)
            await work.commit()
            return signed

    async def _withdraw_ended(self, device_id: str, now: datetime) -> None:
        """Cancel what an ended rollout offered: the device asks anew, so it has not begun it."""
        async with self._unit_of_work(read_only=True) as work:
            offered = [a for a in await work.actions.queue(device_id) if a.state is ActionState.OFFERED]
        for found in offered:
            async with self._unit_of_work() as work:
                stored = await work.rollouts.get(found.rollout_id, lock=True)
                action = await work.actions.get(found.action_id, lock=True)
                if stored.rollout.state.is_over and not action.heals:
                    gone = cancel(action, f"rollout {stored.rollout.state}", now=now)
                    rollout = await store_actions(work, stored.rollout, [(action, gone)], now=now)
                    await store_rollout(work, stored, rollout, now=now)
                    await work.commit()

    async def _offer(self, work: UnitOfWork, device_id: str, now: datetime) -> Action | None:
        """Return the action that waits for the device, marked as offered."""
        found = await _waiting(work, device_id)
        if found is None:
            return None
        stored = await work.rollouts.get(found.rollout_id, lock=True)
        action = await work.actions.get(found.action_id, lock=True)
        if not stored.rollout.offers(action):
            return None
        offered = offer(action, now, timeout=stored.rollout.conditions.action_timeout)
        if offered != action:
            rollout = await store_actions(work, stored.rollout, [(action, offered)], now=now)
            await store_rollout(work, stored, rollout, now=now)
        return offered

    async def _sign(
        self, work: UnitOfWork, device_id: str, action: Action | None, *, version: int, now: datetime
    ) -> DirectorSet:
        action_id = None if action is None else action.action_id
        release = None if action is None else await _release(work, action)
        signed = self._signer.sign_director_set(
            DirectorDevice(device_id=device_id, action_id=action_id),
            [] if release is None else await _images(work, release),
            release="" if release is None else release.target,
            version=version,
            expires=now + DIRECTOR_LIFETIME,
        )
        return DirectorSet(
            device_id=device_id,
            version=version,
            action_id=action_id,
            targets=signed.targets,
            snapshot=signed.snapshot,
            timestamp=signed.timestamp,
            renew_at=now + DIRECTOR_LIFETIME / 2,
        )


def _is_current(last: DirectorSet, action: Action | None, now: datetime) -> bool:
    return last.action_id == (None if action is None else action.action_id) and now < last.renew_at


async def _waiting(work: UnitOfWork, device_id: str) -> Action | None:
    """Return the action that the device may have now: the one it works on, else the first in line that is offered."""
    for action in await work.actions.queue(device_id):
        rollout = (await work.rollouts.get(action.rollout_id)).rollout
        if rollout.offers(action):
            return action
        if action.state is ActionState.OFFERED and not rollout.state.is_over:
            return None  # given to the device before a pause: it may be at work on it
    return None


async def _release(work: UnitOfWork, action: Action) -> Release:
    stored = await work.rollouts.get(action.rollout_id)
    return await work.releases.get(stored.rollout.release_id)


async def _images(work: UnitOfWork, release: Release) -> list[DirectedImage]:
    targets = await work.metadata.images_of(set(release.digests.values()))
    return [DirectedImage(slot, targets[digest]) for slot, digest in release.digests.items()]
