"""Update metadata: what Director and Image repository say of a target, and that they agree.

Both are TUF repositories (python-tuf). The Image repository lists every image, golden-vector document, release document
and what is said of them, signed offline. The Director signs, for one device, which images it runs, in which slot, and
whether it installs them or waits with them (`Order`).

Target names, where a delegation may stand for a part of them:
    images/{slot}/{image id}.img             an image package; the slot is one of `Slot`, such as m4-1/model
    golden/{component id}/{sha256}.json      golden vectors
    releases/{counter}-{name}.json           a release document
    documents/{kind}/{sha256}.json           a bill of materials, provenance or exploitability document
    deltas/{from sha256}/{to sha256}.delta   a patch from one image package to another; the service's online role
Files are fetched by content: `/artifacts/{sha256}`.

Agreement of a Director target with the Image repository (Uptane standard 5.4.4.6), checked by `check_agreement`:
    1. the target exists in the Image repository under the same name;
    2. same length and SHA-256;
    3. the Image repository's hardware id and kind are those of the slot, and so is the name where it has one, with the
       image's id: a team that may name images of one slot cannot bring them into another;
    4. the security counter is the same in both and not below the device's fuses;
    5. the release document names this image for this slot, and its counter is not below the last one;
    6. an image that is older than the one it replaces comes only by a release that goes back from that one;
    7. what the slot holds is not older than the image of a release that devices must pass through before this one.
"""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator
from tuf.api.metadata import TargetFile

from protocol.document import Document, DocumentT, Moment
from protocol.errors import MalformedError, ProtocolError
from protocol.geometry import ImageKind, Slot
from protocol.model import Guid, Sha256Hex
from protocol.shadow import ShadowTask
from protocol.versions import Build, Requirements, is_older

DEVICE_FIELD = "tinyfleet"  # field of the Director's targets.signed that names the device, even with no target
MAX_RELEASE_BYTES = 16 * 1024
MAX_ROOT_BYTES = 64 * 1024  # of one root.json that a device reads
MAX_TARGETS_BYTES = 4096 * 1024  # of one file of targets that a device reads, top-level or delegated
MAX_IMAGE_NAME_CHARACTERS = 128
_IMAGE_TARGET = re.compile(rf"images/({'|'.join(map(re.escape, Slot))})/[0-9a-f-]{{36}}\.img\Z")


class UpdateMetadataError(MalformedError):
    """Custom metadata is missing or not of the expected form."""


class DirectorMismatchError(ProtocolError):
    """Director and Image repository do not agree."""


class ReleaseMismatchError(DirectorMismatchError):
    """The Director pairs an image with a release that does not name it."""


class WrongHardwareError(ProtocolError):
    """The image is for other hardware or another slot."""


class RollbackError(ProtocolError):
    """A counter would fall."""


class JumpedReleaseError(ProtocolError):
    """A release that a device must pass through would be jumped over."""


ReleaseName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class DocumentKind(StrEnum):
    """What a document says of an image or a release."""

    BOM = "bom"  # CycloneDX bill of materials of one image, with a model card where it is a model
    PROVENANCE = "provenance"  # in-toto statement with SLSA provenance of a release's images, in a DSSE envelope
    VEX = "vex"  # CycloneDX exploitability statements about a release's components


class DocumentCustom(Document):
    """Custom metadata of a document target.

    Attributes:
        kind: what it is.
        subject: image id of the image, or name of the release, that it speaks of.
    """

    kind: DocumentKind
    subject: Annotated[str, Field(min_length=1, max_length=64)]


class ImageCustom(Document):
    """Custom metadata of an image target in the Image repository."""

    slot_kind: ImageKind
    hardware_ids: Annotated[tuple[str, ...], Field(min_length=1)]
    component_id: Guid
    image_id: Guid
    name: Annotated[str, Field(max_length=MAX_IMAGE_NAME_CHARACTERS)]  # name@version
    security_counter: Annotated[int, Field(ge=0)]
    golden: str | None = None  # target name of the golden vectors that a model must pass
    bom: str | None = None  # target name of the bill of materials
    built_at: Moment | None = None
    requires: Requirements = Field(default_factory=dict)

    def build(self, sha256: str) -> Build:
        """Return the build that a target with this custom metadata is; `sha256` is the target's."""
        return Build(sha256, self.component_id, self.name, self.built_at, self.requires)


class DirectorCustom(Document):
    """Custom metadata of a target in the Director repository: the slot is the ECU identifier."""

    slot: Slot
    hardware_id: str
    security_counter: Annotated[int, Field(ge=0)]
    release: str  # target name of the release document


class Order(StrEnum):
    """What a device is to do with the images that its Director lists."""

    INSTALL = "install"
    DOWNLOAD = "download"  # fetch and verify, report, and wait for another order
    SHADOW = "shadow"  # run the model unheard beside the one that it is to replace, report, and wait


