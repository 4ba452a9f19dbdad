"""Full verification of an update on the Primary (Uptane standard 5.4.4).

The steps, in this order:

    1. time: the device's clock, set by signed time (device_sim/network/attestation.py), judges every expiry;
    2. Director: root, timestamp, snapshot and targets (python-tuf's client workflow, TUF specification 5.3 to 5.6);
    3. the Director's targets name this device, also when they list nothing, and delegate to nobody;
    4. each ECU identifier (slot) appears at most once and is one that is updated; no target ends the check here;
    5. Image repository: root, timestamp, snapshot, targets, and delegated roles on the way to a target;
    6. one release document for all targets: the top-level targets list it themselves, by the name that it says of
       itself; length, hash, form;
    7. the release is there whole: a target for each of its slots, and no other;
    8. every image is named as one of its slot, or else the top-level targets list it themselves; both repositories
       agree on it, no counter falls, and what is older comes only by a release that goes back (protocol/updates.py,
       `check_agreement`), also where the slot's image is damaged (device_sim/update/known_builds.py);
    9. what will run together lacks nothing: the release's images and those in the other slots, whose requirements are
       the Image repository's word, too (protocol/versions.py), or what it was when it last was in force;
    10. golden vectors, for a model: the name of the image's component and their digest, length and hash by the Image
        repository, signature by a golden key of the voucher, the image's component;
    11. transparency log, where the Image repository's root asks for it: each image is in it
        (device_sim/update/transparency.py).
The image's own bytes are checked by device_sim/update/download.py.

Files that were never in force together, or one that has another version or is longer than was said, may be an attack,
or a publication between two requests of one check. Then the device looks once more from the start, and refuses what
does not fit the second time, either.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets

from device_sim.hardware.installed import InstalledImage
from device_sim.network.ports import EndlessDataError, HttpTransport, NetworkError
from device_sim.network.problems import unexpected
from device_sim.update.errors import (
    DirectorFormError,
    DisagreementError,
    EndlessMetadataError,
    EndlessTargetError,
    GoldenVectorsRefusedError,
    JumpedReleaseError,
    MetadataExpiredError,
    MetadataMixError,
    MetadataRollbackError,
    MixedReleasesError,
    OlderImageError,
    PartialBundleError,
    RequirementError,
    TargetMissingError,
    TargetRefusedError,
    UpdateError,
    WrongDeviceError,
    WrongHardwareError,
)
from device_sim.update.known_builds import KnownBuilds
from device_sim.update.repository import MAX_DIRECTOR_BYTES, MetadataFetcher, MetadataStore, Repository, Storage
from device_sim.update.transparency import LogGate, required_policy
from protocol import updates
from protocol.document import MAX_DOCUMENT_BYTES, parse_document, verify_document
from protocol.errors import ProtocolError
from protocol.geometry import HOME_BYTES, ImageKind, Slot
from protocol.identity import DeviceId
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVectors
from protocol.shadow import ShadowTask
from protocol.updates import (
    DEVICE_FIELD,
    MAX_RELEASE_BYTES,
    DirectorCustom,
    DirectorDevice,
    ImageCustom,
    Order,
    ReleaseDocument,
    check_agreement,
    delta_target_name,
    director_custom,
    golden_target_name,
    image_custom,
    image_target_name,
    release_target_name,
    slot_of_image_target,
)
from protocol.versions import Build, unmet_requirements
from protocol.voucher import Voucher, public_keys

IMAGE_STORE = "uptane/image"  # name in secure storage
DIRECTOR_PATH = "/device/v1/uptane/director/"
IMAGE_PATH = "/device/v1/uptane/image/"
ARTIFACT_PATH = "/device/v1/artifacts/"
IMAGE_PREFIX = "images/"
OK, NOT_FOUND = 200, 404
_PERHAPS_PUBLISHED = (MetadataMixError, MetadataRollbackError, EndlessMetadataError)
_LEAF_OF: tuple[tuple[type[ProtocolError], type[UpdateError]], ...] = (
    (updates.ReleaseMismatchError, MixedReleasesError),
    (updates.WrongHardwareError, WrongHardwareError),
    (updates.RollbackError, OlderImageError),
    (updates.JumpedReleaseError, JumpedReleaseError),
    (ProtocolError, DisagreementError),
)


@dataclass(frozen=True, slots=True)
class PatchTarget:
    """A patch from the image that a slot holds to one that it is to hold, as the role `deltas` lists it.

    Attributes:
        name: target name.
        sha256: of the patch, 64 hex digits; empty where there is none.
        length: of the patch, bytes.
        refusal: why there is none, where something was wrong.
    """

    name: str
    sha256: str = ""
    length: int = 0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """One image that both repositories agree on.

    Attributes:
        slot: where it goes.
        name: target name.
        sha256: of the package, 64 hex digits.
        length: of the package, bytes.
        custom: what the Image repository says of it.
        release: the release it comes with.
        golden: what a model must answer; None for other images.
        patch: the shorter way to it; None where the slot holds nothing to start from, or no patch is listed.
    """

    slot: Slot
    name: str
    sha256: str
    length: int
    custom: ImageCustom
    release: ReleaseDocument
    golden: GoldenVectors | None
    patch: PatchTarget | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the Director wants of this device, fully verified.

    Attributes:
        action_id: of the rollout's action, or None.
        targets: one per slot, in the order in which they are installed; the A7 application comes last.
        attempt: of the action, from 1.
        order: what is to be done with them.
        shadow: how long a model is compared, beside the order to shadow.
    """

    action_id: str | None
    targets: tuple[ImageTarget, ...]
    attempt: int = 1
    order: Order = Order.INSTALL
    shadow: ShadowTask | None = None


