"""What the service requires of new targets of the Image repository before it takes them into force.

Signatures, versions, expiry and roles are verified before (`service.application.role_changes`); here, in this order:
    1. every new target has a name of a known form, and its bytes are here with the same length and hash;
    2. an image target's custom metadata says what its verified package says, for hardware that exists;
    3. a golden-vector target is that of its component, a model names golden vectors that are listed, and an image its
       own bill of materials;
    4. a document's custom metadata says what the document says;
    5. exactly the new release documents that the operator means, each under its own name, with a counter above all
       before;
    6. each of a release's images is listed, fits its slot's hardware and kind, and its home slot and the shared spare;
    7. images of one release meet what they require of each other; what they require of an image beside them is for
       the Director and the device to check;
    8. ways back (`service.domain.ways_back`).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from tuf.api.metadata import TargetFile

from protocol.geometry import HOME_BYTES, SPARE_BYTES, SYSTEM_SLOTS, Core, ImageKind, Slot
from protocol.image import IMAGE_TYPE
from protocol.updates import (
    DocumentKind,
    ImageCustom,
    ReleaseDocument,
    ReleaseImage,
    document_custom,
    document_target_name,
    golden_target_name,
    image_custom,
    image_target_name,
    release_target_name,
    slot_of_image_target,
)
from protocol.versions import Build, unmet_requirements
from service.domain.release import (
    Artifact,
    ArtifactKind,
    HardwareMismatchError,
    InvalidReleaseError,
    InvalidTargetError,
    MissingArtifactError,
    ReleaseCounterError,
    UnmetRequirementError,
    target_sha256,
)

HARDWARE_IDS = frozenset(core.hardware_id for core in Core)
_SYSTEM_KINDS = frozenset(slot.kind for slot in SYSTEM_SLOTS)
_SLOT_KINDS = frozenset(slot.kind for slot in Slot)
_TARGET_NAME = re.compile(r"(?:images|golden|documents|releases)/[A-Za-z0-9._/-]{1,200}\Z")
_DOCUMENT_KIND = {
    DocumentKind.BOM: ArtifactKind.BOM,
    DocumentKind.PROVENANCE: ArtifactKind.PROVENANCE,
    DocumentKind.VEX: ArtifactKind.VEX,
}


@dataclass(frozen=True, slots=True)
class Proposal:
    """New targets, their signatures verified, beside what is in force and the bytes that are here.

    Attributes:
        added: targets that no role listed before, by name.
        in_force: those of `referenced` that are in force, by name; an image's with its custom metadata.
        artifacts: by SHA-256; at least those of the new targets that are here.
        highest_counter: of all releases so far.
    """

    added: Mapping[str, TargetFile]
    in_force: Mapping[str, TargetFile]
    artifacts: Mapping[str, Artifact]
    highest_counter: int

    def listed(self, name: str | None) -> TargetFile | None:
        """Return the target of a name as it will be in force, None if there is none."""
        return None if name is None else self.added.get(name, self.in_force.get(name))


def referenced(added: Mapping[str, TargetFile], artifacts: Mapping[str, Artifact]) -> set[str]:
    """Return the names of targets that new targets speak of.

    Raises:
        UpdateMetadataError: an image's custom metadata is malformed.
        InvalidTargetError: a target has another hash than SHA-256.
    """
    names: set[str | None] = set()
    for name, target in added.items():
        if name.startswith("images/"):
            custom = image_custom(target)
            names |= {custom.golden, custom.bom}
        artifact = artifacts.get(target_sha256(target))
        if artifact is not None and artifact.document is not None:
            names |= {image.target for image in artifact.document.images.values()}
            names |= set(artifact.document.documents.values())
    return {name for name in names if name is not None and name not in added}


def check_targets(proposal: Proposal, releases: Collection[str]) -> list[ReleaseDocument]:
    """Check new targets and return the releases that they bring.

    Args:
        proposal: what is to come into force.
        releases: names of the release documents that the operator means, the counters rising.

    Raises:
        InvalidTargetError: steps 1 to 4.
        MissingArtifactError: step 1.
        UpdateMetadataError: custom metadata is malformed.
        HardwareMismatchError: steps 2 or 6.
        InvalidReleaseError: steps 5 or 6.
        ReleaseCounterError: step 5.
        UnmetRequirementError: step 7.
    """
    for name, target in sorted(proposal.added.items()):
        _check_target(name, target, proposal)
    documents = _release_documents(proposal, releases)
    for document in documents:
        _check_one_slot_each(document)
        for slot, image in document.images.items():
            _check_release_image(slot, image, proposal, factory=document.factory)
        _check_documents(document, proposal)
        _check_requirements(document, proposal)
    return documents


def builds_of(document: ReleaseDocument, proposal: Proposal) -> dict[Slot, Build]:
    """Return what a release's images are; each is listed."""
    targets = {slot: proposal.listed(image.target) for slot, image in document.images.items()}
    return {slot: image_custom(found).build(target_sha256(found)) for slot, found in targets.items() if found}


