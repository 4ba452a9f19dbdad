"""Review a proposal against the metadata in force: what it changes, who has signed it, and whose signatures it lacks.

Verification of an unverified proposal, in this order:
    1. roles: of this repository, each file TUF metadata of its type, of a length that devices read, and delegated
       where it is not of the top;
    2. version: the one after the last of its role;
    3. expiry: later than the given time;
    4. keys: P-256, each under the key id that is its digest, and a threshold that they can meet;
    5. signatures: each by a key that counts for the role, over what the file says now;
    6. targets: none that is in force changes or vanishes, none is in two roles or outside its role's delegation;
    7. documents: those that are listed as new, among them the releases that the proposal brings.
That enough keys have signed is not required here: `Review.lacking` says what is missing. That targets say what their
packages say is for the service to check, which has the packages.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Key
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import DelegatedRole, Metadata, Role, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError, SerializationError

from pki.errors import (
    MetadataExpiredError,
    MetadataVersionError,
    ProposalError,
    ProposalSignatureError,
    SignerRefusedError,
)
from pki.metadata import add_signature
from pki.next_state import check_length
from pki.proposals import Proposal, ProposedRepository
from pki.repository import delegated_roles, hash_bins
from protocol.document import parse_document
from protocol.signing import Signer, tuf_key
from protocol.updates import MAX_RELEASE_BYTES, ReleaseDocument, release_target_name

BOTH_WAYS = 2  # a release, and the way back from it
Delegator = Root | Targets
_Files = Mapping[str, Metadata[Root] | Metadata[Targets]]


@dataclass(frozen=True, slots=True)
class InForce:
    """Verified metadata of one repository, as far as a proposal touches it.

    Attributes:
        root: of the repository.
        roles: targets metadata by role; empty for the Director.
        last_versions: of roles by name, where they are higher than those of `roles`: of roles that are not delegated
            any more.
    """

    root: Root
    roles: Mapping[str, Targets] = field(default_factory=dict)
    last_versions: Mapping[str, int] = field(default_factory=dict)

    def last_version(self, role: str) -> int:
        """Return the highest version that a role has had; 0 for none."""
        if role == Root.type:
            return self.root.version
        loaded = self.roles[role].version if role in self.roles else 0
        return max(loaded, self.last_versions.get(role, 0))


@dataclass(frozen=True, slots=True)
class Quorum:
    """The keys of one role in one delegator's eyes, and which of them have signed.

    Attributes:
        role: whose metadata.
        delegator: who names the keys, such as `root version 2`.
        threshold: how many must sign.
        keys: their key ids.
        signed: key ids of those whose signatures are there and valid.
    """

    role: str
    delegator: str
    threshold: int
    keys: tuple[str, ...]
    signed: tuple[str, ...]

    @property
    def missing(self) -> int:
        """How many signatures are missing."""
        return max(0, self.threshold - len(self.signed))


@dataclass(frozen=True, slots=True)
class RoleChange:
    """What becomes of who may sign for a role.

    Attributes:
        added: key ids.
        removed: key ids.
        threshold: before and after; 0 where the role is new or gone.
        paths: of its targets, before and after.
    """

    role: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    threshold: tuple[int, int]
    paths: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


@dataclass(frozen=True, slots=True)
class Review:
    """A verified proposal.

    Attributes:
        versions: of each role file.
        expiries: of each role file, UTC, aware.
        quorums: who must sign what, and who has.
        added: new targets by name, with the role that lists each.
        moved: targets that go from one role to another, by name.
        roles: changes of keys, thresholds and delegations.
        fields: names of further fields of roots that change.
        releases: documents of the releases that it brings, the way back last.
    """

    proposal: Proposal
    versions: Mapping[str, int]
    expiries: Mapping[str, datetime]
    quorums: tuple[Quorum, ...]
    added: Mapping[str, str]
    moved: Mapping[str, tuple[str, str]]
    roles: tuple[RoleChange, ...]
    fields: tuple[str, ...]
    releases: tuple[ReleaseDocument, ...]

    @property
    def lacking(self) -> tuple[Quorum, ...]:
        """Where signatures are missing."""
        return tuple(quorum for quorum in self.quorums if quorum.missing)

    @property
    def is_complete(self) -> bool:
        """Whether it can come into force."""
        return not self.lacking


def review_proposal(proposal: Proposal, in_force: InForce, *, now: datetime) -> Review:
    """Verify a proposal against the metadata in force.

    Args:
        proposal: as it was read.
        in_force: at least the roles that the proposal touches, and those that delegate to them.
        now: UTC, aware.

    Raises:
        ProposalError: or the leaf of the rule that is broken.
        MetadataLengthError, MetadataVersionError, MetadataExpiredError: steps 1 to 3.
    """
    files = {role: _parse(role, content, proposal.repository) for role, content in proposal.metadata.items()}
    after = _roles_after(files, in_force)
    for role, file in files.items():
        _check_version(role, file.signed, in_force)
        _check_expiry(role, file.signed, now)
        _check_keys(role, file.signed)
    delegating = _delegating(after)
    quorums = [
        quorum for role in files for quorum in _quorums(role, files, _delegators(role, files, in_force, delegating))
    ]
    _check_targets(in_force, after, files.keys() & after.keys())
    before_names, after_names = _names(in_force.roles), _names(after)
    new = {name: after[role].targets[name] for name, role in after_names.items() if name not in before_names}
    return Review(
        proposal=proposal,
        versions={role: file.signed.version for role, file in files.items()},
        expiries={role: file.signed.expires for role, file in files.items()},
        quorums=tuple(quorums),
        added={name: after_names[name] for name in sorted(new)},
        moved={
            name: (role, after_names[name]) for name, role in sorted(before_names.items()) if after_names[name] != role
        },
        roles=tuple(_role_changes(files, in_force)),
        fields=tuple(_field_changes(files, in_force)),
        releases=_releases(proposal, new),
    )


def sign_proposal(review: Review, signer: Signer) -> Proposal:
    """Return the proposal with the signature of one more key, on each file for which the key counts.

    Raises:
        SignerRefusedError: the key counts for none, or has signed all of them.
        KeyStoreError: the key cannot be used.
    """
    key_id = tuf_key(signer.public_key).keyid
    waiting = {quorum.role for quorum in review.quorums if key_id in quorum.keys and key_id not in quorum.signed}
    if not waiting:
        wanted = sorted({key[:12] for quorum in review.lacking for key in quorum.keys if key not in quorum.signed})
        raise SignerRefusedError(
            f"proposal: expected a key whose signature is missing ({', '.join(wanted) or 'none is'}), "
            f"found {key_id[:12]}"
        )
    files = review.proposal.metadata
    signed = {role: add_signature(files[role], signer) for role in sorted(waiting)}
    return review.proposal.model_copy(update={"metadata": {**files, **signed}})


def _parse(role: str, content: bytes, repository: ProposedRepository) -> Metadata[Root] | Metadata[Targets]:
    # Step 1: roles.
    is_signed_by_people = role not in {Timestamp.type, Snapshot.type}
    if not is_signed_by_people or (repository is ProposedRepository.DIRECTOR and role != Root.type):
        raise ProposalError(f"proposal: expected roles of the {repository} repository that people sign, found {role}")
    check_length(content, role=role)
    try:
        metadata: Metadata[Root] | Metadata[Targets] = Metadata.from_bytes(content)
        _ = metadata.signed_bytes
    except (DeserializationError, SerializationError) as error:
        raise ProposalError(f"{role}: expected TUF metadata, found other bytes") from error
    expected = Root if role == Root.type else Targets
    if not isinstance(metadata.signed, expected):
        raise ProposalError(f"{role}: expected {expected.type} metadata, found {metadata.signed.type}")
    return metadata


def _roles_after(files: _Files, in_force: InForce) -> dict[str, Targets]:
    # Step 1: roles. Who is not delegated to any more is not there any more.
    proposed = {role: file.signed for role, file in files.items() if isinstance(file.signed, Targets)}
    known = {**in_force.roles, **proposed}
    reached: dict[str, Targets] = {}
    waiting = [Targets.type] if Targets.type in known else []
    while waiting:
        role = waiting.pop()
        reached[role] = known[role]
        if known[role].delegations is not None:
            waiting += [other for other in known if other not in reached and _delegates(known[role], other)]
    if strangers := sorted(proposed.keys() - reached.keys()):
        raise ProposalError(f"proposal: expected roles that are delegated to, found {strangers[0]}")
    return reached


def _delegating(roles: Mapping[str, Targets]) -> dict[str, Targets]:
    """Return the few roles that delegate: hash bins, which are many, do not."""
    return {name: targets for name, targets in roles.items() if targets.delegations is not None}


def _delegates(delegator: Targets, role: str) -> bool:
    try:
        delegator.get_delegated_role(role)
    except ValueError:
        return False
    return True


def _check_version(role: str, signed: Delegator, in_force: InForce) -> None:
    # Step 2: version.
    expected = in_force.last_version(role) + 1
    if signed.version != expected:
        raise MetadataVersionError(
            f"{role}: expected version {expected}, found {signed.version}; make the proposal again on what is in force"
        )


def _check_expiry(role: str, signed: Delegator, now: datetime) -> None:
    # Step 3: expiry.
    if signed.is_expired(now):
        raise MetadataExpiredError(f"{role}: expected an expiry after {now}, found {signed.expires}")


def _check_keys(where: str, signed: Delegator) -> None:
    # Step 4: keys.
    delegations = signed if isinstance(signed, Root) else signed.delegations
    if delegations is None:
        return
    for key_id, key in delegations.keys.items():
        if not _is_named_by_digest(key_id, key):
            raise ProposalError(f"{where}: expected P-256 keys under the digests of their own, found {key_id[:12]}")
    for name, role in _named_roles(signed).items():
        if len(role.keyids) < role.threshold or not set(role.keyids) <= delegations.keys.keys():
            raise ProposalError(
                f"{where}: expected at least {role.threshold} keys for {name}, found {len(role.keyids)} key ids "
                f"of {len(delegations.keys)} keys"
            )


def _is_named_by_digest(key_id: str, key: Key) -> bool:
    try:
        public_key = load_pem_public_key(str(key.keyval.get("public")).encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
        return False
    return key == tuf_key(public_key) and key_id == key.keyid


def _named_roles(signed: Delegator) -> Mapping[str, Role]:
    if isinstance(signed, Root):
        return signed.roles
    bins = hash_bins(signed)
    return delegated_roles(signed) if bins is None else {f"{bins.name_prefix}-*": bins}


def _quorums(role: str, files: _Files, delegators: Mapping[str, Delegator]) -> tuple[Quorum, ...]:
    # Step 5: signatures.
    file = files[role]
    quorums = tuple(_quorum(role, file, each, name) for name, each in delegators.items())
    for key_id in file.signatures:
        counting = [quorum for quorum in quorums if key_id in quorum.keys]
        if not counting:
            raise ProposalSignatureError(f"{role}: expected signatures by its keys alone, found one by {key_id[:12]}")
        if any(key_id not in quorum.signed for quorum in counting):
            raise ProposalSignatureError(
                f"{role}: expected that {key_id[:12]} signed what the file says now, found another signature"
            )
    return quorums


def _quorum(role: str, file: Metadata[Root] | Metadata[Targets], delegator: Delegator, name: str) -> Quorum:
    result = delegator.get_verification_result(role, file.signed_bytes, file.signatures)
    named = delegator.get_delegated_role(role)
    return Quorum(
        role, f"{name} version {delegator.version}", named.threshold, tuple(named.keyids), tuple(result.signed)
    )


def _delegators(role: str, files: _Files, in_force: InForce, delegating: Mapping[str, Targets]) -> dict[str, Delegator]:
    """Return who must find enough signatures on a role's file, by name."""
    new = {f"new {Root.type}": files[Root.type].signed} if Root.type in files else {}
    if role == Root.type:
        return {Root.type: in_force.root, **new}
    if role == Targets.type:
        return new or {Root.type: in_force.root}  # a root that comes into force with them is the one that counts
    return {name: each for name, each in delegating.items() if _delegates(each, role)}


