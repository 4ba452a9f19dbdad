"""Draft changes of who may sign update metadata: keys, thresholds, delegations, hash bins, renewals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from pki.errors import DelegationError
from pki.listings import next_listings
from pki.metadata import BIN_PREFIX, BINS_ROLE, DELTAS_ROLE, Delegation, RoleKeys, next_root, public_key_of
from pki.next_versions import Bins, bins_of, delegations_of, deltas_delegation, next_delegations
from pki.online import ROOT_METADATA_LIFETIME, TARGETS_METADATA_LIFETIME
from pki.proposal_review import InForce
from pki.proposals import Proposal, ProposedRepository
from pki.repository import ROLE_NAME, RepositoryInForce, delegated_roles
from protocol.signing import tuf_key
from service.cli.errors import BadArgumentError
from service.cli.settling import Draft, Session, image_in_force

_IMAGE_ROOT_ROLES = (Root.type, Targets.type, Snapshot.type, Timestamp.type)
_DIRECTOR_ONLINE_ROLES = (Timestamp.type, Snapshot.type, Targets.type)


class DirectorRole(StrEnum):
    """What commands call the roles of the Director's root."""

    ROOT = "director-root"
    ONLINE = "director"  # timestamp, snapshot and targets, all by one key of the service


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What is to become of a role's keys.

    Attributes:
        added: to sign from now on.
        removed: TUF key ids, or the first digits of them.
        only: none of the keys before stays, unless it is among those that are added.
        threshold: None leaves it as it is.
    """

    added: Sequence[ec.EllipticCurvePublicKey] = ()
    removed: Sequence[str] = ()
    only: bool = False
    threshold: int | None = None

    def applied(self, role: str, current: RoleKeys) -> RoleKeys:
        """Return the keys that the role is to have.

        Raises:
            BadArgumentError: a key is there already, or is not there, or the threshold cannot be met.
        """
        kept = [] if self.only else [key for key in current.keys if not self._removes(key)]
        for prefix in self.removed:
            if not any(tuf_key(key).keyid.startswith(prefix) for key in current.keys):
                raise BadArgumentError(f"key {prefix[:12]}: expected one of {role}, found none of this key id")
        keys = [*kept, *(key for key in self.added if key not in kept)]
        threshold = current.threshold if self.threshold is None else self.threshold
        if not 1 <= threshold <= len(keys):
            raise BadArgumentError(f"threshold of {role}: expected 1 to {len(keys)}, its keys, found {threshold}")
        after = RoleKeys(tuple(keys), threshold)
        if (_key_ids(after), after.threshold) == (_key_ids(current), current.threshold):
            raise BadArgumentError(f"{role}: expected other keys or another threshold, found what is in force")
        return after

    def _removes(self, key: ec.EllipticCurvePublicKey) -> bool:
        return any(tuf_key(key).keyid.startswith(prefix) for prefix in self.removed)


def draft_keys(session: Session, role: str, change: KeyChange) -> Draft:
    """Draft other keys or another threshold for a role.

    Raises:
        BadArgumentError: the change cannot be, or changes nothing.
        PkiError: there is no such role, or what is in force does not verify.
        CliError: the service does not answer.
    """
    if role in set(DirectorRole):
        return _director_root(session, DirectorRole(role), change)
    in_force = _fetch_all(session)
    if role in _IMAGE_ROOT_ROLES:
        return _image_root(session, in_force, role, change)
    return _delegated_keys(session, in_force, role, change)


def draft_renewal(session: Session, role: str) -> Draft:
    """Draft the next version of a role with a later expiry, and nothing else changed.

    Raises:
        PkiError: there is no such role, or what is in force does not verify.
        CliError: the service does not answer.
    """
    purpose = f"renew {role}"
    if role == DirectorRole.ROOT:
        return _root_draft(_director_in_force(session), ProposedRepository.DIRECTOR, {}, session.now, purpose)
    in_force = session.working_copy.fetch(
        session.client, now=session.now, roles=[role], everything=role == BINS_ROLE, expired=True
    )
    if role == Root.type:
        return _root_draft(image_in_force(in_force), ProposedRepository.IMAGE, {}, session.now, purpose)
    bins = [name for name in in_force.delegated if name.startswith(f"{BIN_PREFIX}-")] if role == BINS_ROLE else []
    files = next_listings(in_force, {}, expires=session.now + TARGETS_METADATA_LIFETIME, renewed=[role, *bins])
    return _image_draft(in_force, files, purpose)


def draft_delegation(session: Session, delegation: Delegation) -> Draft:
    """Draft a role that may list targets of its own; its first file is for its keys to sign.

    Raises:
        DelegationError: there is such a role, or the name is reserved.
        PkiError: what is in force does not verify.
        CliError: the service does not answer.
    """
    in_force = _fetch_all(session)
    _check_new_name(in_force, delegation.name)
    files = next_delegations(
        in_force,
        [*delegations_of(in_force.targets), delegation],
        bins=bins_of(in_force),
        expires=session.now + TARGETS_METADATA_LIFETIME,
    )
    return _image_draft(in_force, files, f"delegate to {delegation.name}")


def draft_patches(session: Session) -> Draft:
    """Draft the delegation of patches to the service's snapshot key, in a catalog that began without it.

    Raises:
        BadArgumentError: patches are delegated already.
        PkiError: what is in force does not verify.
        CliError: the service does not answer.
    """
    in_force = _fetch_all(session)
    if DELTAS_ROLE in delegated_roles(in_force.targets):
        raise BadArgumentError("patches: expected a catalog whose targets delegate to none, found the delegation")
    files = next_delegations(
        in_force,
        [deltas_delegation(in_force.root), *delegations_of(in_force.targets)],
        bins=bins_of(in_force),
        expires=session.now + TARGETS_METADATA_LIFETIME,
    )
    return _image_draft(in_force, files, "let the service offer patches")


def draft_end_of_delegation(session: Session, name: str) -> Draft:
    """Draft the end of a delegated role; what it lists goes to `targets` or hash bins and stays in force.

    Raises:
        DelegationError: there is no such role, or it is not a team's.
        PkiError: what is in force does not verify.
        CliError: the service does not answer.
    """
    in_force = _fetch_all(session)
    _check_team(in_force, name)
    files = next_delegations(
        in_force,
        [each for each in delegations_of(in_force.targets) if each.name != name],
        bins=bins_of(in_force),
        expires=session.now + TARGETS_METADATA_LIFETIME,
    )
    return _image_draft(in_force, files, f"end the delegation to {name}")


def draft_bins(session: Session, bits: int) -> Draft:
    """Draft hash bins with the keys of the Image repository's targets; what `targets` or other bins list moves there.

    Args:
        session: of the command.
        bits: there will be 2^bits bins.

    Raises:
        BadArgumentError: there are as many already.
        PkiError: what is in force does not verify.
        CliError: the service does not answer.
    """
    in_force = _fetch_all(session)
    known = bins_of(in_force)
    if known is not None and known.bits == bits:
        raise BadArgumentError(f"bins: expected another number of bits than is in force, found {bits}")
    keys = _role_keys(in_force.root, Targets.type) if known is None else known.keys
    files = next_delegations(
        in_force,
        delegations_of(in_force.targets),
        bins=Bins(keys, bits),
        expires=session.now + TARGETS_METADATA_LIFETIME,
    )
    return _image_draft(in_force, files, f"{2**bits} hash bins")


def _director_root(session: Session, role: DirectorRole, change: KeyChange) -> Draft:
    in_force = _director_in_force(session)
    roles = (Root.type,) if role is DirectorRole.ROOT else _DIRECTOR_ONLINE_ROLES
    after = change.applied(role, _role_keys(in_force.root, roles[0]))
    changed = dict.fromkeys(roles, after)
    return _root_draft(in_force, ProposedRepository.DIRECTOR, changed, session.now, f"keys of {role}")


def _image_root(session: Session, in_force: RepositoryInForce, role: str, change: KeyChange) -> Draft:
    after = change.applied(role, _role_keys(in_force.root, role))
    draft = _root_draft(
        image_in_force(in_force), ProposedRepository.IMAGE, {role: after}, session.now, f"keys of {role}"
    )
    files = _files_below(session, in_force, role, draft.proposal.metadata[Root.type], after)
    return replace(draft, proposal=draft.proposal.model_copy(update={"metadata": {**files, **draft.proposal.metadata}}))


def _files_below(
    session: Session, in_force: RepositoryInForce, role: str, root: bytes, after: RoleKeys
) -> dict[str, bytes]:
    """Return files that must hold under the new root, with which they come into force."""
    expires = session.now + TARGETS_METADATA_LIFETIME
    new_root = Metadata[Root].from_bytes(root).signed
    delegated, bins = delegations_of(in_force.targets), bins_of(in_force)
    if role == Snapshot.type and any(each.name == DELTAS_ROLE for each in delegated):
        patches = deltas_delegation(new_root)
        renamed = [patches if each.name == DELTAS_ROLE else each for each in delegated]
        return next_delegations(in_force, renamed, bins=bins, expires=expires)
    if role != Targets.type:
        return {}
    if bins is not None and _key_ids(bins.keys) == _key_ids(_role_keys(in_force.root, role)):
        return next_delegations(in_force, delegated, bins=replace(bins, keys=after), expires=expires)
    if _holds(session, in_force, new_root):
        return {}
    return next_listings(in_force, {}, expires=expires, renewed=[role])


def _holds(session: Session, in_force: RepositoryInForce, root: Root) -> bool:
    """Say whether the targets in force would hold under another root."""
    content = session.working_copy.find(f"{in_force.targets.version}.{Targets.type}.json") or b""
    metadata = Metadata[Targets].from_bytes(content)
    return bool(root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures))


def _delegated_keys(session: Session, in_force: RepositoryInForce, role: str, change: KeyChange) -> Draft:
    delegated, bins = delegations_of(in_force.targets), bins_of(in_force)
    if role == BINS_ROLE and bins is not None:
        bins = replace(bins, keys=change.applied(role, bins.keys))
    else:
        _check_team(in_force, role)
        delegated = [_with_keys(each, change) if each.name == role else each for each in delegated]
    files = next_delegations(in_force, delegated, bins=bins, expires=session.now + TARGETS_METADATA_LIFETIME)
    return _image_draft(in_force, files, f"keys of {role}")


def _with_keys(delegation: Delegation, change: KeyChange) -> Delegation:
    after = change.applied(delegation.name, RoleKeys(delegation.keys, delegation.threshold))
    return replace(delegation, keys=after.keys, threshold=after.threshold)


def _root_draft(
    in_force: InForce,
    repository: ProposedRepository,
    changed: Mapping[str, RoleKeys],
    now: datetime,
    purpose: str,
) -> Draft:
    content = next_root(in_force.root, changed, expires=now + ROOT_METADATA_LIFETIME)
    return Draft(Proposal(repository=repository, purpose=purpose, metadata={Root.type: content}), in_force)


def _image_draft(in_force: RepositoryInForce, files: Mapping[str, bytes], purpose: str) -> Draft:
    proposal = Proposal(repository=ProposedRepository.IMAGE, purpose=purpose, metadata=files)
    return Draft(proposal, image_in_force(in_force))


def _director_in_force(session: Session) -> InForce:
    return InForce(session.working_copy.fetch_director_root(session.client, now=session.now, expired=True))


def _fetch_all(session: Session) -> RepositoryInForce:
    return session.working_copy.fetch(session.client, now=session.now, everything=True, expired=True)


def _role_keys(root: Root, role: str) -> RoleKeys:
    named = root.roles[role]
    return RoleKeys(tuple(public_key_of(root.get_key(key_id)) for key_id in named.keyids), named.threshold)


def _key_ids(keys: RoleKeys) -> set[str]:
    return {tuf_key(key).keyid for key in keys.keys}


def _check_team(in_force: RepositoryInForce, name: str) -> None:
    teams = [role for role in delegated_roles(in_force.targets) if role not in {DELTAS_ROLE, BINS_ROLE}]
    if name not in teams:
        raise DelegationError(f"role {name[:40]}: expected one of {', '.join(teams) or 'no team'}, found another")


def _check_new_name(in_force: RepositoryInForce, name: str) -> None:
    reserved = {*_IMAGE_ROOT_ROLES, *DirectorRole, DELTAS_ROLE, BINS_ROLE}
    if not ROLE_NAME.fullmatch(name) or name in reserved or name.startswith(f"{BIN_PREFIX}-"):
        raise DelegationError(f"role: expected 1 to 32 of a-z, 0-9 and '-', and no reserved name, found {name[:40]!r}")
    if name in delegated_roles(in_force.targets):
        raise DelegationError(f"role {name}: expected a name that is not delegated to, found it is")
