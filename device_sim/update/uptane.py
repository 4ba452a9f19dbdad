"""Full verification of an update on the Primary (Uptane standard 5.4.4).

The steps, in this order:

    1. time: the device's clock, set by signed time (device_sim/network/attestation.py), judges every expiry;
    2. Director: root, timestamp, snapshot and targets (python-tuf's client workflow, TUF specification 5.3 to 5.6);
    3. the Director's targets name this device, also when they list nothing, and delegate to nobody;
    4. each ECU identifier (slot) appears at most once; no target ends the check here;
    5. Image repository: root, timestamp, snapshot and targets;
    6. the release document is the Image repository's: length, hash, form;
    7. both agree on every target, and no counter falls (protocol/updates.py, `check_agreement`);
    8. golden vectors, for a model: length and hash by the Image repository, signature by a golden key of the voucher,
       the image's component.
The image's own bytes are checked by device_sim/update/download.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets

from device_sim.network.ports import EndlessDataError, HttpTransport
from device_sim.network.problems import unexpected
from device_sim.update.errors import (
    DisagreementError,
    EndlessTargetError,
    GoldenVectorsRefusedError,
    TargetMissingError,
    TargetRefusedError,
    WrongDeviceError,
)
from device_sim.update.repository import MetadataFetcher, MetadataStore, Repository, Storage
from protocol.document import MAX_DOCUMENT_BYTES, parse_document, verify_document
from protocol.errors import ProtocolError
from protocol.geometry import ImageKind, Slot
from protocol.identity import DeviceId
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVectors
from protocol.updates import (
    DEVICE_FIELD,
    MAX_RELEASE_BYTES,
    DirectorDevice,
    ImageCustom,
    ReleaseDocument,
    check_agreement,
    director_custom,
)
from protocol.voucher import Voucher, public_keys

DIRECTOR_PATH = "/device/v1/uptane/director/"
IMAGE_PATH = "/device/v1/uptane/image/"
ARTIFACT_PATH = "/device/v1/artifacts/"
OK, NOT_FOUND = 200, 404


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
    """

    slot: Slot
    name: str
    sha256: str
    length: int
    custom: ImageCustom
    release: ReleaseDocument
    golden: GoldenVectors | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the Director wants of this device, fully verified.

    Attributes:
        action_id: of the rollout's action, or None.
        targets: one per slot, in the order in which they are installed; the A7 application comes last.
    """

    action_id: str | None
    targets: tuple[ImageTarget, ...]


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
        self._director = MetadataStore(storage, "uptane/director", anchor=voucher.director_root)
        self._images = MetadataStore(storage, "uptane/image", anchor=voucher.image_root)
        self._golden_keys = public_keys(voucher.golden_keys)

    def timestamp_keys(self) -> Sequence[ec.EllipticCurvePublicKey]:
        """Return the Director's timestamp keys by the newest root that was verified."""
        return self._director.timestamp_keys()

    def check(self, transport: HttpTransport, now: datetime, *, floors: Floors) -> Instruction:
        """Run the verification of the module's docstring.

        Args:
            transport: with the operational certificate.
            now: the device's time, UTC and aware.
            floors: what must not fall.

        Raises:
            NetworkError: the service was not reached; nothing is wrong with the update yet.
            UpdateError: a step refused.
        """
        fetcher = MetadataFetcher(transport)
        # Step 2: Director.
        director = Repository(self._director, DIRECTOR_PATH, fetcher=fetcher, now=now).check(self._check_device)
        device = _named_device(director)
        wanted = _by_slot(director.targets)
        if not wanted:
            return Instruction(device.action_id, ())
        # Step 5: Image repository.
        images = Repository(self._images, IMAGE_PATH, fetcher=fetcher, now=now)
        images.check(_accept_any)
        check = _TargetCheck(transport, images, floors, self._golden_keys)
        targets = [check.verify(target) for _, target in sorted(wanted.items(), key=_install_order)]
        return Instruction(device.action_id, tuple(targets))

    def _check_device(self, director: Targets) -> None:
        # Step 3: this device, no delegations.
        device = _named_device(director)
        if device.device_id != self._device_id:
            raise WrongDeviceError(
                f"Director targets: expected device {self._device_id[:16]}, found {device.device_id[:16]}"
            )
        if director.delegations is not None:
            raise WrongDeviceError("Director targets: expected no delegations, found some")


def _named_device(director: Targets) -> DirectorDevice:
    try:
        return DirectorDevice.model_validate_json(json.dumps(director.unrecognized_fields.get(DEVICE_FIELD)))
    except ValidationError as error:
        raise WrongDeviceError("Director targets: expected the device that they are for, found none") from error


def _accept_any(_targets: Targets) -> None:
    """The Image repository's targets are for every device."""


def _by_slot(targets: Mapping[str, TargetFile]) -> dict[Slot, TargetFile]:
    # Step 4: each slot at most once.
    wanted: dict[Slot, TargetFile] = {}
    for target in targets.values():
        try:
            slot = director_custom(target).slot
        except ProtocolError as error:
            raise DisagreementError(str(error)) from error
        if slot in wanted:
            raise WrongDeviceError(f"Director targets: expected slot {slot} once, found it twice")
        wanted[slot] = target
    return wanted


def _install_order(item: tuple[Slot, TargetFile]) -> tuple[bool, str]:
    slot = item[0]
    return slot.kind is ImageKind.APPLICATION, slot.value


@dataclass(frozen=True, slots=True)
class _TargetCheck:
    transport: HttpTransport
    images: Repository
    floors: Floors
    golden_keys: Sequence[ec.EllipticCurvePublicKey]

    def verify(self, director: TargetFile) -> ImageTarget:
        release = self._release(director_custom(director).release)
        # Step 7: agreement.
        slot = director_custom(director).slot
        try:
            wanted, offered = check_agreement(
                director,
                self.images.find(director.path),
                release,
                security_floor=self.floors.security(slot),
                release_floor=self.floors.release(slot),
            )
        except ProtocolError as error:
            raise DisagreementError(str(error)) from error
        return ImageTarget(
            slot=wanted.slot,
            name=director.path,
            sha256=director.hashes["sha256"],
            length=director.length,
            custom=offered,
            release=release,
            golden=self._golden(offered),
        )

    def _release(self, name: str) -> ReleaseDocument:
        # Step 6: release document.
        document = self._fetch(name, MAX_RELEASE_BYTES)
        try:
            return parse_document(document, ReleaseDocument, max_bytes=MAX_RELEASE_BYTES)
        except ProtocolError as error:
            raise TargetRefusedError(f"{name}: {error}") from error

    def _golden(self, image: ImageCustom) -> GoldenVectors | None:
        # Step 8: golden vectors.
        if image.slot_kind is not ImageKind.MODEL:
            return None
        if image.golden is None:
            raise GoldenVectorsRefusedError(f"{image.name}: expected golden vectors for a model, found none")
        envelope = self._fetch(image.golden, MAX_DOCUMENT_BYTES)
        try:
            vectors = verify_document(envelope, GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=self.golden_keys)
        except ProtocolError as error:
            raise GoldenVectorsRefusedError(str(error)) from error
        if vectors.component_id != image.component_id:
            raise GoldenVectorsRefusedError(
                f"golden vectors: expected component {image.component_id}, found {vectors.component_id}"
            )
        return vectors

    def _fetch(self, name: str, max_bytes: int) -> bytes:
        target = self.images.find(name)
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