def _names(roles: Mapping[str, Targets]) -> dict[str, str]:
    """Return the role that lists each target."""
    listing: dict[str, str] = {}
    for role, targets in roles.items():
        for name in targets.targets:
            # Step 6: targets.
            if listing.setdefault(name, role) != role:
                raise ProposalError(f"target {name}: expected it in one role, found it in {listing[name]} and {role}")
    return listing


def _check_targets(before: InForce, after: Mapping[str, Targets], touched: Collection[str]) -> None:
    # Step 6: targets.
    listing = _names(after)
    for role, targets in before.roles.items():
        for name, target in targets.targets.items():
            found = after[listing[name]].targets[name] if name in listing else None
            if found != target:
                what = "none" if found is None else "another content"
                raise ProposalError(f"target {name} of {role}: expected it as it is in force, found {what}")
    delegating = _delegating(after)
    for role in touched:
        for name in after[role].targets:
            if not _covers(delegating, role, name):
                raise ProposalError(f"{role}: expected targets that are delegated to it, found {name}")


def _covers(roles: Mapping[str, Targets], role: str, name: str) -> bool:
    """Say whether a device that looks for a target may be led to a role, from the top."""
    if role == Targets.type:
        return True
    return any(role in _asked(delegator, name) and _covers(roles, parent, name) for parent, delegator in roles.items())


