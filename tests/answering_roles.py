"""New targets in the roles that answer for their names, as devices ask for them."""

from collections.abc import Collection, Sequence
from datetime import datetime

from tuf.api.metadata import TargetFile

from pki.listings import next_listings
from pki.repository import RepositoryInForce


def next_targets(
    in_force: RepositoryInForce,
    additions: Sequence[TargetFile],
    *,
    expires: datetime,
    renewed: Collection[str] = (),
) -> dict[str, bytes]:
    """List each addition in the role that answers for it; a team's too, whose keys a test has."""
    by_role: dict[str, list[TargetFile]] = {}
    for addition in additions:
        by_role.setdefault(in_force.role_for(addition.path), []).append(addition)
    return next_listings(in_force, by_role, expires=expires, renewed=renewed)
