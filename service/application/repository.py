"""The Image repository as the service keeps it: takes signed roles into force, signs snapshot, timestamp and patches.

The offline half (root, targets, delegated roles) is signed by operators; the service verifies it
(`service.application.role_changes`) and serves it. The online half is signed here with keys that the root names:
snapshot and timestamp when anything comes into force, and again at half of their lifetime; the role `deltas` when
patches come and go.

New files come into force in one transaction with their snapshot and timestamp, so that no device ever sees one
without the others. Publications come one after the other: each holds the repository from before its first look to its
commit (`MetadataRepository.hold`). A snapshot lists the newest version of every role that the database has, so that
each is right whatever was wrong with the one before.

Versions of what is signed online only rise: max(last + 1, seconds since 1970), so that they do after a restore from an
older backup, too. What the backup holds is older than what devices have seen, so all of it is signed anew at every
start. What operators signed since the backup they publish again: devices take no older version of theirs, either.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets

from pki.metadata import BIN_PREFIX, DELTAS_ROLE, listed_file
from pki.next_state import bin_names, redelegated, trusted
from pki.repository import RepositoryInForce, delegated_roles, verify_delegated, verify_root, verify_targets
from protocol.updates import image_custom
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.metadata_refusals import DelegationRefusedError, refusals
from service.application.publication import Publication, PublicationListener
from service.application.role_changes import VerifiedChange, delegators_in_force
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import (
    ImageTarget,
    ListedTarget,
    MetadataFile,
    MetadataRole,
    RepositoryName,
    RoleVersion,
)
from service.domain.errors import ConflictError, NotFoundError
from service.domain.release import target_sha256

SNAPSHOT_LIFETIME = timedelta(days=7)
TIMESTAMP_LIFETIME = timedelta(days=1)
DELTAS_LIFETIME = timedelta(days=7)
KEPT_VERSIONS = 16  # of each role that people sign but root: for who is in the middle of a check, or looks back
KEPT_SECONDS = 3600  # versions of roles that are signed online: for a device in the middle of a check


class UnknownMetadataError(NotFoundError):
    """There is no metadata file of this name, or not in this version."""


class OnlineKeyError(ConflictError):
    """The service does not hold the keys that are named for an online role."""


class NoOnlineRoleError(ConflictError):
    """Targets delegate to no such role of the service."""


@dataclass(frozen=True, slots=True)
class Genesis:
    """The first metadata, signed by the ceremony; unverified until `begin`."""

    director_root: bytes
    image_root: bytes
    image_targets: bytes


class RepositoryMetadata(Protocol):
    """Signs the Image repository's online roles with the keys of the service that are named for them."""

    def sign_snapshot(self, files: Mapping[str, MetaFile], *, root: Root, version: int, expires: datetime) -> bytes:
        """Sign snapshot.json over the targets roles' files, by role.

        Raises:
            OnlineKeyError: the root names no key that the service holds.
        """

    def sign_timestamp(
        self, snapshot: bytes, *, root: Root, snapshot_version: int, version: int, expires: datetime
    ) -> bytes:
        """Sign timestamp.json over snapshot.json.

        Raises:
            OnlineKeyError: the root names no key that the service holds.
        """

    def sign_deltas(
        self, targets: Sequence[TargetFile], *, delegator: Targets, version: int, expires: datetime
    ) -> bytes:
        """Sign the role `deltas`.

        Raises:
            OnlineKeyError: the delegator names no key that the service holds.
        """


