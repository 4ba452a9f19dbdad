"""Verify update metadata in force: both repositories' roots, and the Image repository down to its last role.

Verification of one unverified file, in this order:
    1. length: at most `MAX_METADATA_BYTES`;
    2. form: TUF metadata of the role that is expected;
    3. signatures: the threshold of the role's keys in the verified metadata above it, each key counted once;
    4. version: the one that must come here;
    5. expiry: later than the given time;
    6. names: a delegated role lists only targets of its paths or its bin.
`verify_in_force` follows them from the root over timestamp and snapshot to targets (TUF specification §5.3-5.6) and
the delegated roles, and checks each file against the hash and version that the file before names.

`targets` delegates to roles by patterns of names, each terminating, so that one role answers for a name (`role_for`);
`bins` alone delegates further, to hash bins. Which keys sign is said by pki/metadata.py, what comes next is made by
pki/next_versions.py.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import (
    DelegatedRole,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError, SerializationError

from pki.errors import (
    DelegationError,
    MetadataExpiredError,
    MetadataSignatureError,
    MetadataVersionError,
    RepositoryError,
)
from pki.metadata import BIN_PREFIX, BINS_ROLE, MAX_BIN_BITS, RoleT, public_key_of

MAX_METADATA_BYTES = 16 * 1024 * 1024
ROLE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


@dataclass(frozen=True, slots=True)
class UnverifiedRepository:
    """Files as a service has answered them, nothing checked.

    Attributes:
        newer_roots: every root.json after the trusted one, in order of version.
        delegated: files of delegated roles by name, those that are needed; `bins` comes with any bin.
    """

    newer_roots: Sequence[bytes]
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    delegated: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RepositoryInForce:
    """Verified metadata of the Image repository.

    Attributes:
        delegated: roles below `targets` that were given.
        versions: of every role that the snapshot lists, even of those that are delegated to no more.
    """

    root: Root
    targets: Targets
    delegated: Mapping[str, Targets] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)

    def find(self, name: str) -> TargetFile | None:
        """Return the target of a name, or None if no role lists it where a device would look.

        Raises:
            RepositoryError: the role that would list it is not here.
        """
        known = self.targets.targets.get(name)
        return known or self.metadata_of(self.role_for(name)).targets.get(name)

    def role_for(self, name: str) -> str:
        """Return the role that is to list a new target of this name.

        Raises:
            RepositoryError: it is a hash bin, and `bins` is not here.
        """
        role = first_role(self.targets, name)
        if role != BINS_ROLE:
            return role or Targets.type
        return first_role(self.metadata_of(role), name) or role

    def delegator_of(self, role: str) -> Root | Targets:
        """Return the metadata that says whose signatures a role needs.

        Raises:
            DelegationError: there is no such role.
            RepositoryError: it is a hash bin, and `bins` is not here.
        """
        if role in self.root.roles:
            return self.root
        if role in delegated_roles(self.targets):
            return self.targets
        if self._is_bin(role):
            return self.metadata_of(BINS_ROLE)
        raise DelegationError(f"{role[:80]}: expected a role that targets delegates to, found none")

    def delegates_to(self, role: str) -> bool:
        """Say whether there is such a targets role.

        Raises:
            RepositoryError: it would be a hash bin, and `bins` is not here.
        """
        return role == Targets.type or role in delegated_roles(self.targets) or self._is_bin(role)

    def _is_bin(self, role: str) -> bool:
        if not role.startswith(f"{BIN_PREFIX}-") or BINS_ROLE not in delegated_roles(self.targets):
            return False
        bins = hash_bins(self.metadata_of(BINS_ROLE))
        return bins is not None and bins.is_delegated_role(role)

    def metadata_of(self, role: str) -> Targets:
        """Return the metadata of a targets role, top-level or delegated.

        Raises:
            RepositoryError: it is not here.
        """
        if role == Targets.type:
            return self.targets
        if role not in self.delegated:
            raise RepositoryError(f"{role}: expected its metadata beside the targets', found none")
        return self.delegated[role]


@dataclass(frozen=True, slots=True)
class Differences:
    """What one version of targets metadata changes against another; target names, sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def verify_in_force(
    unverified: UnverifiedRepository,
    *,
    trusted_root: bytes,
    now: datetime,
    minimum_versions: Mapping[str, int] = MappingProxyType({}),
) -> RepositoryInForce:
    """Verify the Image repository from a trusted root down to the roles that are given.

    Args:
        unverified: what the service answered.
        trusted_root: a root.json that the caller trusts already.
        now: UTC, aware.
        minimum_versions: the last that the caller has seen, by role: `targets` and delegated ones.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    root = verify_root(trusted_root, newer=unverified.newer_roots, now=now)
    timestamp = _verify(unverified.timestamp, Timestamp, delegator=root, role=Timestamp.type, now=now)
    snapshot = _verify(unverified.snapshot, Snapshot, delegator=root, role=Snapshot.type, now=now)
    _check_listed(timestamp.snapshot_meta, unverified.snapshot, snapshot, role=Snapshot.type)
    _check_not_below(snapshot, minimum_versions)
    targets = verify_targets(unverified.targets, root=root, now=now)
    _check_listed(_listed_as(snapshot, Targets.type), unverified.targets, targets, role=Targets.type)
    versions = {name.removesuffix(".json"): meta.version for name, meta in snapshot.meta.items()}
    in_force = RepositoryInForce(root, targets, {}, versions)
    for role in sorted(unverified.delegated, key=lambda role: role != BINS_ROLE):
        content = unverified.delegated[role]
        verified = verify_delegated(content, delegator=in_force.delegator_of(role), role=role, now=now)
        _check_listed(_listed_as(snapshot, role), content, verified, role=role)
        in_force = RepositoryInForce(root, targets, {**in_force.delegated, role: verified}, versions)
    return in_force


def verify_listings(
    unverified: Mapping[str, bytes], *, trusted_root: bytes, newer_roots: Sequence[bytes]
) -> RepositoryInForce:
    """Verify whose signatures targets roles bear, whenever these expire: what was listed once stays its signers' word.

    Args:
        unverified: files by role: `targets`, and roles below it; `bins` comes with any bin.
        trusted_root: a root.json that the caller trusts already.
        newer_roots: every root.json after it, in order of version.

    Raises:
        RepositoryError: or the leaf of the rule that is broken; versions and expiry are not looked at.
    """
    root = verify_root(trusted_root, newer=newer_roots, now=None)
    listings = RepositoryInForce(root, verify_targets(unverified[Targets.type], root=root, now=None))
    for role in sorted(unverified.keys() - {Targets.type}, key=lambda role: role != BINS_ROLE):
        verified = verify_delegated(unverified[role], delegator=listings.delegator_of(role), role=role, now=None)
        listings = replace(listings, delegated={**listings.delegated, role: verified})
    return listings


def verify_root(trusted_root: bytes, *, newer: Sequence[bytes] = (), now: datetime | None) -> Root:
    """Follow the roots from a trusted one; each is signed by the one before and by itself.

    Args:
        trusted_root: a root.json that the caller trusts already.
        newer: every root.json after it, in order of version.
        now: UTC, aware; None takes an expired one, too.

    Raises:
        RepositoryError: a root is malformed, signed by too few, out of order, or the last has expired.
    """
    root = _parse(trusted_root, Root, role=Root.type)
    _check_signatures(root, root.signed, role=Root.type)
    for unverified in newer:
        candidate = _parse(unverified, Root, role=Root.type)
        _check_signatures(candidate, root.signed, role=Root.type)
        _check_signatures(candidate, candidate.signed, role=Root.type)
        _check_keys(Root.type, candidate.signed.roles, candidate.signed.keys)
        # Step 4: version.
        if candidate.signed.version != root.signed.version + 1:
            raise MetadataVersionError(
                f"root: expected version {root.signed.version + 1}, found {candidate.signed.version}"
            )
        root = candidate
    _check_expiry(root.signed, now, role=Root.type)
    return root.signed


def verify_targets(unverified: bytes, *, root: Root, now: datetime | None, version: int | None = None) -> Targets:
    """Verify a targets.json of the Image repository.

    Args:
        unverified: the file.
        root: verified root of the Image repository.
        now: UTC, aware; None takes an expired one, too.
        version: the version that must come here; None takes any.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    targets = _verify(unverified, Targets, delegator=root, role=Targets.type, now=now)
    _check_version(Targets.type, targets, version)
    _check_delegations(targets)
    return targets


