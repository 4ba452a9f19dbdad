"""Verify several roles' files together, as the one state of the Image repository that is to come next.

Verification of unverified files, each of a length that devices read (`check_length`), in this order:
    1. delegators: `targets` by the root, then `bins` by `targets`, each of the version after the one in force
       (`verify_delegators`);
    2. other roles: each by its delegator as it will be, of the version after the one in force (`verify_next`);
    3. roles that are not among the files but whose keys or names change (`redelegated`): their file in force must
       verify under the new delegation, so that no device is left with a file that it refuses (`verify_kept`).
Which targets change, move or vanish is said by `listing_change` and judged by the service.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.api.serialization import DeserializationError

from pki.errors import MetadataLengthError, RepositoryError
from pki.metadata import BINS_ROLE, RoleT
from pki.repository import (
    RepositoryInForce,
    delegated_roles,
    hash_bins,
    verify_delegated,
    verify_targets,
)
from protocol.updates import MAX_ROOT_BYTES, MAX_TARGETS_BYTES


@dataclass(frozen=True, slots=True)
class ListingChange:
    """What one role lists otherwise than before.

    Attributes:
        added: targets that it did not list, by name.
        removed: targets that it lists no more, by name.
        altered: names that stand for another content or other custom metadata.
    """

    added: Mapping[str, TargetFile]
    removed: Mapping[str, TargetFile]
    altered: tuple[str, ...]


def trusted(content: bytes, form: type[RoleT]) -> RoleT:
    """Read metadata that was verified when it came into force; nothing is verified here.

    Raises:
        RepositoryError: the file is damaged.
    """
    try:
        return Metadata[RoleT].from_bytes(content).signed
    except DeserializationError as error:
        raise RepositoryError(f"{form.type} in force: expected TUF metadata, found other bytes") from error


def trusted_delegators(files: Mapping[str, bytes], versions: Mapping[str, int]) -> RepositoryInForce:
    """Read root, targets and bins that were verified when they came into force; nothing is verified here.

    Args:
        files: by role; `bins` only where there is one.
        versions: the last of each role that is at hand.

    Raises:
        RepositoryError: a file is damaged.
    """
    targets = trusted(files[Targets.type], Targets)
    bins = {BINS_ROLE: trusted(files[BINS_ROLE], Targets)} if BINS_ROLE in delegated_roles(targets) else {}
    return RepositoryInForce(trusted(files[Root.type], Root), targets, bins, versions)


def longest(role: str) -> int:
    """Return how many bytes of a role's file a device reads, where people sign it."""
    return MAX_ROOT_BYTES if role == Root.type else MAX_TARGETS_BYTES


def check_length(unverified: bytes, *, role: str) -> None:
    """Refuse a new file that devices would not read to its end: one in force would end every update of the fleet.

    Raises:
        MetadataLengthError: it is longer.
    """
    if len(unverified) > longest(role):
        way_out = "" if role == Root.type else "; spread targets over hash bins, `tinyfleet metadata bins`"
        raise MetadataLengthError(
            f"{role}: expected at most {longest(role)} bytes, as devices read them, found {len(unverified)}{way_out}"
        )


def verify_delegators(
    unverified: Mapping[str, bytes], *, before: RepositoryInForce, root: Root, now: datetime
) -> RepositoryInForce:
    """Verify the files that say whose signatures the others need.

    Args:
        unverified: all files by role; others than `targets` and `bins` are not looked at.
        before: root, targets and bins in force, and the last version of each role of `unverified`.
        root: verified, the one in force or the next.
        now: UTC, aware.

    Returns:
        root, targets and bins as they will be. What is not among the files is as before: see `redelegated`.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    # Step 1: delegators.
    targets = before.targets
    if Targets.type in unverified:
        check_length(unverified[Targets.type], role=Targets.type)
        version = before.versions.get(Targets.type, 0) + 1
        targets = verify_targets(unverified[Targets.type], root=root, now=now, version=version)
    after = RepositoryInForce(root, targets, {}, before.versions)
    if BINS_ROLE not in delegated_roles(targets):
        return after
    if BINS_ROLE in unverified:
        return replace(after, delegated={BINS_ROLE: verify_next(unverified, after, BINS_ROLE, now=now)})
    return replace(after, delegated={BINS_ROLE: before.metadata_of(BINS_ROLE)})


def verify_next(unverified: Mapping[str, bytes], after: RepositoryInForce, role: str, *, now: datetime) -> Targets:
    """Verify a delegated role's next version.

    Args:
        unverified: files by role.
        after: what `verify_delegators` returned.
        role: one of `unverified`.
        now: UTC, aware.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    # Step 2: other roles.
    check_length(unverified[role], role=role)
    version = after.versions.get(role, 0) + 1
    return verify_delegated(unverified[role], delegator=after.delegator_of(role), role=role, now=now, version=version)


