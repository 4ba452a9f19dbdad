"""A repository in force with keys for every role, and proposals on top of it with exactly one thing wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from pki.metadata import (
    BINS_ROLE,
    Delegation,
    RoleKeys,
    add_signature,
    bin_delegations,
    content_target,
    next_root,
    role_delegations,
    root_metadata,
    targets_metadata,
)
from pki.proposal_review import InForce, Review, review_proposal
from pki.proposals import Proposal, ProposedRelease, ProposedRepository
from protocol.document import canonical_json
from protocol.geometry import Slot
from protocol.signing import SoftwareSigner
from protocol.updates import ReleaseDocument, ReleaseImage, release_target_name

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
EXPIRES = NOW + timedelta(days=365)
IMAGE = content_target("images/m4-0/model/a.img", b"package")
TEAM_PATHS = ("images/m4-1/model/*",)


def signers(count: int) -> list[SoftwareSigner]:
    return [SoftwareSigner.generate() for _ in range(count)]


def keys_of(*members: SoftwareSigner, threshold: int = 1) -> RoleKeys:
    return RoleKeys(tuple(member.public_key for member in members), threshold)


def release(name: str, counter: int, **changes: object) -> ReleaseDocument:
    images = {Slot.M4_0_MODEL: ReleaseImage(target=IMAGE.path, sha256=IMAGE.hashes["sha256"], length=7)}
    return ReleaseDocument.model_validate({"name": name, "counter": counter, "images": images, **changes})


@dataclass
class Fleet:
    """Targets by two of three, a team by one of one, a root by one of one."""

    root: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    people: list[SoftwareSigner] = field(default_factory=lambda: signers(3))
    team: SoftwareSigner = field(default_factory=SoftwareSigner.generate)
    online: SoftwareSigner = field(default_factory=SoftwareSigner.generate)

    def __post_init__(self) -> None:
        online = keys_of(self.online)
        roles = {
            Root.type: keys_of(self.root),
            Targets.type: keys_of(*self.people, threshold=2),
            Snapshot.type: online,
            Timestamp.type: online,
        }
        self.root_file = root_metadata(roles, expires=EXPIRES)
        self.team_delegation = Delegation("vision", (self.team.public_key,), 1, TEAM_PATHS)
        self.delegations = role_delegations([self.team_delegation])
        self.in_force = InForce(
            root_of(self.root_file),
            {
                Targets.type: targets_of(self.targets([IMAGE], version=1)),
                "vision": targets_of(targets_metadata([], version=1, expires=EXPIRES)),
            },
        )

    def targets(self, listed: Sequence[TargetFile], *, version: int = 2, **changes: object) -> bytes:
        arguments = {"expires": EXPIRES, "delegations": self.delegations} | changes
        return targets_metadata(listed, version=version, **arguments)  # type: ignore[arg-type]

    def proposal(self, metadata: Mapping[str, bytes], **changes: object) -> Proposal:
        given = {"repository": ProposedRepository.IMAGE, "purpose": "a test", "metadata": metadata} | changes
        return Proposal.model_validate(given)

    def released(self, *documents: ReleaseDocument) -> Proposal:
        papers = {release_target_name(each.counter, each.name): canonical_json(each) for each in documents}
        listed = [IMAGE, *(content_target(name, content) for name, content in papers.items())]
        names = [*papers, None]
        return self.proposal(
            {Targets.type: self.targets(listed)},
            release=ProposedRelease(target=str(names[0]), way_back=names[1]),
            documents=papers,
        )

    def review(self, proposal: Proposal, *, now: datetime = NOW, in_force: InForce | None = None) -> Review:
        return review_proposal(proposal, in_force or self.in_force, now=now)

    def next_root(self, changed: Mapping[str, RoleKeys], *by: SoftwareSigner) -> bytes:
        content = next_root(self.in_force.root, changed, expires=EXPIRES)
        for signer in by:
            content = add_signature(content, signer)
        return content

    def binned(self, bits: int, *, keys: RoleKeys | None = None) -> dict[str, bytes]:
        """Everything that `targets` lists moves to hash bins."""
        keys = keys or keys_of(*self.people, threshold=2)
        below = bin_delegations(keys, bits=bits)
        top = role_delegations(
            [self.team_delegation, Delegation(BINS_ROLE, keys.keys, keys.threshold, ("images/*/*/*",))]
        )
        assert below.succinct_roles
        homes: dict[str, list[TargetFile]] = {role: [] for role in below.succinct_roles.get_roles()}
        homes[below.succinct_roles.get_role_for_target(IMAGE.path)].append(IMAGE)
        bins = {role: targets_metadata(listed, version=1, expires=EXPIRES) for role, listed in homes.items()}
        upper = targets_metadata([], version=1, expires=EXPIRES, delegations=below)
        return {Targets.type: self.targets([], delegations=top), BINS_ROLE: upper, **bins}


def root_of(content: bytes) -> Root:
    return Metadata[Root].from_bytes(content).signed


def targets_of(content: bytes) -> Targets:
    return Metadata[Targets].from_bytes(content).signed


def edited(content: bytes, change: Callable[[Metadata[Root]], object]) -> bytes:
    metadata = Metadata[Root].from_bytes(content)
    change(metadata)
    return metadata.to_bytes()
