"""Images and releases of a virtual fleet: names, digests and lengths; there are no bytes.

Both sides read them here: the service as what its operators signed, devices as what they would have verified. Every
digest follows from slot and name alone, so two scenarios that name the same image mean the same.
"""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from tuf.api.metadata import TargetFile

from device_sim.hardware.installed import InstalledImage
from device_sim.update.uptane import ImageTarget as DeviceTarget
from protocol.evidence import SoftwareComponent
from protocol.geometry import ImageKind, Slot
from protocol.model import GoldenVector, GoldenVectors
from protocol.scenario import Scenario
from protocol.scenario.rollouts import USUAL_LATENCY
from protocol.updates import (
    DirectorCustom,
    ImageCustom,
    ReleaseDocument,
    ReleaseImage,
    image_target_name,
    release_target_name,
)
from service.application.update_repositories import ImageTarget
from service.domain.release import Release

FACTORY = "factory"
FACTORY_IMAGE_BYTES = 40 * 1024  # of each image that devices are made with
_NOBODY = bytes(32)  # who signed: nobody
_VERSION_STEP = timedelta(days=1)


@dataclass(frozen=True)
class VirtualImage:
    """An image.

    Attributes:
        name: `component@version`.
        length: of the package, bytes.
        built_at: UTC, aware.
        latency_seconds: of one inference, of a model.
    """

    slot: Slot
    name: str
    length: int
    built_at: datetime
    latency_seconds: float = USUAL_LATENCY.total_seconds()

    @cached_property
    def sha256(self) -> str:
        """Digest of the package, 64 hex digits."""
        return hashlib.sha256(f"virtual {self.slot} {self.name}".encode()).hexdigest()

    @cached_property
    def custom(self) -> ImageCustom:
        """What the Image repository says of it."""
        component, _, _ = self.name.partition("@")
        return ImageCustom(
            slot_kind=self.slot.kind,
            hardware_ids=(self.slot.core.hardware_id,),
            component_id=_guid(f"component {self.slot} {component}"),
            image_id=_guid(f"image {self.sha256}"),
            name=self.name,
            security_counter=1,
            built_at=self.built_at,
        )

    @cached_property
    def path(self) -> str:
        """Its target name."""
        return image_target_name(self.slot, self.custom.image_id)

    @cached_property
    def listed(self) -> ImageTarget:
        """The target as the service lists it."""
        return ImageTarget(self.path, self.sha256, self.length, self.custom, since_version=1)

    @cached_property
    def target(self) -> TargetFile:
        """The target as a device finds it in the Image repository."""
        return _target(self, self.custom.model_dump(mode="json"))

    @cached_property
    def installed(self) -> InstalledImage:
        """The image as a device holds it, confirmed."""
        custom = self.custom
        return InstalledImage(
            self.slot,
            self.sha256,
            self.name,
            custom.security_counter,
            custom.component_id,
            custom.image_id,
            self.built_at,
        )

    @cached_property
    def component(self) -> SoftwareComponent:
        """The image as a boot measures it."""
        return SoftwareComponent(self.slot.value, bytes.fromhex(self.sha256), _NOBODY, self.name)

    @cached_property
    def golden(self) -> GoldenVectors | None:
        """What a model must answer; None for other images."""
        if self.slot.kind is not ImageKind.MODEL:
            return None
        vector = GoldenVector(name="virtual", input="AA==", expected=(1.0,), tolerance=0.01)
        return GoldenVectors(component_id=self.custom.component_id, vectors=(vector,))


