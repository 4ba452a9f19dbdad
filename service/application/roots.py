"""New roots of both repositories: an operator brings the next version, signed by the old keys and the new ones.

Verification, in this order:
    1. the root: length, form (no consistent snapshots), version current + 1, threshold of the root keys in force and
       of its own, expiry;
    2. what follows from it in the Image repository: files of other roles that come with it, and those in force, verify
       under the new root (`service.application.role_changes`); a root brings no new targets;
    3. online keys: the service holds those that it names for snapshot and timestamp, or for the Director;
    4. the whole way, as a device goes it: from the root in force over the new one to targets.
What the online keys sign is signed again in the same transaction: snapshot and timestamp here, a device's Director
set when it next asks for it (`service.application.director`).
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from tuf.api.metadata import Root

from pki.next_state import check_length, trusted
from pki.repository import UnverifiedRepository, verify_in_force, verify_root
from service.application.audit import Change
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.metadata_refusals import MetadataFormError, refusals
from service.application.publication import Publication
from service.application.releases import note_roles
from service.application.repository import ImageRepository
from service.application.role_changes import NoMetadataError, verify_change
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import MetadataFile, MetadataRole, RepositoryName
from service.domain.errors import ConflictError, JsonValue
from service.domain.operator import Actor


class RootTargetsError(ConflictError):
    """A root brings targets that nobody has released."""


class DirectorKeys(Protocol):
    """Knows which keys of the Director the service holds."""

    def check_director(self, root: Root) -> None:
        """Check that the service can sign for every device what this root asks for.

        Raises:
            OnlineKeyError: the root names no key that the service holds for all three online roles, or wants several.
        """


class Roots:
    """Use cases of new roots."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, repository: ImageRepository, keys: DirectorKeys, clock: Clock
    ) -> None:
        self._unit_of_work = unit_of_work
        self._repository = repository
        self._keys = keys
        self._clock = clock

    async def change(
        self,
        actor: Actor,
        repository: RepositoryName,
        *,
        unverified: bytes,
        unverified_roles: Mapping[str, bytes],
    ) -> int:
        """Bring a root into force.

        Args:
            actor: who brings it.
            repository: whose root it is.
            unverified: the root.json that follows the one in force.
            unverified_roles: files of the Image repository by role that come into force with it, because the ones in
                force are signed by keys that the new root does not name.

        Returns:
            Its version.

        Raises:
            ServiceError: the leaf names the broken rule.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.metadata.hold()
            current = await work.metadata.find(repository, MetadataRole.ROOT)
            if current is None:
                raise NoMetadataError(f"{repository}: expected a root.json in force, found none")
            # Step 1: the root.
            with refusals():
                check_length(unverified, role=MetadataRole.ROOT)
                root = verify_root(current.content, newer=[unverified], now=now)
            file = MetadataFile(repository, MetadataRole.ROOT, root.version, unverified, root.expires)
            if repository is RepositoryName.DIRECTOR:
                await self._change_director(work, file, root, unverified_roles, now=now)
            else:
                await self._change_image(work, actor, file, root, unverified_roles, now=now)
                await _walk(work, current, file, now=now)
            await _note(work, actor, file, current, now=now)
            await work.commit()
        return root.version

    async def _change_director(
        self, work: UnitOfWork, file: MetadataFile, root: Root, unverified_roles: Mapping[str, bytes], *, now: datetime
    ) -> None:
        if unverified_roles:
            raise MetadataFormError(f"Director: expected a root alone, found {sorted(unverified_roles)[:4]} beside it")
        _check_plain_names(root)
        # Step 3: online keys.
        self._keys.check_director(root)
        await work.metadata.put(file, at=now)
        await self._repository.announce(work, Publication((file,)), now=now)

    async def _change_image(
        self,
        work: UnitOfWork,
        actor: Actor,
        file: MetadataFile,
        root: Root,
        unverified_roles: Mapping[str, bytes],
        *,
        now: datetime,
    ) -> None:
        _check_plain_names(root)
        # Step 2: what follows from it.
        change = await verify_change(work, unverified_roles, now=now, root=root)
        if change.added:
            raise RootTargetsError(f"root: expected no new targets beside it, found {min(change.added)}")
        # Step 3: online keys.
        await self._repository.publish(work, change, roots=[file], now=now)
        await note_roles(work, actor, change, at=now)


def _check_plain_names(root: Root) -> None:
    # Step 1: the root.
    if root.consistent_snapshot:
        raise MetadataFormError("root: expected files under their plain names, found a consistent snapshot")


async def _walk(work: UnitOfWork, current: MetadataFile, file: MetadataFile, *, now: datetime) -> None:
    # Step 4: the whole way.
    roles = [MetadataRole.TIMESTAMP, MetadataRole.SNAPSHOT, MetadataRole.TARGETS]
    files = await work.metadata.newest(RepositoryName.IMAGE, roles)
    timestamp, snapshot, targets = (files[role].content for role in roles)
    unverified = UnverifiedRepository([file.content], timestamp, snapshot, targets)
    with refusals():
        await asyncio.to_thread(verify_in_force, unverified, trusted_root=current.content, now=now)


async def _note(work: UnitOfWork, actor: Actor, file: MetadataFile, current: MetadataFile, *, now: datetime) -> None:
    before: dict[str, JsonValue] = {"version": current.version, "root_keys": _root_keys(current)}
    after: dict[str, JsonValue] = {"version": file.version, "root_keys": _root_keys(file)}
    subject = f"{file.repository}-repository"
    await work.audit.add(actor, Change("repository.root", subject, before=before, after=after), at=now)
    work.record(Event(EventType.SECURITY, subject, "root-changed", now, after))


def _root_keys(file: MetadataFile) -> JsonValue:
    role = trusted(file.content, Root).roles[Root.type]
    return f"{role.threshold} of {', '.join(sorted(key_id[:16] for key_id in role.keyids))}"
