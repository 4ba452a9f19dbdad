"""Releases: what the service requires of new Image targets metadata before it takes them into force.

The signature, version and expiry of the metadata are checked before; here, in this order:
    1. existing targets are unchanged and none is missing;
    2. every new target has a name of a known form, and its bytes are here with the same length and hash;
    3. an image target's custom metadata says what its verified package says, for hardware that exists;
    4. a golden-vector target is that of its component, and a model names golden vectors that are listed;
    5. exactly one new release document, under its own name, with a counter above all before;
    6. each of its images is listed, fits its slot's hardware and kind, and its home slot and the shared spare.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tuf.api.metadata import TargetFile

from protocol.geometry import HOME_BYTES, SPARE_BYTES, SYSTEM_SLOTS, Core, ImageKind, Slot
from protocol.image import IMAGE_TYPE, ImageInfo
from protocol.updates import (
    ImageCustom,
    ReleaseDocument,
    ReleaseImage,
    golden_target_name,
    image_custom,
    image_target_name,
    release_target_name,
    slot_of_image_target,
)
from service.domain.errors import ConflictError, InvalidError, NotFoundError

HARDWARE_IDS = frozenset(core.hardware_id for core in Core)
_SYSTEM_KINDS = frozenset(slot.kind for slot in SYSTEM_SLOTS)
_TARGET_NAME = re.compile(r"(?:images|golden|releases)/[A-Za-z0-9._/-]{1,200}\Z")


class TargetChangedError(ConflictError):
    """A target that is in force would change or vanish."""


class InvalidTargetError(InvalidError):
    """A target's name, custom metadata or bytes do not say the same."""


class MissingArtifactError(ConflictError):
    """A target's bytes are not here."""


class InvalidReleaseError(InvalidError):
    """The release document does not belong to its target, or names what is not listed."""


class ReleaseCounterError(ConflictError):
    """The release counter does not rise."""


class HardwareMismatchError(InvalidError):
    """An image is for other hardware, another kind of slot, or too large for it."""


class UnknownReleaseError(NotFoundError):
    """There is no release of this name or id."""


class UnknownImageError(NotFoundError):
    """There is no image of this id in force."""


class MetadataRaceError(ConflictError):
    """Another version of the metadata came into force meanwhile."""


class FactoryReleaseError(ConflictError):
    """The factory release cannot be rolled out."""