@dataclass(frozen=True)
class VirtualRelease:
    """A release in force.

    Attributes:
        document: as operators would sign it.
        images: by slot.
    """

    document: ReleaseDocument
    images: Mapping[Slot, VirtualImage]
    created_at: datetime

    @property
    def target_name(self) -> str:
        """Of its release document."""
        return release_target_name(self.document.counter, self.document.name)

    @cached_property
    def stored(self) -> Release:
        """The release as the service has it."""
        return Release(
            release_id=_guid(f"release {self.document.counter} {self.document.name}"),
            name=self.document.name,
            counter=self.document.counter,
            target=self.target_name,
            factory=self.document.factory,
            images=self.document.images,
            created_at=self.created_at,
            created_by="scenario",
        )

    @cached_property
    def directed(self) -> Mapping[Slot, TargetFile]:
        """The targets as the Director gives them to a device, by slot."""
        return {
            slot: _target(
                image,
                DirectorCustom(
                    slot=slot,
                    hardware_id=slot.core.hardware_id,
                    security_counter=image.custom.security_counter,
                    release=self.target_name,
                ).model_dump(mode="json"),
            )
            for slot, image in self.images.items()
        }

    @cached_property
    def targets(self) -> tuple[DeviceTarget, ...]:
        """What a device is to install, in the order in which it does; the A7 application comes last."""
        ordered = sorted(self.images, key=lambda slot: (slot.kind is ImageKind.APPLICATION, slot.value))
        return tuple(
            DeviceTarget(
                slot=slot,
                name=self.images[slot].path,
                sha256=self.images[slot].sha256,
                length=self.images[slot].length,
                custom=self.images[slot].custom,
                release=self.document,
                golden=self.images[slot].golden,
            )
            for slot in ordered
        )


@dataclass(frozen=True)
class Catalogue:
    """All images and releases of a scenario.

    Attributes:
        factory: what devices are made with, by slot.
        systems: operating systems of the revisions that name one, by version.
        releases: in the order of the scenario, the factory's first.
    """

    factory: Mapping[Slot, VirtualImage]
    systems: Mapping[str, VirtualImage]
    releases: tuple[VirtualRelease, ...]
    _by_digest: dict[str, VirtualImage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        brought = (image for release in self.releases for image in release.images.values())
        for image in (*self.systems.values(), *brought):
            self._by_digest[image.sha256] = image

    @property
    def images(self) -> tuple[VirtualImage, ...]:
        """Every image, each once."""
        return tuple(self._by_digest.values())

    def image(self, sha256: str) -> VirtualImage:
        """Return an image by its digest."""
        return self._by_digest[sha256]

    @cached_property
    def by_target(self) -> Mapping[str, VirtualRelease]:
        """Releases by the names of their documents."""
        return {release.target_name: release for release in self.releases}


def make_catalogue(scenario: Scenario) -> Catalogue:
    """Make the images and releases that a scenario declares."""
    made_at = scenario.start - _VERSION_STEP
    factory = {slot: VirtualImage(slot, f"{_plain(slot)}@1.0.0", FACTORY_IMAGE_BYTES, made_at) for slot in Slot}
    versions = sorted({revision.os_version for revision in scenario.hardware.values() if revision.os_version})
    systems = {
        version: VirtualImage(Slot.OS, f"{_plain(Slot.OS)}@{version}", FACTORY_IMAGE_BYTES, made_at)
        for version in versions
    }
    releases = [_release(FACTORY, factory, counter=1, at=made_at)]
    for number, declared in enumerate(scenario.releases, start=1):
        built_at = made_at + number * timedelta(minutes=1)
        images = {
            slot: VirtualImage(slot, it.name, it.bytes, built_at, it.latency.total_seconds())
            for slot, it in declared.images.items()
        }
        releases.append(_release(declared.name, images, counter=number + 1, at=scenario.start))
    return Catalogue(factory, systems, tuple(releases))


def _release(name: str, images: Mapping[Slot, VirtualImage], *, counter: int, at: datetime) -> VirtualRelease:
    listed = {
        slot: ReleaseImage(target=image.path, sha256=image.sha256, length=image.length)
        for slot, image in images.items()
    }
    document = ReleaseDocument(name=name, counter=counter, images=listed, factory=name == FACTORY)
    return VirtualRelease(document, images, at)


def _target(image: VirtualImage, custom: dict[str, object]) -> TargetFile:
    return TargetFile(image.length, {"sha256": image.sha256}, image.path, {"custom": custom})


def _plain(slot: Slot) -> str:
    return slot.value.replace("/", "-")


def _guid(text: str) -> str:
    return str(uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4))