class DirectorDevice(Document):
    """Which device a Director's targets metadata is for, the action and attempt it belongs to, and what is to be done.

    Attributes:
        order: what the device does with the images.
        shadow: how long it compares; beside the order to shadow alone.
    """

    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    action_id: str | None = None
    attempt: Annotated[int, Field(ge=1)] = 1
    order: Order = Order.INSTALL
    shadow: ShadowTask | None = None

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        if (self.order is Order.SHADOW) != (self.shadow is not None):
            raise ValueError("shadow: expected a task beside the order to shadow, and beside no other")
        return self


class ReleaseImage(Document):
    """One image of a release."""

    target: str
    sha256: Sha256Hex
    length: Annotated[int, Field(gt=0)]


class MustPass(Document):
    """The image of an earlier release that a device must have confirmed in a slot, or a newer one of its component.

    Attributes:
        release: its name.
        name: of the image, `name@version`.
    """

    release: ReleaseName
    sha256: Sha256Hex
    component_id: Guid
    name: Annotated[str, Field(max_length=MAX_IMAGE_NAME_CHARACTERS)]
    built_at: Moment | None = None

    @property
    def build(self) -> Build:
        """The image as builds are compared."""
        return Build(self.sha256, self.component_id, self.name, self.built_at)

    def precedes(self, offered: Build) -> bool:
        """Whether a release that brings an image must name this one: neither the same, nor a way back before it."""
        must = self.build
        return (
            offered.component_id == must.component_id and offered.sha256 != must.sha256 and not is_older(offered, must)
        )


class ReleaseDocument(Document):
    """A named set of images that belong together, at most one per slot; signed as an Image repository target.

    Attributes:
        counter: above that of every release before, whatever the images' own security counters are.
        factory: the images that devices are made with: reference values, never rolled out.
        goes_back: by slot, SHA-256 of the newer images that the release may replace by an older one.
        way_back_of: name of the release that this one undoes; signed together with it.
        support_ends: until when its maker mends it, UTC, aware.
        must_pass: devices must pass through it: later releases name it in `after`.
        after: by slot, what a device must have passed through before it takes this release.
        documents: target names of what is said of the release as a whole, by kind.
    """

    name: ReleaseName
    counter: Annotated[int, Field(ge=1)]
    images: Annotated[Mapping[Slot, ReleaseImage], Field(min_length=1)]
    factory: bool = False
    goes_back: Mapping[Slot, tuple[Sha256Hex, ...]] = Field(default_factory=dict)
    way_back_of: ReleaseName | None = None
    support_ends: Moment | None = None
    must_pass: bool = False
    after: Mapping[Slot, MustPass] = Field(default_factory=dict)
    documents: Mapping[DocumentKind, str] = Field(default_factory=dict)


def image_target_name(slot: Slot, image_id: str) -> str:
    """Return the target name of an image package for a slot."""
    return f"images/{slot}/{image_id}.img"


def slot_of_image_target(name: str) -> Slot | None:
    """Return the slot in an image target's name; None for another name, or one from before names had slots."""
    found = _IMAGE_TARGET.match(name)
    return None if found is None else Slot(found[1])


def golden_target_name(component_id: str, sha256: str) -> str:
    """Return the target name of a golden-vector document."""
    return f"golden/{component_id}/{sha256}.json"


def release_target_name(counter: int, name: str) -> str:
    """Return the target name of a release document."""
    return f"releases/{counter}-{name}.json"


def document_target_name(kind: DocumentKind, sha256: str) -> str:
    """Return the target name of a document."""
    return f"documents/{kind}/{sha256}.json"


def delta_target_name(from_sha256: str, to_sha256: str) -> str:
    """Return the target name of the patch between two image packages."""
    return f"deltas/{from_sha256}/{to_sha256}.delta"


def image_custom(target: TargetFile) -> ImageCustom:
    """Return the custom metadata of an image target.

    Raises:
        UpdateMetadataError: it is missing or malformed.
    """
    return _custom(target, ImageCustom)


def director_custom(target: TargetFile) -> DirectorCustom:
    """Return the custom metadata of a Director target.

    Raises:
        UpdateMetadataError: it is missing or malformed.
    """
    return _custom(target, DirectorCustom)


def document_custom(target: TargetFile) -> DocumentCustom:
    """Return the custom metadata of a document target.

    Raises:
        UpdateMetadataError: it is missing or malformed.
    """
    return _custom(target, DocumentCustom)


def _custom(target: TargetFile, custom_type: type[DocumentT]) -> DocumentT:
    try:
        return custom_type.model_validate_json(json.dumps(target.custom))
    except ValidationError as error:
        raise UpdateMetadataError(
            f"target {target.path}: expected {custom_type.__name__}, found {error.error_count()} wrong fields"
        ) from error