def _check_target(name: str, target: TargetFile, proposal: Proposal) -> None:
    # Step 1: name and bytes.
    if not _TARGET_NAME.match(name):
        raise InvalidTargetError(f"target {name[:80]!r}: expected images/, golden/, documents/ or releases/ and a name")
    digest = target_sha256(target)
    artifact = proposal.artifacts.get(digest)
    if artifact is None:
        raise MissingArtifactError(
            f"target {name}: expected its bytes in the service, found no artifact {digest[:12]}…"
        )
    if artifact.length != target.length:
        raise InvalidTargetError(f"target {name}: expected {artifact.length} bytes, found {target.length}")
    if name.startswith("images/"):
        _check_image(target, artifact, proposal)
    elif name.startswith("golden/"):
        _check_golden(target, artifact)
    elif name.startswith("documents/"):
        _check_document(target, artifact)
    else:
        _check_kind(name, artifact, ArtifactKind.RELEASE)


def _check_image(target: TargetFile, artifact: Artifact, proposal: Proposal) -> None:
    # Step 2: custom metadata.
    _check_kind(target.path, artifact, ArtifactKind.IMAGE)
    custom, info = image_custom(target), artifact.image
    if custom.slot_kind not in _SLOT_KINDS:
        raise HardwareMismatchError(
            f"target {target.path}: expected an image with a slot on the device, found a {custom.slot_kind}, "
            "which has none yet"
        )
    slot = slot_of_image_target(target.path)
    if slot is None:
        raise InvalidTargetError(f"target {target.path}: expected images/, a slot, and the image's id")
    said = (target.path, custom.component_id, custom.image_id, custom.name, custom.security_counter, custom.built_at)
    found = info and (
        image_target_name(slot, info.image_id),
        info.component_id,
        info.image_id,
        info.name,
        info.security_version,
        info.built_at,
    )
    if info is None or said != found:
        raise InvalidTargetError(f"target {target.path}: expected what its package says: {found}, found {said}")
    if IMAGE_TYPE[custom.slot_kind] != info.image_type or (custom.slot_kind in _SYSTEM_KINDS) != artifact.is_system:
        raise HardwareMismatchError(f"target {target.path}: expected a package for {custom.slot_kind}, found another")
    unknown = set(custom.hardware_ids) - HARDWARE_IDS
    if unknown:
        raise HardwareMismatchError(
            f"target {target.path}: expected hardware of {sorted(HARDWARE_IDS)}, found {sorted(unknown)}"
        )
    if slot.kind is not custom.slot_kind or slot.core.hardware_id not in custom.hardware_ids:
        raise HardwareMismatchError(
            f"target {target.path}: expected a {slot.kind} for {slot.core.hardware_id} as it is named, "
            f"found a {custom.slot_kind} for {', '.join(custom.hardware_ids)}"
        )
    _check_model(target, custom, proposal)
    _check_bill(target, custom, proposal)


def _check_model(target: TargetFile, custom: ImageCustom, proposal: Proposal) -> None:
    # Step 3: golden vectors.
    if custom.slot_kind is not ImageKind.MODEL:
        return
    if custom.golden is None or proposal.listed(custom.golden) is None:
        raise InvalidTargetError(
            f"target {target.path}: expected golden vectors that are listed, found {custom.golden}"
        )
    if custom.golden.split("/")[1] != custom.component_id:
        raise InvalidTargetError(
            f"target {target.path}: expected golden vectors of component {custom.component_id}, found {custom.golden}"
        )


def _check_bill(target: TargetFile, custom: ImageCustom, proposal: Proposal) -> None:
    # Step 3: bill of materials.
    if custom.bom is None:
        return
    bill = proposal.listed(custom.bom)
    if bill is None or not custom.bom.startswith("documents/bom/"):
        raise InvalidTargetError(
            f"target {target.path}: expected a bill of materials that is listed, found {custom.bom[:200]}"
        )
    if custom.bom in proposal.added and document_custom(bill).subject != custom.image_id:
        raise InvalidTargetError(f"target {target.path}: expected its own bill of materials, found another image's")
    # That the bill has the image's digest is checked where it is read: `service.application.documents`.


def _check_golden(target: TargetFile, artifact: Artifact) -> None:
    # Step 3: golden vectors.
    _check_kind(target.path, artifact, ArtifactKind.GOLDEN)
    expected = golden_target_name(artifact.component_id or "", artifact.sha256)
    if target.path != expected:
        raise InvalidTargetError(f"target {target.path}: expected the name {expected}, found another")