class ArtifactKind(StrEnum):
    """What an artifact is."""

    IMAGE = "image"
    GOLDEN = "golden"
    RELEASE = "release"
    BOM = "bom"
    PROVENANCE = "provenance"
    VEX = "vex"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Bytes that were verified when they were taken.

    Attributes:
        sha256: SHA-256 of the bytes, hex.
        length: bytes.
        image: what the package says of itself; None unless an image.
        is_system: signed by the maker's key, not by a package key.
        component_id: of golden vectors; None for the others.
        document: the release document; None for the others.
        subject: image id that a bill of materials is of, or name of the release that provenance or an exploitability
            document is of; None for the others.
        digests: SHA-256 of the images that a bill of materials or provenance is of, hex.
    """

    sha256: str
    length: int
    kind: ArtifactKind
    image: ImageInfo | None = None
    is_system: bool = False
    component_id: str | None = None
    document: ReleaseDocument | None = None
    subject: str | None = None
    digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """A named set of images that belong together, in force.

    Attributes:
        counter: only rises from release to release.
        target: name of its release document.
        factory: what devices are made with: reference values, never rolled out.
    """

    release_id: str
    name: str
    counter: int
    target: str
    factory: bool
    images: Mapping[Slot, ReleaseImage]
    created_at: datetime
    created_by: str

    @property
    def digests(self) -> dict[Slot, str]:
        """SHA-256 of each image by its slot."""
        return {slot: image.sha256 for slot, image in self.images.items()}


@dataclass(frozen=True, slots=True)
class Proposal:
    """New targets metadata, its signatures verified, beside what is in force and the bytes that are here.

    Attributes:
        current: targets in force by name.
        proposed: targets of the new metadata by name.
        artifacts: by SHA-256; at least those of the new targets that are here.
        highest_counter: of all releases so far.
    """

    current: Mapping[str, TargetFile]
    proposed: Mapping[str, TargetFile]
    artifacts: Mapping[str, Artifact]
    highest_counter: int

    @property
    def added(self) -> dict[str, TargetFile]:
        """Targets that are new."""
        return {name: target for name, target in self.proposed.items() if name not in self.current}


def check_proposal(proposal: Proposal, release_target: str) -> ReleaseDocument:
    """Check new targets metadata and return the release that it brings.

    Args:
        proposal: what is to come into force.
        release_target: name of the release document that the operator means.

    Raises:
        TargetChangedError: step 1.
        InvalidTargetError: steps 2 to 4.
        MissingArtifactError: step 2.
        HardwareMismatchError: steps 3 or 6.
        InvalidReleaseError: steps 5 or 6.
        ReleaseCounterError: step 5.
    """
    _check_unchanged(proposal)
    for name, target in sorted(proposal.added.items()):
        _check_target(name, target, proposal)
    document = _release_document(proposal, release_target)
    _check_one_slot_each(document)
    for slot, image in document.images.items():
        _check_release_image(slot, image, proposal.proposed, factory=document.factory)
    return document


def target_sha256(target: TargetFile) -> str:
    """Return the SHA-256 of a target, hex.

    Raises:
        InvalidTargetError: it has none, or other hashes beside it: the Director repeats exactly this one.
    """
    if list(target.hashes) != ["sha256"]:
        raise InvalidTargetError(f"target {target.path}: expected a SHA-256 alone, found {sorted(target.hashes)}")
    return target.hashes["sha256"]


def _check_unchanged(proposal: Proposal) -> None:
    # Step 1: existing targets.
    for name, target in proposal.current.items():
        found = proposal.proposed.get(name)
        if found != target:
            what = "none" if found is None else "another content"
            raise TargetChangedError(f"target {name}: expected it as it is in force, found {what}")


def _check_target(name: str, target: TargetFile, proposal: Proposal) -> None:
    # Step 2: name and bytes.
    if not _TARGET_NAME.match(name):
        raise InvalidTargetError(f"target {name[:80]!r}: expected images/, golden/ or releases/ and a name")
    digest = target_sha256(target)
    artifact = proposal.artifacts.get(digest)
    if artifact is None:
        raise MissingArtifactError(
            f"target {name}: expected its bytes in the service, found no artifact {digest[:12]}…"
        )
    if artifact.length != target.length:
        raise InvalidTargetError(f"target {name}: expected {artifact.length} bytes, found {target.length}")
    if name.startswith("images/"):
        _check_image(target, artifact, proposal.proposed)
    elif name.startswith("golden/"):
        _check_golden(target, artifact)
    else:
        _check_kind(name, artifact, ArtifactKind.RELEASE)


def _check_image(target: TargetFile, artifact: Artifact, proposed: Mapping[str, TargetFile]) -> None:
    # Step 3: custom metadata.
    _check_kind(target.path, artifact, ArtifactKind.IMAGE)
    custom, info = image_custom(target), artifact.image
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
    _check_model(target, custom, proposed)


def _check_model(target: TargetFile, custom: ImageCustom, proposed: Mapping[str, TargetFile]) -> None:
    # Step 4: golden vectors.
    if custom.slot_kind is not ImageKind.MODEL:
        return
    if custom.golden is None or custom.golden not in proposed:
        raise InvalidTargetError(
            f"target {target.path}: expected golden vectors that are listed, found {custom.golden}"
        )
    if custom.golden.split("/")[1] != custom.component_id:
        raise InvalidTargetError(
            f"target {target.path}: expected golden vectors of component {custom.component_id}, found {custom.golden}"
        )


def _check_golden(target: TargetFile, artifact: Artifact) -> None:
    _check_kind(target.path, artifact, ArtifactKind.GOLDEN)
    expected = golden_target_name(artifact.component_id or "", artifact.sha256)
    if target.path != expected:
        raise InvalidTargetError(f"target {target.path}: expected the name {expected}, found another")


def _check_kind(name: str, artifact: Artifact, expected: ArtifactKind) -> None:
    if artifact.kind is not expected:
        raise InvalidTargetError(f"target {name}: expected bytes of a {expected}, found a {artifact.kind}")


def _release_document(proposal: Proposal, release_target: str) -> ReleaseDocument:
    # Step 5: release document.
    added = sorted(name for name in proposal.added if name.startswith("releases/"))
    if added != [release_target]:
        raise InvalidReleaseError(f"release: expected exactly the new target {release_target}, found {added}")
    document = proposal.artifacts[target_sha256(proposal.proposed[release_target])].document
    if document is None or release_target_name(document.counter, document.name) != release_target:
        raise InvalidReleaseError(f"release: expected a document of the name {release_target}, found another")
    if document.counter <= proposal.highest_counter:
        raise ReleaseCounterError(
            f"release counter: expected above {proposal.highest_counter}, found {document.counter}"
        )
    return document


def _check_one_slot_each(document: ReleaseDocument) -> None:
    # Step 6: images. A Director target names one slot, so an image of a rollout is for one.
    targets = [image.target for image in document.images.values()]
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice and not document.factory:
        raise InvalidReleaseError(f"release: expected each image in one slot, found {twice[0]} in several")


def _check_release_image(slot: Slot, image: ReleaseImage, targets: Mapping[str, TargetFile], *, factory: bool) -> None:
    # Step 6: images.
    target = targets.get(image.target)
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
