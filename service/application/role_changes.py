"""Several roles' files as one next state of the Image repository: verified, and beside what is in force.

Verification of an operator's files, in this order:
    1. roles: names of files that an operator signs; the `deltas` role is the service's own;
    2. metadata: form, threshold of signatures by the delegator as it will be, version current + 1, expiry, names
       inside the delegation (`pki.next_state`); a role that is new brings its first file;
    3. roles that are delegated otherwise than before, and have no new file: their file in force still verifies;
    4. targets in force neither change nor vanish; one may move from role to role in the same publication;
    5. a name is listed by one role, the one that a device asks for it, or `targets`.
`verify_ahead` does all of it on a read-only transaction, so that no writer waits for signatures; the writer goes by its
result as long as nothing has come into force since (`hold_verified`). What takes long runs in a thread.

The cost follows what changes: of the roles in force those are read that change, and `targets` and `bins` above them.
Every name is looked at only where delegations send devices to other roles than before.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root, TargetFile, Targets

from pki.metadata import BINS_ROLE, DELTAS_ROLE
from pki.next_state import (
    ListingChange,
    asks_others,
    dropped,
    listing_change,
    reaches,
    redelegated,
    trusted,
    trusted_delegators,
    verify_delegators,
    verify_kept,
    verify_next,
)
from pki.repository import ROLE_NAME, RepositoryInForce
from service.application.metadata_refusals import DelegationRefusedError, refusals
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import ListedTarget, MetadataFile, MetadataRole, RepositoryName
from service.domain.errors import ConflictError, InvalidError
from service.domain.release import TargetChangedError

_PAGE = 10_000  # names per look into the database
_NOT_ROLES = frozenset({MetadataRole.ROOT, MetadataRole.SNAPSHOT, MetadataRole.TIMESTAMP})


class NoMetadataError(ConflictError):
    """The repository has no root or targets: the service's genesis is missing."""


class RoleNameError(InvalidError):
    """There is no role of this name whose files an operator signs."""


class TwoRolesError(ConflictError):
    """A target would be listed by two roles."""


class UnreachableTargetError(ConflictError):
    """A device that looks for the target would not ask the role that lists it."""


@dataclass(frozen=True, slots=True)
class VerifiedChange:
    """Files of several roles that may come into force together.

    Attributes:
        before: root, targets and bins in force.
        after: root, targets and bins as they will be.
        files: the new files.
        added: targets that no role listed before, by name.
        homes: role that will list a target, by name: of those that are added or move.
        delegated: roles whose keys, threshold or names are other than before; new ones are among them.
        dropped: roles that nobody delegates to any more.
    """

    before: RepositoryInForce
    after: RepositoryInForce
    files: tuple[MetadataFile, ...]
    added: Mapping[str, TargetFile]
    homes: Mapping[str, str]
    targets: Mapping[str, TargetFile]
    delegated: frozenset[str]
    dropped: frozenset[str]


@dataclass(frozen=True, slots=True)
class ChangeAhead:
    """Files that were verified before the transaction in which they are to come into force.

    Attributes:
        unverified: files by role.
        now: when they were verified, UTC, aware.
        snapshot: version of the snapshot then.
        change: what they change, if it is still in force.
    """

    unverified: Mapping[str, bytes]
    now: datetime
    snapshot: int
    change: VerifiedChange


@dataclass(slots=True)
class _Stored:
    """Newest files of the Image repository, read where they are needed."""

    work: UnitOfWork
    files: dict[str, MetadataFile] = field(default_factory=dict)

    async def read(self, roles: Collection[str]) -> None:
        missing = set(roles) - self.files.keys()
        if missing:
            self.files |= await self.work.metadata.newest(RepositoryName.IMAGE, missing)

    def listed(self, role: str, *, by: RepositoryInForce) -> Mapping[str, TargetFile]:
        """Return what a role lists in force; nothing where it is not delegated to."""
        if not by.delegates_to(role) or role not in self.files:
            return {}
        return trusted(self.files[role].content, Targets).targets


