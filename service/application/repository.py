"""The Image repository as the service keeps it: takes signed targets into force, signs snapshot and timestamp.

The offline half (root, targets) is signed by the operator's CLI; the service only verifies and serves it. The online
half (snapshot, timestamp) is signed here: when targets come into force, and again at half of its lifetime.

A new targets.json comes into force in one transaction with its snapshot and timestamp, so that no device ever sees
one without the others.

Versions of snapshot and timestamp only rise: max(last + 1, seconds since 1970), so that they do after a restore from an
older backup, too. What the backup holds was superseded for the devices that saw more; therefore both are signed anew at
every start.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tuf.api.metadata import TargetFile

from protocol.updates import image_custom
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.publication import Publication, PublicationListener
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import ImageTarget, MetadataFile, MetadataRole, RepositoryName
from service.domain.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from service.domain.release import MetadataRaceError, target_sha256

SNAPSHOT_LIFETIME = timedelta(days=7)
TIMESTAMP_LIFETIME = timedelta(days=1)
KEPT_SECONDS = 3600  # versions of snapshot and timestamp of this time stay: for a device in the middle of a check


class UnknownMetadataError(NotFoundError):
    """There is no metadata file of this name, or not in this version."""


class MetadataFormError(InvalidError):
    """The bytes are no metadata of the role that is expected."""


class MetadataExpiredError(InvalidError):
    """The metadata's expiry is over."""


class MetadataSignatureRefusedError(ForbiddenError):
    """Too few keys of the role signed the metadata."""


class MetadataVersionError(ConflictError):
    """The metadata is not of the version that must come next."""


class NoMetadataError(ConflictError):
    """The repository has no root or targets: the service's genesis is missing."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first metadata, signed by the ceremony; unverified until `begin`."""

    director_root: bytes
    image_root: bytes
    image_targets: bytes


@dataclass(frozen=True, slots=True)
class VerifiedTargets:
    """Targets metadata whose signatures, version and expiry have been verified."""

    content: bytes
    version: int
    expires_at: datetime
    targets: Mapping[str, TargetFile]


@dataclass(frozen=True, slots=True)
class VerifiedRoot:
    """Root metadata that is signed by itself and has not expired."""

    content: bytes
    version: int
    expires_at: datetime


class RepositoryMetadata(Protocol):
    """Verifies and signs the Image repository's metadata; python-tuf and the online keys behind it."""

    def verify_root(self, unverified: bytes, *, now: datetime) -> VerifiedRoot:
        """Verify a first root.

        Raises:
            MetadataFormError, MetadataSignatureRefusedError, MetadataExpiredError: the broken rule.
        """

    def verify_targets(
        self, unverified: bytes, *, root: bytes, now: datetime, version: int | None = None
    ) -> VerifiedTargets:
        """Verify targets against a verified root: form, threshold of signatures, version, expiry.

        Raises:
            MetadataFormError, MetadataSignatureRefusedError, MetadataVersionError, MetadataExpiredError: the broken
                rule.
        """

    def targets_of(self, verified: bytes) -> Mapping[str, TargetFile]:
        """Return the targets of metadata that was verified before."""

    def sign_snapshot(self, targets: bytes, *, targets_version: int, version: int, expires: datetime) -> bytes:
        """Sign snapshot.json over targets.json."""

    def sign_timestamp(self, snapshot: bytes, *, snapshot_version: int, version: int, expires: datetime) -> bytes:
        """Sign timestamp.json over snapshot.json."""