def _asked(delegator: Targets, name: str) -> list[str]:
    delegations = delegator.delegations
    return [] if delegations is None else [role for role, _ in delegations.get_roles_for_target(name)]


def _role_changes(files: _Files, in_force: InForce) -> Iterator[RoleChange]:
    for where, file in files.items():
        known = in_force.root if where == Root.type else in_force.roles.get(where)
        before = {} if known is None else _named_roles(known)
        after = _named_roles(file.signed)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                yield _role_change(name, before.get(name), after.get(name))


def _role_change(name: str, before: Role | None, after: Role | None) -> RoleChange:
    old, new = set(before.keyids if before else ()), set(after.keyids if after else ())
    return RoleChange(
        role=name,
        added=tuple(sorted(new - old)),
        removed=tuple(sorted(old - new)),
        threshold=(before.threshold if before else 0, after.threshold if after else 0),
        paths=(_paths(before), _paths(after)),
    )


def _paths(role: Role | None) -> tuple[str, ...]:
    return tuple(role.paths or ()) if isinstance(role, DelegatedRole) else ()


def _field_changes(files: _Files, in_force: InForce) -> Iterator[str]:
    for role, file in files.items():
        known = in_force.root if role == Root.type else in_force.roles.get(role)
        before = {} if known is None else known.unrecognized_fields
        after = file.signed.unrecognized_fields
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                yield f"{role}: {name}"