def verify_delegated(
    unverified: bytes, *, delegator: Root | Targets, role: str, now: datetime | None, version: int | None = None
) -> Targets:
    """Verify the metadata of a delegated targets role.

    Args:
        unverified: the file.
        delegator: verified metadata that delegates to the role.
        role: its name.
        now: UTC, aware; None takes an expired one, too.
        version: the version that must come here; None takes any.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    if isinstance(delegator, Root):
        raise DelegationError(f"{role}: expected a role that targets delegates to, found one of the root")
    targets = _verify(unverified, Targets, delegator=delegator, role=role, now=now)
    _check_version(role, targets, version)
    # Step 6: names.
    for name in targets.targets:
        if not _may_list(delegator, role, name):
            raise DelegationError(f"{role}: expected targets of its own paths, found {name}")
    _check_further_delegations(role, targets)
    return targets


def count_signatures(content: bytes, *, delegator: Root | Targets, role: str) -> int:
    """Return how many of a role's keys have signed a file.

    Raises:
        RepositoryError: it is no metadata, or the role is not delegated to.
    """
    return _count_signatures(_metadata(content, role=role), delegator, role=role)[0]


def delegated_roles(targets: Targets) -> Mapping[str, DelegatedRole]:
    """Return the roles that targets metadata delegates to by patterns of names, in the order of asking."""
    return (targets.delegations and targets.delegations.roles) or {}


def hash_bins(targets: Targets) -> SuccinctRoles | None:
    """Return the hash bins that the metadata of `bins` delegates to."""
    return None if targets.delegations is None else targets.delegations.succinct_roles


def first_role(targets: Targets, name: str) -> str | None:
    """Return the role that targets metadata delegates a name to, or None if it keeps it."""
    if targets.delegations is None:
        return None
    return next((role for role, _ in targets.delegations.get_roles_for_target(name)), None)


def differences(current: Targets, proposed: Targets) -> Differences:
    """Say what the proposed targets change."""
    before, after = current.targets, proposed.targets
    return Differences(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        removed=tuple(sorted(before.keys() - after.keys())),
    )


def _verify(
    unverified: bytes, form: type[RoleT], *, delegator: Root | Targets, role: str, now: datetime | None
) -> RoleT:
    metadata = _parse(unverified, form, role=role)
    _check_signatures(metadata, delegator, role=role)
    _check_expiry(metadata.signed, now, role=role)
    return metadata.signed


def _parse(unverified: bytes, form: type[RoleT], *, role: str) -> Metadata[RoleT]:
    # Step 1: length.
    if len(unverified) > MAX_METADATA_BYTES:
        raise RepositoryError(f"{role}: expected at most {MAX_METADATA_BYTES} bytes, found {len(unverified)}")
    # Step 2: form.
    metadata: Metadata[RoleT] = _metadata(unverified, role=role)
    if not isinstance(metadata.signed, form):
        raise RepositoryError(f"{role}: expected metadata of this role, found {metadata.signed.type}")
    return metadata


def _metadata(unverified: bytes, *, role: str) -> Metadata[Any]:
    try:
        return Metadata.from_bytes(unverified)
    except DeserializationError as error:
        raise RepositoryError(f"{role}: expected TUF metadata, found other bytes") from error


def _check_signatures(metadata: Metadata[RoleT], delegator: Root | Targets, *, role: str) -> None:
    # Step 3: signatures.
    found, threshold = _count_signatures(metadata, delegator, role=role)
    if found < threshold:
        raise MetadataSignatureError(
            f"{role}: expected signatures by {threshold} of its keys in {delegator.type} "
            f"version {delegator.version}, found {found}"
        )


def _count_signatures(metadata: Metadata[Any], delegator: Root | Targets, *, role: str) -> tuple[int, int]:
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError as error:
        raise DelegationError(f"{role[:80]}: expected a role that is delegated to, found none") from error
    except SerializationError as error:
        raise RepositoryError(f"{role}: expected fields of canonical JSON, found others") from error
    # python-tuf counts key ids, and a key may stand under two.
    return len({public_key_of(key).public_numbers() for key in result.signed.values()}), result.threshold


def _check_version(role: str, targets: Targets, version: int | None) -> None:
    # Step 4: version.
    if version is not None and targets.version != version:
        raise MetadataVersionError(f"{role}: expected version {version}, found {targets.version}")


def _check_expiry(signed: Root | Timestamp | Snapshot | Targets, now: datetime | None, *, role: str) -> None:
    # Step 5: expiry.
    if now is not None and signed.is_expired(now):
        raise MetadataExpiredError(f"{role}: expected an expiry after {now}, found {signed.expires}")


def _may_list(delegator: Targets, role: str, name: str) -> bool:
    bins = hash_bins(delegator)
    if bins is not None:
        return bins.get_role_for_target(name) == role
    return delegated_roles(delegator)[role].is_delegated_path(name)


def _check_delegations(targets: Targets) -> None:
    # Step 2: form; one role answers for a name, and the names of bins are free.
    if hash_bins(targets) is not None:
        raise DelegationError(f"targets: expected hash bins below {BINS_ROLE}, found them below targets")
    if targets.delegations is not None:
        _check_keys(Targets.type, delegated_roles(targets), targets.delegations.keys)
    for role in delegated_roles(targets).values():
        if not ROLE_NAME.fullmatch(role.name) or role.name.startswith(f"{BIN_PREFIX}-"):
            raise DelegationError(
                f"targets: expected roles of a-z, 0-9 and -, not beginning with {BIN_PREFIX}-, found {role.name[:80]!r}"
            )
        if not role.terminating or role.paths is None:
            raise DelegationError(f"targets: expected {role.name} to be terminating and by paths, found it otherwise")


def _check_further_delegations(role: str, targets: Targets) -> None:
    # Step 2: form.
    if targets.delegations is None:
        return
    bins = hash_bins(targets)
    if role != BINS_ROLE or bins is None or bins.name_prefix != BIN_PREFIX:
        raise DelegationError(f"{role}: expected delegations to {BIN_PREFIX}-… by {BINS_ROLE} alone, found others")
    if bins.bit_length > MAX_BIN_BITS:
        raise DelegationError(f"{role}: expected at most {MAX_BIN_BITS} bits of hash bins, found {bins.bit_length}")
    _check_keys(role, {bins.name_prefix: bins}, targets.delegations.keys)


def _check_keys(where: str, roles: Mapping[str, Role], keys: Mapping[str, Key]) -> None:
    # Step 2: form; a threshold that no signatures can meet would lock everybody out.
    for name, role in roles.items():
        known = {public_key_of(keys[key_id]).public_numbers() for key_id in role.keyids if key_id in keys}
        if len(known) != len(role.keyids) or len(known) < role.threshold:
            raise RepositoryError(
                f"{where}: expected {len(role.keyids)} different keys of {name}, and a threshold that they can meet, "
                f"found {len(known)} and a threshold of {role.threshold}"
            )


def _check_not_below(snapshot: Snapshot, minimum_versions: Mapping[str, int]) -> None:
    # Step 4: version.
    for role, minimum in minimum_versions.items():
        listed = snapshot.meta.get(f"{role}.json")
        if listed is None or listed.version < minimum:
            found = "none" if listed is None else listed.version
            raise MetadataVersionError(f"{role}: expected at least version {minimum}, found {found}")


def _listed_as(snapshot: Snapshot, role: str) -> MetaFile:
    file = f"{role}.json"
    if file not in snapshot.meta:
        raise RepositoryError(f"snapshot: expected it to list {file}, found {sorted(snapshot.meta)[:4]}")
    return snapshot.meta[file]


def _check_listed(listed: MetaFile, content: bytes, signed: Snapshot | Targets, *, role: str) -> None:
    try:
        listed.verify_length_and_hashes(content)
    except LengthOrHashMismatchError as error:
        raise RepositoryError(f"{role}: expected the file that is listed above it, found another") from error
    if signed.version != listed.version:
        raise MetadataVersionError(f"{role}: expected version {listed.version}, found {signed.version}")