class ImageRepository:
    """The Image repository in the database."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        metadata: RepositoryMetadata,
        clock: Clock,
        listeners: Sequence[PublicationListener] = (),
    ) -> None:
        self._listeners = tuple(listeners)
        self._unit_of_work = unit_of_work
        self._metadata = metadata
        self._clock = clock

    async def begin(self, genesis: Genesis) -> None:
        """Take the ceremony's metadata into force at the first start; later ones sign snapshot and timestamp anew.

        Raises:
            ServiceError: the genesis does not verify; the leaf names the broken rule.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            if await work.metadata.find(RepositoryName.IMAGE, MetadataRole.ROOT):
                with contextlib.suppress(MetadataRaceError):  # another process that starts now has done it
                    await self._sign_anew(work, now=now)
                return
            director = self._metadata.verify_root(genesis.director_root, now=now)
            image = self._metadata.verify_root(genesis.image_root, now=now)
            targets = self._metadata.verify_targets(genesis.image_targets, root=genesis.image_root, now=now)
            for repository, root in ((RepositoryName.DIRECTOR, director), (RepositoryName.IMAGE, image)):
                file = MetadataFile(repository, MetadataRole.ROOT, root.version, root.content, root.expires_at)
                await work.metadata.put(file, at=now)
            await self.publish(work, targets, now=now)
            await work.commit()

    async def _sign_anew(self, work: UnitOfWork, *, now: datetime) -> None:
        snapshot = await self._sign_snapshot(work, await _in_force(work, MetadataRole.TARGETS), now=now)
        await self._sign_timestamp(work, snapshot, now=now)
        await work.commit()

    async def file(self, repository: RepositoryName, role: MetadataRole, *, version: int | None = None) -> MetadataFile:
        """Return a file of the Image repository or a root of the Director.

        Raises:
            UnknownMetadataError: there is none, or not in this version.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.metadata.find(repository, role, version=version)
        if found is None:
            wanted = "any" if version is None else version
            raise UnknownMetadataError(f"{repository} {role}.json: expected version {wanted}, found none")
        return found

    async def verify_next(self, work: UnitOfWork, unverified: bytes, *, now: datetime) -> VerifiedTargets:
        """Verify what an operator wants to bring into force: the version after the current one.

        Raises:
            ServiceError: it does not verify; the leaf names the broken rule.
        """
        root = await _in_force(work, MetadataRole.ROOT)
        current = await _in_force(work, MetadataRole.TARGETS)
        return self._metadata.verify_targets(unverified, root=root.content, now=now, version=current.version + 1)

    async def current_targets(self, work: UnitOfWork) -> Mapping[str, TargetFile]:
        """Return the targets in force by name."""
        return self._metadata.targets_of((await _in_force(work, MetadataRole.TARGETS)).content)

    async def publish(self, work: UnitOfWork, targets: VerifiedTargets, *, now: datetime) -> None:
        """Bring verified targets into force with a new snapshot and timestamp; the caller commits.

        Raises:
            MetadataRaceError: another publication came first.
        """
        previous = await work.metadata.find(RepositoryName.IMAGE, MetadataRole.TARGETS)
        known = {} if previous is None else self._metadata.targets_of(previous.content)
        file = MetadataFile(
            RepositoryName.IMAGE, MetadataRole.TARGETS, targets.version, targets.content, targets.expires_at
        )
        await work.metadata.put(file, at=now)
        added = {name: target for name, target in targets.targets.items() if name not in known}
        await work.metadata.add_images(
            [_image_target(target, targets.version) for target in added.values() if target.path.startswith("images/")]
        )
        publication = Publication((file,), added)
        for listener in self._listeners:
            await listener.published(work, publication, now=now)
        snapshot = await self._sign_snapshot(work, file, now=now)
        await self._sign_timestamp(work, snapshot, now=now)

    async def refresh(self) -> datetime:
        """Sign snapshot and timestamp again where half of their lifetime is over.

        Returns:
            When to look again, UTC, aware.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            snapshot = await _in_force(work, MetadataRole.SNAPSHOT)
            timestamp = await _in_force(work, MetadataRole.TIMESTAMP)
            snapshot_due = snapshot.expires_at - SNAPSHOT_LIFETIME / 2 <= now
            if snapshot_due:
                snapshot = await self._sign_snapshot(work, await _in_force(work, MetadataRole.TARGETS), now=now)
            if snapshot_due or timestamp.expires_at - TIMESTAMP_LIFETIME / 2 <= now:
                timestamp = await self._sign_timestamp(work, snapshot, now=now)
                work.record(Event(EventType.RELEASE, "image-repository", "refreshed", now))
                await work.commit()
        return timestamp.expires_at - TIMESTAMP_LIFETIME / 2

    async def _sign_snapshot(self, work: UnitOfWork, targets: MetadataFile, *, now: datetime) -> MetadataFile:
        version, expires = await _next_version(work, MetadataRole.SNAPSHOT, now), now + SNAPSHOT_LIFETIME
        content = self._metadata.sign_snapshot(
            targets.content, targets_version=targets.version, version=version, expires=expires
        )
        return await _put_online(work, MetadataRole.SNAPSHOT, version, content, expires=expires, now=now)

    async def _sign_timestamp(self, work: UnitOfWork, snapshot: MetadataFile, *, now: datetime) -> MetadataFile:
        version, expires = await _next_version(work, MetadataRole.TIMESTAMP, now), now + TIMESTAMP_LIFETIME
        content = self._metadata.sign_timestamp(
            snapshot.content, snapshot_version=snapshot.version, version=version, expires=expires
        )
        return await _put_online(work, MetadataRole.TIMESTAMP, version, content, expires=expires, now=now)


async def _in_force(work: UnitOfWork, role: MetadataRole) -> MetadataFile:
    found = await work.metadata.find(RepositoryName.IMAGE, role)
    if found is None:
        raise NoMetadataError(f"Image repository: expected a {role}.json in force, found none")
    return found


async def _next_version(work: UnitOfWork, role: MetadataRole, now: datetime) -> int:
    found = await work.metadata.find(RepositoryName.IMAGE, role)
    return max(1 if found is None else found.version + 1, int(now.timestamp()))


async def _put_online(
    work: UnitOfWork, role: MetadataRole, version: int, content: bytes, *, expires: datetime, now: datetime
) -> MetadataFile:
    file = MetadataFile(RepositoryName.IMAGE, role, version, content, expires)
    await work.metadata.put(file, at=now)
    await work.metadata.prune(RepositoryName.IMAGE, role, below=version - KEPT_SECONDS)
    return file


def _image_target(target: TargetFile, version: int) -> ImageTarget:
    return ImageTarget(target.path, target_sha256(target), target.length, image_custom(target), version)
