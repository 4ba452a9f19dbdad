"""Make a release: targets for its images, golden vectors and documents, and the release document that holds them.

What is made here is a draft; service/cli/settling.py signs and publishes it. Order, so that an interruption leaves
nothing half done: the files go to the working copy, then to the service, where nothing refers to them yet; then the
metadata, which the service takes as a whole or not at all.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import TargetFile, Targets

from pki.listings import check_team, next_listings, releasers_role
from pki.metadata import content_target
from pki.next_versions import next_release_counter
from pki.online import TARGETS_METADATA_LIFETIME
from pki.proposals import Proposal, ProposedRelease, ProposedRepository
from pki.repository import RepositoryInForce
from protocol.document import canonical_json
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.updates import (
    DocumentCustom,
    DocumentKind,
    ImageCustom,
    MustPass,
    ReleaseDocument,
    ReleaseImage,
    golden_target_name,
    image_custom,
    image_target_name,
    release_target_name,
    slot_of_image_target,
)
from protocol.versions import Build
from service.cli.errors import BadArgumentError, CliError
from service.cli.offered import OfferedImage
from service.cli.settling import Draft, image_in_force
from service.cli.working_copy import find_release

_RELEASE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ReleaseRefusedError(CliError):
    """The images make no release."""


@dataclass(frozen=True, slots=True)
class ReleaseDocuments:
    """What is said of a release and its images beside the release document itself.

    Attributes:
        contents: bytes and custom metadata of further targets, by name.
        boms: target name of an image's bill of materials, by image id.
        of_release: target names of what is said of the release as a whole, by kind.
    """

    contents: Mapping[str, tuple[bytes, DocumentCustom]] = field(default_factory=dict)
    boms: Mapping[str, str] = field(default_factory=dict)
    of_release: Mapping[DocumentKind, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewRelease:
    """What a release is to be.

    Attributes:
        offered: images that are new, from package files.
        listed: targets of images that are in force already.
        factory: the images that devices are made with.
        support_ends: until when its maker mends it, UTC, aware.
        documents: what is said of it.
        goes_back: by slot, SHA-256 of newer images that it may replace by an older one, released or not.
        must_pass: devices must pass through it.
        after: by slot, what a device must have passed through before.
    """

    name: str
    offered: Sequence[OfferedImage] = ()
    listed: Sequence[TargetFile] = ()
    factory: bool = False
    support_ends: datetime | None = None
    documents: ReleaseDocuments = field(default_factory=ReleaseDocuments)
    goes_back: Mapping[Slot, tuple[str, ...]] = field(default_factory=dict)
    must_pass: bool = False
    after: Mapping[Slot, MustPass] = field(default_factory=dict)

    @property
    def builds(self) -> dict[Slot, Build]:
        """Its images by their slots."""
        new = {each.slot: _custom(each, {}).build(each.image.digest) for each in self.offered}
        return new | {_slot_of(each): image_custom(each).build(each.hashes["sha256"]) for each in self.listed}


@dataclass(frozen=True, slots=True)
class WayBack:
    """The release that undoes another, to be signed together with it.

    Attributes:
        document: its release document.
        documents: what is said of it.
    """

    document: ReleaseDocument
    documents: ReleaseDocuments = field(default_factory=ReleaseDocuments)


def check_name(name: str) -> None:
    """Refuse what is no name of a release.

    Raises:
        BadArgumentError: it is none.
    """
    if not _RELEASE_NAME.fullmatch(name):
        raise BadArgumentError(f"release name: expected 1 to 64 letters, digits, '.', '_' or '-', found {name[:80]!r}")


def new_names(images: Iterable[OfferedImage], documents: ReleaseDocuments) -> list[str]:
    """Return the target names that a release lists anew, its own documents aside."""
    return [*_contents(images, documents)]


def propose(
    in_force: RepositoryInForce, release: NewRelease, *, now: datetime, way_back: WayBack | None = None
) -> Draft:
    """Draft a release on top of the metadata in force.

    Args:
        in_force: verified, with the roles of every name that the release lists; see `new_names`.
        release: what it is to be.
        now: UTC, aware.
        way_back: the release that undoes it.

    Raises:
        ReleaseRefusedError: two images for one slot, a name that is taken, or a way back of another counter.
        PkiError: a target would change, or a role is missing.
    """
    document = release_document(in_force, release)
    both = [document] if way_back is None else [document, _following(document, way_back, in_force)]
    further = ReleaseDocuments() if way_back is None else way_back.documents
    papers = {release_target_name(each.counter, each.name): canonical_json(each) for each in both}
    targets = [
        *_new_targets(release.offered, release.documents),
        *_new_targets((), further),
        *(content_target(name, content) for name, content in papers.items()),
    ]
    by_role: dict[str, list[TargetFile]] = {}
    for target in targets:
        by_role.setdefault(releasers_role(in_force, target.path), []).append(target)
    names = [*papers]
    proposal = Proposal(
        repository=ProposedRepository.IMAGE,
        purpose=f"release {release.name}",
        metadata=next_listings(in_force, by_role, expires=now + TARGETS_METADATA_LIFETIME),
        release=ProposedRelease(target=names[0], way_back=None if way_back is None else names[1]),
        documents=papers,
    )
    contents = _contents(release.offered, release.documents) | _contents((), further)
    return Draft(proposal, image_in_force(in_force), contents)


def release_document(in_force: RepositoryInForce, release: NewRelease) -> ReleaseDocument:
    """Return the document of a release that is to follow those in force.

    Raises:
        ReleaseRefusedError: two images for one slot, a name that is taken, or a way back in another's slot.
    """
    _refuse_taken_name(in_force.targets, release.name)
    return _document(release, counter=next_release_counter(in_force.targets))


def security_counters(release: NewRelease) -> dict[Slot, int]:
    """Return the security counters of a release's images, by slot.

    Raises:
        ReleaseRefusedError: a target is not named for a slot.
    """
    offered = {each.slot: each.image.info.security_version for each in release.offered}
    listed = {_slot_of(target): image_custom(target).security_counter for target in release.listed}
    return offered | listed


def propose_images(
    in_force: RepositoryInForce,
    images: Sequence[OfferedImage],
    *,
    role: str,
    documents: ReleaseDocuments,
    now: datetime,
) -> Draft:
    """Draft the listing of images in a team's role, without a release.

    Raises:
        DelegationError: an image, its golden vectors or its bill are outside what the team may list.
        PkiError: a target would change, or the role is missing.
    """
    targets = _new_targets(images, documents)
    check_team(in_force, role, [target.path for target in targets])
    metadata = next_listings(in_force, {role: targets}, expires=now + TARGETS_METADATA_LIFETIME)
    if not metadata:
        raise ReleaseRefusedError(f"role {role}: expected an image that is not in force yet, found none")
    purpose = f"{len(images)} images of {role}"
    proposal = Proposal(repository=ProposedRepository.IMAGE, purpose=purpose, metadata=metadata)
    return Draft(proposal, image_in_force(in_force), _contents(images, documents))


def _refuse_taken_name(targets: Targets, name: str) -> None:
    taken = find_release(targets, name)
    if taken is not None:
        raise ReleaseRefusedError(f"release name: expected one that is not taken, found {taken.path}")


def _following(document: ReleaseDocument, way_back: WayBack, in_force: RepositoryInForce) -> ReleaseDocument:
    back = way_back.document
    _refuse_taken_name(in_force.targets, back.name)
    # Between two looks at what is in force somebody else may have released.
    if back.counter != document.counter + 1:
        raise ReleaseRefusedError(
            f"way back {back.name}: expected counter {document.counter + 1}, after its release, found {back.counter}; "
            "another release came into force meanwhile: try again"
        )
    return back


def _document(release: NewRelease, *, counter: int) -> ReleaseDocument:
    check_name(release.name)
    images = [(offered.slot, _offered_image(offered)) for offered in release.offered]
    images += [(_slot_of(target), _listed_image(target)) for target in release.listed]
    slots = [slot for slot, _ in images]
    twice = sorted({slot.value for slot in slots if slots.count(slot) > 1})
    if twice:
        raise ReleaseRefusedError(
            f"release {release.name}: expected one image per slot, found two for {', '.join(twice)}"
        )
    foreign = sorted(release.goes_back.keys() - set(slots))
    if foreign:
        raise ReleaseRefusedError(f"release {release.name}: expected to go back in its own slots, found {foreign[0]}")
    return ReleaseDocument(
        name=release.name,
        counter=counter,
        images=dict(images),
        factory=release.factory,
        goes_back=release.goes_back,
        must_pass=release.must_pass,
        after=release.after,
        support_ends=release.support_ends,
        documents=release.documents.of_release,
    )


def _offered_image(offered: OfferedImage) -> ReleaseImage:
    return ReleaseImage(target=_image_target(offered), sha256=offered.image.digest, length=len(offered.package))


def _listed_image(target: TargetFile) -> ReleaseImage:
    return ReleaseImage(target=target.path, sha256=target.hashes["sha256"], length=target.length)


def _slot_of(target: TargetFile) -> Slot:
    slot = slot_of_image_target(target.path)
    if slot is None:
        raise ReleaseRefusedError(f"image {target.path}: expected a target named for a slot, found one that is not")
    return slot


def _contents(images: Iterable[OfferedImage], documents: ReleaseDocuments) -> dict[str, bytes]:
    packages = {_image_target(offered): offered.package for offered in images}
    vectors = {_golden_target(offered): offered.golden for offered in images if offered.golden is not None}
    return packages | vectors | {name: content for name, (content, _) in documents.contents.items()}


def _new_targets(images: Sequence[OfferedImage], documents: ReleaseDocuments) -> list[TargetFile]:
    vectors = [content_target(_golden_target(offered), offered.golden) for offered in images if offered.golden]
    packages = [
        content_target(
            _image_target(offered), offered.package, _custom(offered, documents.boms).model_dump(mode="json")
        )
        for offered in images
    ]
    further = [
        content_target(name, content, custom.model_dump(mode="json"))
        for name, (content, custom) in documents.contents.items()
    ]
    unique = {target.path: target for target in vectors}
    return [*packages, *unique.values(), *further]


def _custom(offered: OfferedImage, boms: Mapping[str, str]) -> ImageCustom:
    info = offered.image.info
    return ImageCustom(
        slot_kind=offered.slot.kind,
        hardware_ids=(offered.slot.core.hardware_id,),
        component_id=info.component_id,
        image_id=info.image_id,
        name=info.name,
        security_counter=info.security_version,
        built_at=info.built_at,
        requires=offered.requires,
        golden=None if offered.golden is None else _golden_target(offered),
        bom=boms.get(info.image_id),
    )


def _image_target(offered: OfferedImage) -> str:
    return image_target_name(offered.slot, offered.image.info.image_id)


def _golden_target(offered: OfferedImage) -> str:
    return golden_target_name(offered.image.info.component_id, digest_of(offered.golden or b""))
