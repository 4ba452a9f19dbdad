"""Releases, and the artifacts that they are made of; what is required of new ones is in `release_checks`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from tuf.api.metadata import TargetFile

from protocol.geometry import Slot
from protocol.image import ImageInfo
from protocol.model import ModelFacts
from protocol.updates import MustPass, ReleaseDocument, ReleaseImage
from service.domain.errors import ConflictError, InvalidError, NotFoundError


class TargetChangedError(ConflictError):
    """A target that is in force would change or vanish."""


class InvalidTargetError(InvalidError):
    """A target's name, custom metadata or bytes do not say the same."""


class ImageListedError(ConflictError):
    """An image with this id is in force for another slot: the Director names an image, and it is for one slot."""


class MissingArtifactError(ConflictError):
    """A target's bytes are not here."""


class InvalidReleaseError(InvalidError):
    """The release document does not belong to its target, or names what is not listed."""


class ReleaseCounterError(ConflictError):
    """The release counter does not rise."""


class WayBackError(InvalidError):
    """The release would put an older image in a newer one's place and does not say so, or is no way back."""


class MustPassError(InvalidError):
    """The release does not say which earlier one devices must pass through before it."""


class UnmetRequirementError(InvalidError):
    """Images of one release cannot run together."""


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
        model: what the card says; None unless an image of a model.
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
    model: ModelFacts | None = None
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
        goes_back: by slot, SHA-256 of the newer images that it may replace by an older one.
        way_back_of: name of the release that this one undoes.
        support_ends: until when its maker mends it, UTC, aware.
        must_pass: devices must pass through it.
        after: by slot, what a device must have passed through before.
    """

    release_id: str
    name: str
    counter: int
    target: str
    factory: bool
    images: Mapping[Slot, ReleaseImage]
    created_at: datetime
    created_by: str
    goes_back: Mapping[Slot, tuple[str, ...]] = field(default_factory=dict)
    way_back_of: str | None = None
    support_ends: datetime | None = None
    must_pass: bool = False
    after: Mapping[Slot, MustPass] = field(default_factory=dict)

    @property
    def digests(self) -> dict[Slot, str]:
        """SHA-256 of each image by its slot."""
        return {slot: image.sha256 for slot, image in self.images.items()}


def target_sha256(target: TargetFile) -> str:
    """Return the SHA-256 of a target, hex.

    Raises:
        InvalidTargetError: it has none, or other hashes beside it: the Director repeats exactly this one.
    """
    if list(target.hashes) != ["sha256"]:
        raise InvalidTargetError(f"target {target.path}: expected a SHA-256 alone, found {sorted(target.hashes)}")
    return target.hashes["sha256"]