@dataclass(frozen=True, slots=True)
class Floors:
    """What must not fall, per slot.

    Attributes:
        security: the slot's fuse.
        release: counter of the last release that was confirmed in the slot.
    """

    security: Callable[[Slot], int]
    release: Callable[[Slot], int]


class UptaneClient:
    """Verifies what the service wants a device to run.

    Args:
        device_id: whom the Director's metadata must name.
        voucher: roots and keys to start from.
        storage: keeps verified metadata.
    """

    def __init__(self, device_id: DeviceId, voucher: Voucher, storage: Storage) -> None:
        self._device_id = device_id
        self._storage = storage
        self._director = MetadataStore(storage, "uptane/director", anchor=voucher.director_root)
        self._images = MetadataStore(storage, IMAGE_STORE, anchor=voucher.image_root)
        self._golden_keys = public_keys(voucher.golden_keys)

    def timestamp_keys(self) -> Sequence[ec.EllipticCurvePublicKey]:
        """Return the Director's timestamp keys by the newest root that was verified."""
        return self._director.timestamp_keys()

    def check(
        self,
        transport: HttpTransport,
        now: datetime,
        *,
        floors: Floors,
        installed: Mapping[Slot, InstalledImage],
    ) -> Instruction:
        """Run the verification of the module's docstring.

        Args:
            transport: with the operational certificate.
            now: the device's time, UTC and aware.
            floors: what must not fall.
            installed: what the slots hold, confirmed.

        Raises:
            NetworkError: the service was not reached; nothing is wrong with the update yet.
            UpdateError: a step refused.
        """
        try:
            return self._check_once(transport, now, floors=floors, installed=installed)
        except _PERHAPS_PUBLISHED:
            return self._check_once(transport, now, floors=floors, installed=installed)

    def _check_once(
        self, transport: HttpTransport, now: datetime, *, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> Instruction:
        # Step 2: Director.
        fetcher = MetadataFetcher(transport, max_bytes=MAX_DIRECTOR_BYTES)
        repository = Repository(self._director, DIRECTOR_PATH, fetcher=fetcher, now=now)
        director = repository.check(self._check_device, partly=False)
        device = _named_device(director)
        wanted = _by_slot(director.targets)
        if not wanted:
            return Instruction(device.action_id, ())
        # Step 5: Image repository.
        images = Repository(self._images, IMAGE_PATH, fetcher=MetadataFetcher(transport), now=now)
        images.check(_accept_any)
        log = LogGate(self._storage, transport, required_policy(images.root))
        known = KnownBuilds(self._storage, floors.release)
        check = _ReleaseCheck(transport, images, floors, installed, known, self._golden_keys, log)
        return Instruction(device.action_id, check.verify(wanted), device.attempt, device.order, device.shadow)

    def _check_device(self, director: Targets) -> None:
        # Step 3: this device, no delegations.
        device = _named_device(director)
        if device.device_id != self._device_id:
            raise WrongDeviceError(
                f"Director targets: expected device {self._device_id[:16]}, found {device.device_id[:16]}"
            )
        if director.delegations is not None:
            raise DirectorFormError("Director targets: expected no delegations, found some")


def _named_device(director: Targets) -> DirectorDevice:
    try:
        return DirectorDevice.model_validate_json(json.dumps(director.unrecognized_fields.get(DEVICE_FIELD)))
    except ValidationError as error:
        raise WrongDeviceError("Director targets: expected the device that they are for, found none") from error


def _accept_any(_targets: Targets) -> None:
    """The Image repository's targets are for every device."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    target: TargetFile
    custom: DirectorCustom


def _by_slot(targets: Mapping[str, TargetFile]) -> dict[Slot, _Wanted]:
    # Step 4: each slot at most once, and one that is updated.
    wanted: dict[Slot, _Wanted] = {}
    for target in targets.values():
        try:
            custom = director_custom(target)
        except ProtocolError as error:
            raise DisagreementError(str(error)) from error
        if custom.slot in wanted:
            raise DirectorFormError(f"Director targets: expected slot {custom.slot} once, found it twice")
        if custom.slot not in HOME_BYTES:
            raise WrongHardwareError(f"Director targets: expected a slot that is updated, found {custom.slot}")
        wanted[custom.slot] = _Wanted(target, custom)
    return wanted


def _install_order(target: ImageTarget) -> tuple[bool, str]:
    return target.slot.kind is ImageKind.APPLICATION, target.slot.value


def _leaf_of(error: ProtocolError) -> UpdateError:
    leaf = next(leaf for rule, leaf in _LEAF_OF if isinstance(error, rule))
    return leaf(str(error))


@dataclass(frozen=True, slots=True)
class _ReleaseCheck:
    transport: HttpTransport
    images: Repository
    floors: Floors
    installed: Mapping[Slot, InstalledImage]
    known: KnownBuilds
    golden_keys: Sequence[ec.EllipticCurvePublicKey]
    log: LogGate

    def verify(self, wanted: Mapping[Slot, _Wanted]) -> tuple[ImageTarget, ...]:
        """Run steps 6 to 11 on what the Director wants; at least one target."""
        release = self._release({each.custom.release for each in wanted.values()})
        # Step 7: the release whole.
        missing, foreign = release.images.keys() - wanted.keys(), wanted.keys() - release.images.keys()
        if foreign:
            raise MixedReleasesError(f"release {release.name}: expected no image for {_texts(foreign)}, found some")
        if missing:
            raise PartialBundleError(f"release {release.name}: expected an image for {_texts(missing)}, found none")
        agreed = {slot: self._agreed(slot, each.target, release) for slot, each in wanted.items()}
        offered = {slot: agreed[slot].build(wanted[slot].target.hashes["sha256"]) for slot in agreed}
        held = {
            slot: image.build if slot in offered else self._required(image) for slot, image in self.installed.items()
        }
        # Step 9: requirements.
        if unmet := [*unmet_requirements({**held, **offered})]:
            raise RequirementError("; ".join(unmet))
        targets = [self._image(slot, wanted[slot].target, agreed[slot], release) for slot in wanted]
        self.known.note(held, offered, counter=release.counter)
        return tuple(sorted(targets, key=_install_order))

    def _release(self, names: set[str]) -> ReleaseDocument:
        # Step 6: release document.
        name, *others = sorted(names)
        if others:
            raise MixedReleasesError(f"Director targets: expected one release, found {', '.join(sorted(names))}")
        document = self._fetch(name, self.images.find_top_level(name), MAX_RELEASE_BYTES)
        try:
            release = parse_document(document, ReleaseDocument, max_bytes=MAX_RELEASE_BYTES)
        except ProtocolError as error:
            raise TargetRefusedError(f"{name}: {error}") from error
        said = release_target_name(release.counter, release.name)
        if said != name:
            raise DisagreementError(f"release document {said}: expected it under its own name, found {name}")
        return release

    def _agreed(self, slot: Slot, director: TargetFile, release: ReleaseDocument) -> ImageCustom:
        # Step 8: agreement.
        held = self.installed.get(slot)
        try:
            _, offered = check_agreement(
                director,
                self._listed_image(director.path),
                release,
                security_floor=self.floors.security(slot),
                release_floor=self.floors.release(slot),
                installed=self.known.confirmed(slot) if held is None else held.build,
            )
        except ProtocolError as error:
            raise _leaf_of(error) from error
        return offered

    def _listed_image(self, name: str) -> TargetFile | None:
        """Return an image's description; delegated roles list images by names that say the slot, and no others."""
        if not name.startswith(IMAGE_PREFIX):
            raise DisagreementError(f"target {name[:80]}: expected an image's name, found another")
        return self.images.find_top_level(name) if slot_of_image_target(name) is None else self.images.find(name)

    def _required(self, image: InstalledImage) -> Build:
        """Return what runs in a slot, with what it requires by the Image repository, now or when it last was known."""
        try:
            return self._required_now(image)
        except (UpdateError, NetworkError) as error:
            # Whose role has expired or is away must not hold up the updates of everybody else.
            requires = self.known.requires(image.digest)
            if requires is not None:
                return replace(image.build, requires=requires)
            if isinstance(error, NetworkError | MetadataMixError):
                raise
            found = "that the role which lists it has expired: " if isinstance(error, MetadataExpiredError) else ""
            raise RequirementError(
                f"{image.slot}, {image.name}: expected what it requires, found {found}{error}"
            ) from error

    def _required_now(self, image: InstalledImage) -> Build:
        target = self.images.find(image_target_name(image.slot, image.image_id))
        if target is None or target.hashes.get("sha256") != image.digest:
            return image.build  # listed no more, or flashed over a cable
        try:
            return replace(image.build, requires=image_custom(target).requires)
        except ProtocolError as error:
            raise DisagreementError(str(error)) from error

    def _image(self, slot: Slot, director: TargetFile, offered: ImageCustom, release: ReleaseDocument) -> ImageTarget:
        # Step 11: transparency log.
        self.log.require(director.path, offered, sha256=director.hashes["sha256"], length=director.length)
        return ImageTarget(
            slot=slot,
            name=director.path,
            sha256=director.hashes["sha256"],
            length=director.length,
            custom=offered,
            release=release,
            golden=self._golden(offered),
            patch=self._patch(slot, director.hashes["sha256"]),
        )

    def _patch(self, slot: Slot, sha256: str) -> PatchTarget | None:
        """Look for a patch; whatever is wrong with the role that lists it, the full image is there."""
        held = self.installed.get(slot)
        if held is None or held.digest == sha256:
            return None
        name = delta_target_name(held.digest, sha256)
        try:
            target = self.images.find(name)
        except (UpdateError, NetworkError) as error:
            return PatchTarget(name, refusal=str(error))
        return None if target is None else PatchTarget(name, target.hashes.get("sha256", ""), target.length)

    def _golden(self, image: ImageCustom) -> GoldenVectors | None:
        # Step 10: golden vectors.
        if image.slot_kind is not ImageKind.MODEL:
            return None
        if image.golden is None:
            raise GoldenVectorsRefusedError(f"{image.name}: expected golden vectors for a model, found none")
        target = self.images.find(image.golden)
        if target is not None and image.golden != golden_target_name(
            image.component_id, target.hashes.get("sha256", "")
        ):
            raise GoldenVectorsRefusedError(
                f"{image.name}: expected golden vectors named by component and digest, found {image.golden[:120]}"
            )
        envelope = self._fetch(image.golden, target, MAX_DOCUMENT_BYTES)
        try:
            vectors = verify_document(envelope, GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=self.golden_keys)
        except ProtocolError as error:
            raise GoldenVectorsRefusedError(str(error)) from error
        if vectors.component_id != image.component_id:
            raise GoldenVectorsRefusedError(
                f"golden vectors: expected component {image.component_id}, found {vectors.component_id}"
            )
        return vectors

    def _fetch(self, name: str, target: TargetFile | None, max_bytes: int) -> bytes:
        if target is None or "sha256" not in target.hashes:
            raise DisagreementError(f"target {name}: expected it in the Image repository, found nothing")
        if target.length > max_bytes:
            raise TargetRefusedError(f"target {name}: expected at most {max_bytes} bytes, found {target.length}")
        data = fetch_artifact(self.transport, target.hashes["sha256"], target.length)
        try:
            target.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as error:
            raise TargetRefusedError(f"target {name}: {error}") from error
        return data


def _texts(slots: Collection[Slot]) -> str:
    return ", ".join(sorted(slots))


def fetch_artifact(transport: HttpTransport, sha256: str, length: int) -> bytes:
    """Fetch a small target whole; its hash is the caller's to check.

    Raises:
        NetworkError: the service was not reached.
        TargetMissingError, EndlessTargetError: it did not send the target.
    """
    try:
        response = transport.request("GET", ARTIFACT_PATH + sha256, max_bytes=max(length, MAX_RELEASE_BYTES))
    except EndlessDataError as error:
        raise EndlessTargetError(str(error)) from error
    if response.status == NOT_FOUND:
        raise TargetMissingError(f"artifact {sha256[:16]}: expected it, found nothing")
    if response.status != OK:
        raise unexpected(f"artifact {sha256[:16]}", response, expected=OK)
    return response.body
