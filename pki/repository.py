"""Verify update metadata in force, and make the next version of the Image repository's targets.

Verification of one unverified file, in this order:
    1. length: at most `MAX_METADATA_BYTES`;
    2. form: TUF metadata of the role that is expected;
    3. signatures: the threshold of the role's keys in the verified root;
    4. version: the one that must come here;
    5. expiry: later than the given time.
`verify_in_force` follows them from the root over timestamp and snapshot to targets (TUF specification §5.3–5.6), and
checks each file against the hash and version that the file before names.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tuf.api.exceptions import LengthOrHashMismatchError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from pki.errors import (
    MetadataExpiredError,
    MetadataSignatureError,
    MetadataVersionError,
    RepositoryError,
)
from pki.metadata import RoleT, sign_targets
from protocol.signing import Signer

MAX_METADATA_BYTES = 16 * 1024 * 1024
TARGETS_FILE = "targets.json"
_RELEASE_TARGET = re.compile(r"releases/(\d{1,18})-[^/]+\.json\Z")


@dataclass(frozen=True, slots=True)
class UnverifiedRepository:
    """Files as a service has answered them, nothing checked.

    Attributes:
        newer_roots: every root.json after the trusted one, in order of version.
    """

    newer_roots: Sequence[bytes]
    timestamp: bytes
    snapshot: bytes
    targets: bytes


@dataclass(frozen=True, slots=True)
class RepositoryInForce:
    """Verified metadata of the Image repository."""

    root: Root
    targets: Targets


@dataclass(frozen=True, slots=True)
class Differences:
    """What one version of targets metadata changes against another; target names, sorted."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def verify_in_force(
    unverified: UnverifiedRepository, *, trusted_root: bytes, now: datetime, minimum_version: int = 1
) -> RepositoryInForce:
    """Verify the Image repository from a trusted root down to its targets.

    Args:
        unverified: what the service answered.
        trusted_root: a root.json that the caller trusts already.
        now: UTC, aware.
        minimum_version: of targets; the last that the caller has seen.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    root = verify_root(trusted_root, newer=unverified.newer_roots, now=now)
    timestamp = _verify(unverified.timestamp, Timestamp, root=root, now=now)
    snapshot = _verify(unverified.snapshot, Snapshot, root=root, now=now)
    _check_listed(timestamp.snapshot_meta, unverified.snapshot, snapshot)
    targets = _verify(unverified.targets, Targets, root=root, now=now)
    if TARGETS_FILE not in snapshot.meta:
        raise RepositoryError(f"snapshot: expected it to list {TARGETS_FILE}, found {sorted(snapshot.meta)[:4]}")
    _check_listed(snapshot.meta[TARGETS_FILE], unverified.targets, targets)
    # Step 4: version.
    if targets.version < minimum_version:
        raise MetadataVersionError(f"targets: expected at least version {minimum_version}, found {targets.version}")
    return RepositoryInForce(root, targets)


def verify_root(trusted_root: bytes, *, newer: Sequence[bytes] = (), now: datetime) -> Root:
    """Follow the roots from a trusted one; each is signed by the one before and by itself.

    Raises:
        RepositoryError: a root is malformed, signed by too few, out of order, or the last has expired.
    """
    root = _parse(trusted_root, Root)
    _check_signatures(root, root.signed)
    for unverified in newer:
        candidate = _parse(unverified, Root)
        _check_signatures(candidate, root.signed)
        _check_signatures(candidate, candidate.signed)
        # Step 4: version.
        if candidate.signed.version != root.signed.version + 1:
            raise MetadataVersionError(
                f"root: expected version {root.signed.version + 1}, found {candidate.signed.version}"
            )
        root = candidate
    _check_expiry(root.signed, now)
    return root.signed


def verify_targets(unverified: bytes, *, root: Root, now: datetime, version: int | None = None) -> Targets:
    """Verify a targets.json of the Image repository.

    Args:
        unverified: the file.
        root: verified root of the Image repository.
        now: UTC, aware.
        version: the version that must come here; None takes any.

    Raises:
        RepositoryError: or the leaf of the rule that is broken.
    """
    targets = _verify(unverified, Targets, root=root, now=now)
    # Step 4: version.
    if version is not None and targets.version != version:
        raise MetadataVersionError(f"targets: expected version {version}, found {targets.version}")
    return targets


def next_targets(current: Targets, additions: Sequence[TargetFile], signer: Signer, *, expires: datetime) -> bytes:
    """Sign the next version of targets.json: everything of the current one, and the additions.

    Raises:
        RepositoryError: an addition has the name of a target with other content: a target never changes.
    """
    for addition in additions:
        known = current.targets.get(addition.path, addition)
        if known != addition:
            raise RepositoryError(f"target {addition.path}: expected a new name or equal content, found other content")
    added = [target for target in additions if target.path not in current.targets]
    everything = [*current.targets.values(), *added]
    return sign_targets(everything, signer, version=current.version + 1, expires=expires)


def differences(current: Targets, proposed: Targets) -> Differences:
    """Say what the proposed targets change."""
    before, after = current.targets, proposed.targets
    return Differences(
        added=tuple(sorted(after.keys() - before.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        removed=tuple(sorted(before.keys() - after.keys())),
    )


def next_release_counter(targets: Targets) -> int:
    """Return the counter of the next release: one above the highest release document in force."""
    found = (_RELEASE_TARGET.match(name) for name in targets.targets)
    return max((int(match[1]) for match in found if match), default=0) + 1


def _verify(unverified: bytes, role: type[RoleT], *, root: Root, now: datetime) -> RoleT:
    metadata = _parse(unverified, role)
    _check_signatures(metadata, root)
    _check_expiry(metadata.signed, now)
    return metadata.signed


def _parse(unverified: bytes, role: type[RoleT]) -> Metadata[RoleT]:
    # Step 1: length.
    if len(unverified) > MAX_METADATA_BYTES:
        raise RepositoryError(f"{role.type}: expected at most {MAX_METADATA_BYTES} bytes, found {len(unverified)}")
    # Step 2: form.
    try:
        metadata: Metadata[RoleT] = Metadata.from_bytes(unverified)
    except DeserializationError as error:
        raise RepositoryError(f"{role.type}: expected TUF metadata, found other bytes") from error
    if not isinstance(metadata.signed, role):
        raise RepositoryError(f"{role.type}: expected metadata of this role, found {metadata.signed.type}")
    return metadata


def _check_signatures(metadata: Metadata[RoleT], root: Root) -> None:
    # Step 3: signatures.
    role = metadata.signed.type
    try:
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except SerializationError as error:
        raise RepositoryError(f"{role}: expected fields of canonical JSON, found others") from error
    except UnsignedMetadataError as error:
        raise MetadataSignatureError(
            f"{role}: expected signatures by {root.roles[role].threshold} of its keys in root "
            f"version {root.version}, found too few"
        ) from error


def _check_expiry(signed: Root | Timestamp | Snapshot | Targets, now: datetime) -> None:
    # Step 5: expiry.
    if signed.is_expired(now):
        raise MetadataExpiredError(f"{signed.type}: expected an expiry after {now}, found {signed.expires}")


def _check_listed(listed: MetaFile, content: bytes, signed: Snapshot | Targets) -> None:
    try:
        listed.verify_length_and_hashes(content)
    except LengthOrHashMismatchError as error:
        raise RepositoryError(f"{signed.type}: expected the file that is listed above it, found another") from error
    if signed.version != listed.version:
        raise MetadataVersionError(f"{signed.type}: expected version {listed.version}, found {signed.version}")