def verify_kept(content: bytes, after: RepositoryInForce, role: str, *, now: datetime) -> Targets:
    """Verify a file in force under delegations that are to come.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    # Step 3: roles that are not among the files.
    if role == Targets.type:
        return verify_targets(content, root=after.root, now=now)
    return verify_delegated(content, delegator=after.delegator_of(role), role=role, now=now)


def redelegated(before: RepositoryInForce, after: RepositoryInForce) -> frozenset[str]:
    """Return the roles that are new, or whose keys, threshold or names are other than before."""
    known, wanted = _delegations(before), _delegations(after)
    changed = {role for role in wanted if known.get(role) != wanted[role]}
    return frozenset(changed | (set() if _same_bins(before, after) else set(bin_names(after))))


def dropped(before: RepositoryInForce, after: RepositoryInForce) -> frozenset[str]:
    """Return the roles that nobody delegates to any more."""
    gone = set(_delegations(before)) - set(_delegations(after))
    return frozenset(gone | (set() if _same_bins(before, after) else set(bin_names(before)) - set(bin_names(after))))


def bin_names(repository: RepositoryInForce) -> Iterator[str]:
    """Yield the names of the hash bins."""
    if BINS_ROLE in repository.delegated:
        bins = hash_bins(repository.delegated[BINS_ROLE])
        yield from () if bins is None else bins.get_roles()


def reaches(after: RepositoryInForce, role: str, name: str) -> bool:
    """Say whether a device that looks for a name asks this role, if `targets` does not list it."""
    return role in {Targets.type, after.role_for(name)}


def asks_others(before: RepositoryInForce, after: RepositoryInForce) -> bool:
    """Say whether a device that looks for a name may ask another role than before."""
    return not _same_bins(before, after) or _paths(before) != _paths(after)


def listing_change(before: Mapping[str, TargetFile], after: Mapping[str, TargetFile]) -> ListingChange:
    """Compare what a role lists with what it will list."""
    return ListingChange(
        added={name: target for name, target in after.items() if name not in before},
        removed={name: target for name, target in before.items() if name not in after},
        altered=tuple(sorted(name for name, target in after.items() if before.get(name, target) != target)),
    )


def _delegations(repository: RepositoryInForce) -> dict[str, object]:
    """Return what decides whether a role's file is good, by role, without hash bins."""
    found: dict[str, object] = {Targets.type: _signers(repository.root, Targets.type)}
    for role in delegated_roles(repository.targets).values():
        found[role.name] = (_signers(repository.targets, role.name), role.paths)
    return found


def _signers(delegator: Root | Targets, role: str) -> object:
    wanted = delegator.get_delegated_role(role)
    return {key_id: delegator.get_key(key_id).to_dict() for key_id in wanted.keyids}, wanted.threshold


def _same_bins(before: RepositoryInForce, after: RepositoryInForce) -> bool:
    known, wanted = before.delegated.get(BINS_ROLE), after.delegated.get(BINS_ROLE)
    return (known and known.delegations) == (wanted and wanted.delegations)


def _paths(repository: RepositoryInForce) -> list[tuple[str, object]]:
    return [(role.name, role.paths) for role in delegated_roles(repository.targets).values()]
