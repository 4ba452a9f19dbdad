"""The next versions of the Image repository's roles when delegations change, without signatures.

Whoever holds a role's keys adds them. New targets are for pki/listings.py. What a role lists stays there while the
delegations reach it; else it goes to `targets` or a hash bin, never into the role of a team, which signs for itself
alone. No target in force changes or vanishes. The `deltas` role is the service's own: it is never made here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Delegations, Role, Root, Snapshot, TargetFile, Targets

from pki.metadata import (
    BIN_PREFIX,
    BINS_PATHS,
    BINS_ROLE,
    DELTAS_PATHS,
    DELTAS_ROLE,
    Delegation,
    RoleKeys,
    bin_delegations,
    public_key_of,
    role_delegations,
    targets_metadata,
)
from pki.repository import RepositoryInForce, delegated_roles, hash_bins

_RELEASE_TARGET = re.compile(r"releases/(\d{1,18})-[^/]+\.json\Z")


@dataclass(frozen=True, slots=True)
class Bins:
    """Hash bins.

    Attributes:
        keys: of `bins` and of every bin.
        bits: there are 2^bits of them; 1 to `MAX_BIN_BITS`.
    """

    keys: RoleKeys
    bits: int


def next_delegations(
    in_force: RepositoryInForce, delegated: Sequence[Delegation], *, bins: Bins | None = None, expires: datetime
) -> dict[str, bytes]:
    """Return the next version of every role that other delegations change, by role.

    Those are `targets`, every new role, every role with other keys, and those from or to which targets move.

    Args:
        in_force: verified, with every role.
        delegated: all delegations that there are to be, in the order of asking, `deltas` too; see `delegations_of`.
        bins: that there are to be.
        expires: of every file, UTC, aware.

    Raises:
        RepositoryError: a role's keys are wrong, or a role is not in `in_force`.
    """
    after = _after(in_force, delegated, bins)
    homes: dict[str, dict[str, TargetFile]] = {role: {} for role in _roles(after)}
    for role, target in _everything(in_force):
        homes[_home(after, role, target.path)][target.path] = target
    return {
        role: targets_metadata(
            listed.values(),
            version=_last_version(in_force, role) + 1,
            expires=expires,
            delegations=_delegations(after, role),
        )
        for role, listed in homes.items()
        if _changes(in_force, after, role, listed)
    }


def delegations_of(targets: Targets) -> list[Delegation]:
    """Return what verified targets metadata delegates by patterns of names, without `bins`, in the order of asking.

    Raises:
        RepositoryError: a key is no P-256 key.
    """
    return [
        Delegation(role.name, _keys_of(targets, role), role.threshold, tuple(role.paths or ()))
        for role in delegated_roles(targets).values()
        if role.name != BINS_ROLE
    ]


def bins_of(in_force: RepositoryInForce) -> Bins | None:
    """Return the hash bins in force.

    Raises:
        RepositoryError: `bins` is delegated to and not here, or a key is no P-256 key.
    """
    if BINS_ROLE not in delegated_roles(in_force.targets):
        return None
    delegator = in_force.metadata_of(BINS_ROLE)
    bins = hash_bins(delegator)
    return None if bins is None else Bins(RoleKeys(_keys_of(delegator, bins), bins.threshold), bins.bit_length)


def deltas_delegation(root: Root) -> Delegation:
    """Return the delegation of patches to the service's snapshot key, as the root names it.

    Raises:
        RepositoryError: the key is no P-256 key.
    """
    role = root.roles[Snapshot.type]
    return Delegation(DELTAS_ROLE, _keys_of(root, role), role.threshold, DELTAS_PATHS)


def next_release_counter(targets: Targets) -> int:
    """Return the counter of the next release: one above the highest release document in force."""
    found = (_RELEASE_TARGET.match(name) for name in targets.targets)
    return max((int(match[1]) for match in found if match), default=0) + 1


def _after(in_force: RepositoryInForce, delegated: Sequence[Delegation], bins: Bins | None) -> RepositoryInForce:
    """Return the repository as it is to be, its roles without targets."""
    below = {} if bins is None else {BINS_ROLE: Targets(delegations=bin_delegations(bins.keys, bits=bins.bits))}
    last = [] if bins is None else [Delegation(BINS_ROLE, bins.keys.keys, bins.keys.threshold, BINS_PATHS)]
    top = role_delegations([*delegated, *last]) if delegated or last else None
    return RepositoryInForce(in_force.root, Targets(delegations=top), below)


def _roles(repository: RepositoryInForce) -> Iterator[str]:
    yield Targets.type
    yield from (role for role in delegated_roles(repository.targets) if role != DELTAS_ROLE)
    bins = hash_bins(repository.metadata_of(BINS_ROLE)) if BINS_ROLE in delegated_roles(repository.targets) else None
    if bins is not None:
        yield from bins.get_roles()


def _everything(in_force: RepositoryInForce) -> Iterator[tuple[str, TargetFile]]:
    for role in _roles(in_force):
        yield from ((role, target) for target in in_force.metadata_of(role).targets.values())


def _home(after: RepositoryInForce, role: str, name: str) -> str:
    wanted = after.role_for(name)
    return wanted if wanted == role or wanted.startswith(f"{BIN_PREFIX}-") else Targets.type


def _changes(
    in_force: RepositoryInForce, after: RepositoryInForce, role: str, listed: Mapping[str, TargetFile]
) -> bool:
    if role == Targets.type or role not in in_force.delegated:
        return True
    before = in_force.metadata_of(role)
    return (
        before.targets != listed
        or before.delegations != _delegations(after, role)
        or _signers(in_force, role) != _signers(after, role)
    )


def _signers(repository: RepositoryInForce, role: str) -> tuple[frozenset[str], int]:
    wanted = repository.delegator_of(role).get_delegated_role(role)
    return frozenset(wanted.keyids), wanted.threshold


def _delegations(after: RepositoryInForce, role: str) -> Delegations | None:
    if role == Targets.type:
        return after.targets.delegations
    return after.delegated[role].delegations if role in after.delegated else None


def _last_version(in_force: RepositoryInForce, role: str) -> int:
    here = in_force.targets if role == Targets.type else in_force.delegated.get(role)
    return max(here.version if here else 0, in_force.versions.get(role, 0))


def _keys_of(delegator: Root | Targets, role: Role) -> tuple[ec.EllipticCurvePublicKey, ...]:
    return tuple(public_key_of(delegator.get_key(key_id)) for key_id in role.keyids)