def check_agreement(
    director: TargetFile,
    image: TargetFile | None,
    release: ReleaseDocument,
    *,
    security_floor: int,
    release_floor: int,
    installed: Build | None = None,
) -> tuple[DirectorCustom, ImageCustom]:
    """Check that both repositories agree on one target, and that no counter falls.

    Args:
        director: the target in the Director's targets metadata.
        image: the target of the same name in the Image repository, or None.
        release: the release document that the Director's target names, fetched through the Image repository.
        security_floor: the device's fuse value for the slot.
        release_floor: counter of the last release that the device confirmed in the slot.
        installed: what the slot holds, or None.

    Raises:
        UpdateMetadataError: custom metadata is malformed.
        DirectorMismatchError: steps 1, 2, the image in the name of 3, or disagreement in 4.
        ReleaseMismatchError: disagreement in 5.
        WrongHardwareError: step 3.
        RollbackError: a counter of step 4 or 5 is below its floor, or step 6.
        JumpedReleaseError: step 7.
    """
    # Step 1: existence.
    if image is None:
        raise DirectorMismatchError(f"target {director.path}: expected it in the Image repository, found nothing")
    # Step 2: length and hash.
    if (director.length, director.hashes) != (image.length, image.hashes):
        raise DirectorMismatchError(f"target {director.path}: expected equal length and hashes, found others")
    wanted, offered = director_custom(director), image_custom(image)
    _check_hardware(wanted, offered)
    _check_name(director.path, wanted.slot, offered.image_id)
    _check_security_counter(wanted, offered, security_floor)
    _check_release(director, wanted.slot, release, release_floor)
    if installed is not None:
        check_going_back(offered.build(image.hashes["sha256"]), installed, wanted.slot, release)
        check_passed(installed, wanted.slot, release.after, by=release.name)
    return wanted, offered


def check_going_back(offered: Build, installed: Build, slot: Slot, release: ReleaseDocument) -> None:
    """Check that a release which puts an older image in a newer one's place says so.

    Args:
        offered: what the release brings.
        installed: what the slot holds.
        slot: where.
        release: the release document, verified.

    Raises:
        RollbackError: step 6 of the module's docstring.
    """
    # Step 6: going back.
    if is_older(offered, installed) and installed.sha256 not in release.goes_back.get(slot, ()):
        raise RollbackError(
            f"slot {slot}: expected nothing older than {installed.name}, or a release that goes back from it, "
            f"found {offered.name}"
        )


def check_passed(installed: Build, slot: Slot, after: Mapping[Slot, MustPass], *, by: str) -> None:
    """Check that a release jumps over none that devices must pass through.

    Args:
        installed: what the slot holds.
        slot: where.
        after: of the release document, verified.
        by: name of the release.

    Raises:
        JumpedReleaseError: step 7 of the module's docstring.
    """
    # Step 7: passing through.
    must = after.get(slot)
    if must is not None and is_older(installed, must.build):
        raise JumpedReleaseError(
            f"slot {slot}: expected release {must.release} with {must.name} confirmed before {by}, "
            f"found {installed.name}"
        )


def _check_name(name: str, slot: Slot, image_id: str) -> None:
    # Step 3: the slot and the image in the name; targets from before names had slots have neither.
    named = slot_of_image_target(name)
    if named not in (None, slot):
        raise WrongHardwareError(f"slot {slot}: expected a target named for it, found {name}")
    if named is not None and name != image_target_name(slot, image_id):
        raise DirectorMismatchError(f"image {image_id}: expected a target named for it, found {name}")


def _check_hardware(wanted: DirectorCustom, offered: ImageCustom) -> None:
    # Step 3: hardware id and kind.
    hardware_id = wanted.slot.core.hardware_id
    if wanted.hardware_id != hardware_id or hardware_id not in offered.hardware_ids:
        raise WrongHardwareError(
            f"slot {wanted.slot}: expected hardware {hardware_id}, "
            f"found {wanted.hardware_id} (Director) and {', '.join(offered.hardware_ids)} (Image repository)"
        )
    if offered.slot_kind != wanted.slot.kind:
        raise WrongHardwareError(f"slot {wanted.slot}: expected a {wanted.slot.kind}, found a {offered.slot_kind}")


def _check_security_counter(wanted: DirectorCustom, offered: ImageCustom, floor: int) -> None:
    # Step 4: security counter.
    if wanted.security_counter != offered.security_counter:
        raise DirectorMismatchError(
            f"security counter: expected {offered.security_counter} (Image repository), "
            f"found {wanted.security_counter} (Director)"
        )
    if offered.security_counter < floor:
        raise RollbackError(f"security counter: expected at least {floor}, found {offered.security_counter}")


def _check_release(director: TargetFile, slot: Slot, release: ReleaseDocument, floor: int) -> None:
    # Step 5: release.
    listed = release.images.get(slot)
    if listed is None or (listed.target, listed.sha256) != (director.path, director.hashes.get("sha256")):
        raise ReleaseMismatchError(f"release {release.name}: expected {director.path} for {slot}, found another")
    if release.counter < floor:
        raise RollbackError(f"release counter: expected at least {floor}, found {release.counter}")
