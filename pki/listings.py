"""New targets in the roles of those who sign them.

Who releases for the whole catalog lists what he releases in `targets`, or in a hash bin where those are on: even a name
that a team could list, because a device that looks for a name asks `targets` first, and a team signs for itself alone.
A team lists in its own role what the role's paths allow.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

from tuf.api.metadata import TargetFile, Targets

from pki.errors import DelegationError, RepositoryError
from pki.metadata import BIN_PREFIX, targets_metadata
from pki.repository import RepositoryInForce, delegated_roles


def releasers_role(in_force: RepositoryInForce, name: str) -> str:
    """Return the role in which the catalog's releaser lists a new target.

    Raises:
        RepositoryError: `bins` is needed and not here.
    """
    role = in_force.role_for(name)
    return role if role.startswith(f"{BIN_PREFIX}-") else Targets.type


def check_team(in_force: RepositoryInForce, role: str, names: Iterable[str]) -> None:
    """Refuse names that are not for a team to list.

    Raises:
        DelegationError: there is no such team, or a name is outside its paths, or another role answers for it.
    """
    delegated = delegated_roles(in_force.targets)
    if role not in delegated:
        raise DelegationError(f"role {role[:40]}: expected one of {', '.join(delegated) or 'none'}, found another")
    for name in names:
        if not delegated[role].is_delegated_path(name):
            paths = ", ".join(delegated[role].paths or ())
            raise DelegationError(f"role {role}: expected targets of its paths ({paths}), found {name}")
        if (asked := in_force.role_for(name)) != role:
            raise DelegationError(f"role {role}: expected targets for which it is asked, found {name}, for {asked}")


def next_listings(
    in_force: RepositoryInForce,
    additions: Mapping[str, Iterable[TargetFile]],
    *,
    expires: datetime,
    renewed: Collection[str] = (),
) -> dict[str, bytes]:
    """Return the next version of each role with its additions, without signatures.

    Args:
        in_force: verified, with these roles and those that answer for the additions.
        additions: by role; one that is in force already with equal content changes nothing.
        expires: of every file, UTC, aware.
        renewed: roles that get a new version even without an addition.

    Raises:
        RepositoryError: an addition has the name of a target with other content: a target never changes.
    """
    files = {}
    for role in dict.fromkeys([*renewed, *additions]):
        added = [target for target in additions.get(role, ()) if not _is_known(in_force, target)]
        if not added and role not in renewed:
            continue
        current = in_force.metadata_of(role)
        files[role] = targets_metadata(
            [*current.targets.values(), *added],
            version=current.version + 1,
            expires=expires,
            delegations=current.delegations,
        )
    return files


def _is_known(in_force: RepositoryInForce, target: TargetFile) -> bool:
    known = in_force.find(target.path)
    if known not in (None, target):
        raise RepositoryError(f"target {target.path}: expected a new name or equal content, found other content")
    return known is not None