async def delegators_in_force(work: UnitOfWork, *, roles: Collection[str] = ()) -> RepositoryInForce:
    """Return root, targets and bins in force, and the last versions of these and of other roles.

    Raises:
        NoMetadataError: there are none.
    """
    stored = _Stored(work)
    return await _before(stored, roles)


async def verify_ahead(
    unit_of_work: UnitOfWorkFactory, unverified: Mapping[str, bytes], *, now: datetime
) -> ChangeAhead:
    """Verify what an operator wants to bring into force, while others may write.

    Args:
        unit_of_work: opens transactions.
        unverified: files by role.
        now: UTC, aware.

    Raises:
        ServiceError: the leaf names the broken rule.
    """
    async with unit_of_work(read_only=True) as work:
        snapshot = await work.metadata.version(RepositoryName.IMAGE, MetadataRole.SNAPSHOT)
        return ChangeAhead(unverified, now, snapshot, await verify_change(work, unverified, now=now))


async def hold_verified(work: UnitOfWork, ahead: ChangeAhead) -> VerifiedChange:
    """Hold the repository and return what the files change; verified again if anything came into force since.

    Raises:
        ServiceError: the leaf names the broken rule.
    """
    await work.metadata.hold()
    if await work.metadata.version(RepositoryName.IMAGE, MetadataRole.SNAPSHOT) == ahead.snapshot:
        return ahead.change
    return await verify_change(work, ahead.unverified, now=ahead.now)


async def verify_change(
    work: UnitOfWork, unverified: Mapping[str, bytes], *, now: datetime, root: Root | None = None
) -> VerifiedChange:
    """Verify what an operator wants to bring into force.

    Args:
        work: the transaction.
        unverified: files by role.
        now: UTC, aware.
        root: verified, the one that comes into force together with them.

    Raises:
        ServiceError: the leaf names the broken rule.
    """
    _check_roles(unverified)
    stored = _Stored(work)
    before = await _before(stored, unverified)
    # Step 2: metadata.
    with refusals():
        after = await asyncio.to_thread(verify_delegators, unverified, before=before, root=root or before.root, now=now)
        delegated, gone = redelegated(before, after), dropped(before, after)
    await stored.read(delegated | gone)
    kept = delegated - unverified.keys() - {DELTAS_ROLE}
    await asyncio.to_thread(_check_kept, stored, kept, before=before, after=after, now=now)
    signed = await asyncio.to_thread(_signed, unverified, after, now=now)
    changes = await asyncio.to_thread(_changes, stored, signed, before=before, gone=gone - {DELTAS_ROLE})
    homes = _homes(changes)
    targets = {name: changes[role].added[name] for name, role in homes.items()}
    listed = await work.metadata.listed(homes)
    _check_targets(changes, homes, listed)
    await _check_reach(work, before, after, homes, gone)
    return VerifiedChange(
        before=before,
        after=after,
        files=tuple(_file(role, unverified[role], each) for role, each in signed.items()),
        added={name: target for name, target in targets.items() if name not in listed},
        homes=homes,
        targets=targets,
        delegated=delegated,
        dropped=gone,
    )


def _check_roles(unverified: Mapping[str, bytes]) -> None:
    # Step 1: roles.
    for role in unverified:
        if not ROLE_NAME.fullmatch(role) or role in _NOT_ROLES:
            raise RoleNameError(f"role: expected targets or a delegated role, found {role[:40]!r}")
        if role == DELTAS_ROLE:
            raise DelegationRefusedError(f"role {role}: expected files by the service alone, found one of an operator")


async def _before(stored: _Stored, roles: Collection[str]) -> RepositoryInForce:
    await stored.read({MetadataRole.ROOT, MetadataRole.TARGETS, BINS_ROLE, *roles})
    for role in (MetadataRole.ROOT, MetadataRole.TARGETS):
        if role not in stored.files:
            raise NoMetadataError(f"Image repository: expected a {role}.json in force, found none")
    contents = {role: file.content for role, file in stored.files.items()}
    with refusals():
        versions = {role: file.version for role, file in stored.files.items()}
        return await asyncio.to_thread(trusted_delegators, contents, versions)