def _releases(proposal: Proposal, new: Mapping[str, TargetFile]) -> tuple[ReleaseDocument, ...]:
    # Step 7: documents.
    for name, content in proposal.documents.items():
        try:
            _listed(new, name).verify_length_and_hashes(content)
        except LengthOrHashMismatchError as error:
            raise ProposalError(f"document {name}: expected the content that is listed, found another") from error
    brought = [] if proposal.release is None else [proposal.release.target, proposal.release.way_back]
    wanted = [name for name in brought if name is not None]
    if sorted(wanted) != (found := sorted(name for name in new if name.startswith("releases/"))):
        raise ProposalError(f"proposal: expected it to list the releases {wanted}, found {found}")
    documents = tuple(_release_document(proposal, name) for name in wanted)
    if len(documents) == BOTH_WAYS and (documents[1].way_back_of, documents[1].counter) != (
        documents[0].name,
        documents[0].counter + 1,
    ):
        raise ProposalError(f"release {documents[1].name[:64]}: expected the way back of {documents[0].name}")
    return documents


def _listed(new: Mapping[str, TargetFile], name: str) -> TargetFile:
    if name not in new:
        raise ProposalError(f"document {name}: expected it among the new targets, found it is not")
    return new[name]


def _release_document(proposal: Proposal, name: str) -> ReleaseDocument:
    if name not in proposal.documents:
        raise ProposalError(f"release {name}: expected its document in the proposal, found none")
    document = parse_document(proposal.documents[name], ReleaseDocument, max_bytes=MAX_RELEASE_BYTES)
    if release_target_name(document.counter, document.name) != name:
        raise ProposalError(f"release {name}: expected a document of this name, found {document.name}")
    return document