class ImageRepository:
    """The Image repository in the database.

    Args:
        unit_of_work: opens transactions.
        metadata: signs online roles.
        clock: of the service.
        listeners: act on what comes into force, in its transaction and in this order.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        metadata: RepositoryMetadata,
        clock: Clock,
        listeners: Sequence[PublicationListener] = (),
    ) -> None:
        self._unit_of_work = unit_of_work
        self._metadata = metadata
        self._clock = clock
        self._listeners = tuple(listeners)

    async def begin(self, genesis: Genesis) -> None:
        """Take the ceremony's metadata into force at the first start; later ones sign anew what is signed online.

        Raises:
            ServiceError: the genesis does not verify; the leaf names the broken rule.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.metadata.hold()
            begun = await work.metadata.find(RepositoryName.IMAGE, MetadataRole.ROOT) is not None
            if begun:
                await _list_again(work)
            else:
                change, roots = _first_change(genesis, now=now)
                await self.publish(work, change, roots=roots, now=now)
            await work.commit()
        if begun:
            await self._sign_anew(now)

    async def _sign_anew(self, now: datetime) -> None:
        async with self._unit_of_work() as work:
            await work.metadata.hold()
            state = await delegators_in_force(work)
            if DELTAS_ROLE in delegated_roles(state.targets):
                await self.publish_online(work, DELTAS_ROLE, added=(), removed=(), now=now)
            else:
                await self._sign_above(work, root=state.root, now=now)
            await work.commit()

    async def file(self, repository: RepositoryName, role: str, *, version: int | None = None) -> MetadataFile:
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

    async def publish(
        self, work: UnitOfWork, change: VerifiedChange, *, now: datetime, roots: Sequence[MetadataFile] = ()
    ) -> None:
        """Bring verified files into force with a new snapshot and timestamp; the caller commits.

        Args:
            work: the transaction, which holds the repository since before `change` was verified.
            change: what `verify_change` returned.
            now: UTC, aware.
            roots: verified, that come into force together with it.

        Raises:
            OnlineKeyError: an online role's keys are not the service's.
        """
        files = (*change.files, *await self._deltas_again(work, change, now=now))
        await work.metadata.put(*roots, *files, at=now)
        oldest = {file.role: file.version - KEPT_VERSIONS + 1 for file in change.files}
        await work.metadata.prune(RepositoryName.IMAGE, oldest)
        await _list(work, change)
        await self.announce(work, Publication((*roots, *files), change.added), now=now)
        await self._sign_above(work, root=change.after.root, now=now)

    async def announce(self, work: UnitOfWork, publication: Publication, *, now: datetime) -> None:
        """Tell the listeners what comes into force."""
        for listener in self._listeners:
            await listener.published(work, publication, now=now)

    async def publish_online(
        self,
        work: UnitOfWork,
        role: str,
        *,
        added: Sequence[TargetFile],
        removed: Collection[str],
        now: datetime,
    ) -> None:
        """Add and remove targets of a role that the service signs; the caller commits.

        Args:
            work: the transaction.
            role: `deltas`.
            added: new targets within its paths; one that it lists already changes nothing.
            removed: target names; one that it does not list changes nothing.
            now: UTC, aware.

        Raises:
            NoOnlineRoleError: targets do not delegate to it: an operator has to publish the delegation.
            DelegationRefusedError: a target is outside its paths.
            OnlineKeyError: the service does not hold its keys.
        """
        await work.metadata.hold()
        state = await delegators_in_force(work)
        found = await work.metadata.find(RepositoryName.IMAGE, role)
        if role != DELTAS_ROLE or role not in delegated_roles(state.targets) or found is None:
            raise NoOnlineRoleError(f"role {role}: expected targets to delegate to it, and the service to sign it")
        with refusals():
            known = trusted(found.content, Targets).targets
        listed = {name: target for name, target in known.items() if name not in removed}
        listed |= {target.path: target for target in added}
        version = _next_version(found.version, now)
        file = self._sign_deltas(state.targets, listed.values(), version=version, now=now)
        await _put_online(work, file, now=now)
        await work.metadata.unlist_targets(known.keys() - listed.keys())
        await work.metadata.list_targets([_listed_target(target, role) for target in added])
        await self._sign_above(work, root=state.root, now=now)

    async def refresh(self) -> datetime:
        """Sign what is signed online again where half of its lifetime is over.

        Returns:
            When to look again, UTC, aware.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.metadata.hold()
            state = await delegators_in_force(work)
            online = await work.metadata.newest(RepositoryName.IMAGE, _LIFETIMES)
            due = {role for role, lifetime in _LIFETIMES.items() if role in online and _is_due(online[role], now)}
            if DELTAS_ROLE in due and DELTAS_ROLE in delegated_roles(state.targets):
                await self.publish_online(work, DELTAS_ROLE, added=(), removed=(), now=now)
            elif MetadataRole.SNAPSHOT in due:
                await self._sign_above(work, root=state.root, now=now)
            elif MetadataRole.TIMESTAMP in due:
                await self._sign_timestamp(work, online[MetadataRole.SNAPSHOT], root=state.root, now=now)
            else:
                return online[MetadataRole.TIMESTAMP].expires_at - TIMESTAMP_LIFETIME / 2
            work.record(Event(EventType.RELEASE, "image-repository", "refreshed", now))
            await work.commit()
        return now + TIMESTAMP_LIFETIME / 2

    async def _deltas_again(self, work: UnitOfWork, change: VerifiedChange, *, now: datetime) -> list[MetadataFile]:
        """Sign `deltas` where it is delegated to otherwise than before."""
        if DELTAS_ROLE not in change.delegated | change.dropped:
            return []
        found = await work.metadata.find(RepositoryName.IMAGE, DELTAS_ROLE)
        known = trusted(found.content, Targets).targets if found else {}
        if DELTAS_ROLE in change.dropped:
            await work.metadata.unlist_targets(known.keys())
            return []
        kept = known.values() if DELTAS_ROLE in delegated_roles(change.before.targets) else ()
        version = _next_version(found.version if found else 0, now)
        return [self._sign_deltas(change.after.targets, kept, version=version, now=now)]

    def _sign_deltas(
        self, delegator: Targets, targets: Iterable[TargetFile], *, version: int, now: datetime
    ) -> MetadataFile:
        expires = now + DELTAS_LIFETIME
        content = self._metadata.sign_deltas([*targets], delegator=delegator, version=version, expires=expires)
        with refusals():
            verify_delegated(content, delegator=delegator, role=DELTAS_ROLE, now=now)
        return MetadataFile(RepositoryName.IMAGE, DELTAS_ROLE, version, content, expires)

    async def _sign_above(self, work: UnitOfWork, *, root: Root, now: datetime) -> None:
        """Sign the snapshot that lists the files in force, and the timestamp."""
        previous = await work.metadata.find(RepositoryName.IMAGE, MetadataRole.SNAPSHOT)
        listed = await _files_in_force(work, _listed_files(previous))
        version, expires = _next_version(previous.version if previous else 0, now), now + SNAPSHOT_LIFETIME
        content = self._metadata.sign_snapshot(listed, root=root, version=version, expires=expires)
        snapshot = MetadataFile(RepositoryName.IMAGE, MetadataRole.SNAPSHOT, version, content, expires)
        await _put_online(work, snapshot, now=now)
        await self._sign_timestamp(work, snapshot, root=root, now=now)

    async def _sign_timestamp(self, work: UnitOfWork, snapshot: MetadataFile, *, root: Root, now: datetime) -> None:
        last = await work.metadata.version(RepositoryName.IMAGE, MetadataRole.TIMESTAMP)
        version, expires = _next_version(last, now), now + TIMESTAMP_LIFETIME
        content = self._metadata.sign_timestamp(
            snapshot.content, root=root, snapshot_version=snapshot.version, version=version, expires=expires
        )
        file = MetadataFile(RepositoryName.IMAGE, MetadataRole.TIMESTAMP, version, content, expires)
        await _put_online(work, file, now=now)


_NOT_LISTED = frozenset({MetadataRole.ROOT, MetadataRole.SNAPSHOT, MetadataRole.TIMESTAMP})
_LIFETIMES = {
    DELTAS_ROLE: DELTAS_LIFETIME,
    MetadataRole.SNAPSHOT.value: SNAPSHOT_LIFETIME,
    MetadataRole.TIMESTAMP.value: TIMESTAMP_LIFETIME,
}


def _next_version(last: int, now: datetime) -> int:
    return max(last + 1, int(now.timestamp()))


def _is_due(file: MetadataFile, now: datetime) -> bool:
    return file.expires_at - _LIFETIMES[file.role] / 2 <= now


def _first_change(genesis: Genesis, *, now: datetime) -> tuple[VerifiedChange, list[MetadataFile]]:
    with refusals():
        director, root = verify_root(genesis.director_root, now=now), verify_root(genesis.image_root, now=now)
        targets = verify_targets(genesis.image_targets, root=root, now=now)
    before, after = RepositoryInForce(root, Targets()), RepositoryInForce(root, targets)
    delegated = redelegated(before, after)
    if delegated - {DELTAS_ROLE}:
        raise DelegationRefusedError(f"genesis: expected no delegation but {DELTAS_ROLE}, found {sorted(delegated)}")
    file = MetadataFile(
        RepositoryName.IMAGE, MetadataRole.TARGETS, targets.version, genesis.image_targets, targets.expires
    )
    roots = [
        MetadataFile(
            RepositoryName.DIRECTOR, MetadataRole.ROOT, director.version, genesis.director_root, director.expires
        ),
        MetadataFile(RepositoryName.IMAGE, MetadataRole.ROOT, root.version, genesis.image_root, root.expires),
    ]
    change = VerifiedChange(
        before=before,
        after=after,
        files=(file,),
        added=targets.targets,
        homes=dict.fromkeys(targets.targets, MetadataRole.TARGETS),
        targets=targets.targets,
        delegated=delegated,
        dropped=frozenset(),
    )
    return change, roots


async def _list_again(work: UnitOfWork) -> None:
    """Note which role lists what, in a database from before there were delegated roles."""
    if await work.metadata.all_listed(after_path="", limit=1):
        return
    state = await delegators_in_force(work)
    roles = {MetadataRole.TARGETS, *delegated_roles(state.targets), *bin_names(state)}
    for role, file in (await work.metadata.newest(RepositoryName.IMAGE, roles)).items():
        with refusals():
            targets = trusted(file.content, Targets).targets.values()
        await work.metadata.list_targets([_listed_target(target, role) for target in targets])


async def _list(work: UnitOfWork, change: VerifiedChange) -> None:
    listed = [_listed_target(target, change.homes[name]) for name, target in change.targets.items()]
    await work.metadata.list_targets(listed)
    versions = {file.role: file.version for file in change.files}
    await work.metadata.add_images(
        [
            _image_target(target, versions[change.homes[name]])
            for name, target in change.added.items()
            if name.startswith("images/")
        ]
    )


async def _put_online(work: UnitOfWork, file: MetadataFile, *, now: datetime) -> None:
    await work.metadata.put(file, at=now)
    await work.metadata.prune(RepositoryName.IMAGE, {file.role: file.version - KEPT_SECONDS})


def _listed_files(snapshot: MetadataFile | None) -> dict[str, MetaFile]:
    if snapshot is None:
        return {}
    with refusals():
        meta = trusted(snapshot.content, Snapshot).meta
    return {name.removesuffix(".json"): file for name, file in meta.items()}


async def _files_in_force(work: UnitOfWork, known: Mapping[str, MetaFile]) -> dict[str, MetaFile]:
    """Describe the newest file of each role; what the snapshot before says of the same version need not be read."""
    newest = {each.role: each.version for each in await work.metadata.versions() if _is_listed(each)}
    found = {role: known[role] for role, version in newest.items() if role in known and known[role].version == version}
    other = newest.keys() - found.keys()
    # A bin is signed offline, and there are thousands: its version is enough.
    bins = {role for role in other if role.startswith(f"{BIN_PREFIX}-")}
    read = await work.metadata.newest(RepositoryName.IMAGE, other - bins)
    found |= {role: MetaFile(newest[role]) for role in bins}
    return found | {role: listed_file(file.content, version=file.version) for role, file in read.items()}


def _is_listed(each: RoleVersion) -> bool:
    return each.repository is RepositoryName.IMAGE and each.role not in _NOT_LISTED


def _listed_target(target: TargetFile, role: str) -> ListedTarget:
    return ListedTarget(target.path, role, target_sha256(target), target.length)


def _image_target(target: TargetFile, version: int) -> ImageTarget:
    return ImageTarget(target.path, target_sha256(target), target.length, image_custom(target), version)