def _check_kept(
    stored: _Stored, roles: Collection[str], *, before: RepositoryInForce, after: RepositoryInForce, now: datetime
) -> None:
    # Step 3: roles that are delegated otherwise.
    for role in sorted(roles):
        if not before.delegates_to(role) or role not in stored.files:
            raise RoleNameError(f"role {role}: expected its file beside the delegation that is new, found none")
        with refusals():
            verify_kept(stored.files[role].content, after, role, now=now)


def _signed(unverified: Mapping[str, bytes], after: RepositoryInForce, *, now: datetime) -> dict[str, Targets]:
    # Step 2: metadata; targets and bins are verified already.
    known = {MetadataRole.TARGETS: after.targets, **after.delegated}
    with refusals():
        return {
            role: known[role] if role in known else verify_next(unverified, after, role, now=now)
            for role in sorted(unverified)
        }


def _changes(
    stored: _Stored, signed: Mapping[str, Targets], *, before: RepositoryInForce, gone: Collection[str]
) -> dict[str, ListingChange]:
    changes = {role: listing_change(stored.listed(role, by=before), each.targets) for role, each in signed.items()}
    return changes | {role: listing_change(stored.listed(role, by=before), {}) for role in gone}


def _homes(changes: Mapping[str, ListingChange]) -> dict[str, str]:
    # Step 5: one role.
    homes: dict[str, str] = {}
    for role, change in changes.items():
        for name in change.added:
            if name in homes:
                raise TwoRolesError(f"target {name}: expected one role to list it, found {homes[name]} and {role}")
            homes[name] = role
    return homes


def _check_targets(
    changes: Mapping[str, ListingChange], homes: Mapping[str, str], listed: Mapping[str, ListedTarget]
) -> None:
    # Step 4: targets in force.
    removed = {name: target for change in changes.values() for name, target in change.removed.items()}
    for name in (name for change in changes.values() for name in change.altered):
        raise _changed(name, "another content")
    for name, target in removed.items():
        if name not in homes:
            raise _changed(name, "none")
        if changes[homes[name]].added[name] != target:
            raise _changed(name, "another content")
    # Step 5: one role.
    for name in sorted(listed.keys() - removed.keys()):
        raise TwoRolesError(f"target {name}: expected one role to list it, found {listed[name].role} and {homes[name]}")


def _changed(name: str, found: str) -> TargetChangedError:
    return TargetChangedError(f"target {name}: expected it as it is in force, found {found}")


async def _check_reach(
    work: UnitOfWork,
    before: RepositoryInForce,
    after: RepositoryInForce,
    homes: Mapping[str, str],
    gone: Collection[str],
) -> None:
    # Step 5: the role that a device asks.
    _check_reached(after, homes.items())
    if not asks_others(before, after):
        return
    last, page = "", list(await work.metadata.all_listed(after_path="", limit=_PAGE))
    while page:
        await asyncio.to_thread(_check_reached, after, _unmoved(page, homes, gone))
        last = page[-1].path
        page = list(await work.metadata.all_listed(after_path=last, limit=_PAGE))


def _unmoved(
    page: Collection[ListedTarget], homes: Mapping[str, str], gone: Collection[str]
) -> Iterator[tuple[str, str]]:
    return ((each.path, each.role) for each in page if each.path not in homes and each.role not in gone)


def _check_reached(after: RepositoryInForce, homes: Collection[tuple[str, str]] | Iterator[tuple[str, str]]) -> None:
    for name, role in homes:
        with refusals():
            reached = reaches(after, role, name)
        if not reached:
            raise UnreachableTargetError(
                f"target {name}: expected it in the role that a device asks, {after.role_for(name)}, found it in {role}"
            )


def _file(role: str, content: bytes, signed: Targets) -> MetadataFile:
    return MetadataFile(RepositoryName.IMAGE, role, signed.version, content, signed.expires)