def _check_document(target: TargetFile, artifact: Artifact) -> None:
    # Step 4: documents.
    custom = document_custom(target)
    _check_kind(target.path, artifact, _DOCUMENT_KIND[custom.kind])
    expected = document_target_name(custom.kind, artifact.sha256)
    if target.path != expected:
        raise InvalidTargetError(f"target {target.path}: expected the name {expected}, found another")
    if custom.subject != artifact.subject:
        raise InvalidTargetError(f"target {target.path}: expected subject {artifact.subject}, found {custom.subject}")


def _check_kind(name: str, artifact: Artifact, expected: ArtifactKind) -> None:
    if artifact.kind is not expected:
        raise InvalidTargetError(f"target {name}: expected bytes of a {expected}, found a {artifact.kind}")


def _release_documents(proposal: Proposal, releases: Collection[str]) -> list[ReleaseDocument]:
    # Step 5: release documents.
    added = {name for name in proposal.added if name.startswith("releases/")}
    if added != set(releases):
        raise InvalidReleaseError(f"release: expected exactly the new targets {list(releases)}, found {sorted(added)}")
    documents, highest = [], proposal.highest_counter
    for name in releases:
        document = proposal.artifacts[target_sha256(proposal.added[name])].document
        if document is None or release_target_name(document.counter, document.name) != name:
            raise InvalidReleaseError(f"release: expected a document of the name {name}, found another")
        if document.counter <= highest:
            raise ReleaseCounterError(f"release counter: expected above {highest}, found {document.counter}")
        documents.append(document)
        highest = document.counter
    return documents


def _check_one_slot_each(document: ReleaseDocument) -> None:
    # Step 6: images. A Director target names one slot, so an image of a rollout is for one.
    targets = [image.target for image in document.images.values()]
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice and not document.factory:
        raise InvalidReleaseError(f"release: expected each image in one slot, found {twice[0]} in several")


def _check_release_image(slot: Slot, image: ReleaseImage, proposal: Proposal, *, factory: bool) -> None:
    # Step 6: images.
    target = proposal.listed(image.target) if image.target.startswith("images/") else None
    if target is None or (target_sha256(target), target.length) != (image.sha256, image.length):
        raise InvalidReleaseError(f"release: expected {image.target} for {slot} among the targets, found none so")
    custom = image_custom(target)
    if slot.kind is not custom.slot_kind or slot.core.hardware_id not in custom.hardware_ids:
        raise HardwareMismatchError(
            f"{slot}: expected a {slot.kind} for {slot.core.hardware_id}, "
            f"found a {custom.slot_kind} for {', '.join(custom.hardware_ids)}"
        )
    _check_room(slot, image.length, factory=factory)


def _check_room(slot: Slot, length: int, *, factory: bool) -> None:
    if slot in SYSTEM_SLOTS:
        if not factory:
            raise HardwareMismatchError(f"{slot}: expected a slot that takes updates, found a system slot")
        return
    room = HOME_BYTES[slot] if factory else min(HOME_BYTES[slot], SPARE_BYTES)
    if length > room:
        raise HardwareMismatchError(f"{slot}: expected at most {room} bytes, found {length}: {length - room} too many")


def _check_documents(document: ReleaseDocument, proposal: Proposal) -> None:
    # Step 6: what is said of the release.
    for kind, name in document.documents.items():
        if proposal.listed(name) is None or not name.startswith(f"documents/{kind}/"):
            raise InvalidReleaseError(f"release: expected {kind} documents that are listed, found {name[:200]}")
        if kind is DocumentKind.PROVENANCE:
            _check_provenance(document, name, proposal)


def _check_provenance(document: ReleaseDocument, name: str, proposal: Proposal) -> None:
    # Step 6: provenance comes with its release, and is of exactly its images.
    target = proposal.added.get(name)
    artifact = None if target is None else proposal.artifacts.get(target_sha256(target))
    images = {image.sha256 for image in document.images.values()}
    if artifact is None or artifact.subject != document.name or set(artifact.digests) != images:
        raise InvalidReleaseError(f"release {document.name}: expected its own provenance, found {name[:200]}")


def _check_requirements(document: ReleaseDocument, proposal: Proposal) -> None:
    # Step 7: requirements.
    builds = builds_of(document, proposal)
    names = {build.name.partition("@")[0] for build in builds.values()}
    within = {
        slot: replace(build, requires={name: wanted for name, wanted in build.requires.items() if name in names})
        for slot, build in builds.items()
    }
    for unmet in unmet_requirements(within):
        raise UnmetRequirementError(f"release {document.name}: {unmet}")
