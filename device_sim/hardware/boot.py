"""The measured boot: each stage verifies the next one's image package and records its SHA-256.

    ROM ─rom key─> boot loader ─> security monitor ─> OS ─voucher key─> voucher
    OS ─package keys of the voucher─> A7 application ─> M4 firmware (both) ─> M4 models

Verification of each image, in this order:
    1. presence: only a model may be missing; its core then idles. On a device that comes from another catalog every
       image of the catalog may be, until the catalog has brought them (`hardware.ownership`), and so may they on one
       with the AppDevelopment capability, whose developer removes images over the cable;
    2. package: form, signature and kind (`protocol.image.verify_package`), by the maker's ROM key for the system and
       by the catalog's package keys for everything else;
    3. security version: not below the slot's fuse.
On a device with the AppDevelopment capability step 2 also takes what Azure Sphere's public development key signed, for
applications, firmware and models that lie in their home slots: they came over the cable. Such an image burns no fuse,
or everybody could make a device refuse its owner's images for ever.

An image that fails stops the boot: the device runs nothing. Only a model's failure stops no more than its core, so
that the application can replace it. Without a voucher in force the boot ends with the OS: nothing of any catalog runs.
A validly signed image that nobody listed boots; attestation refuses it, not the device.
Deliberately not checked here: whether the image is for this core. Firmware and application share an image type;
Uptane's hardware ids and the reference values tell them apart, and a core refuses another core's model card.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from device_sim.errors import BootStoppedError, DeviceFolderError, DeviceSimError
from device_sim.hardware.files import read_file
from device_sim.hardware.ownership import Settlement
from device_sim.hardware.root_of_trust import RootOfTrust
from protocol.document import Document, DocumentError, parse_document
from protocol.errors import ProtocolError
from protocol.evidence import SoftwareComponent
from protocol.geometry import SYSTEM_SLOTS, Core, ImageKind, Slot
from protocol.image import DEVELOPMENT_KEY, VerifiedImage, key_id, verify_package
from protocol.voucher import Voucher, public_keys

_DEVELOPMENT_SIGNER = key_id(DEVELOPMENT_KEY)
Keys = Sequence[ec.EllipticCurvePublicKey]
ReadImage = Callable[[Slot], bytes | None]
"""Returns the unverified image that a slot boots from, or None."""
Settle = Callable[[ec.EllipticCurvePublicKey], Settlement]
"""Says whose the device is, by the voucher authority's key; see `hardware.ownership`."""


class _AuthoritiesDocument(Document):
    rom_key: str
    voucher_key: str


@dataclass(frozen=True, slots=True)
class Authorities:
    """What the factory burnt in: whose images boot, and whose vouchers count."""

    rom_key: ec.EllipticCurvePublicKey
    voucher_key: ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Revert:
    """An image on trial that was dropped.

    Attributes:
        slot: where it was to live.
        digest: SHA-256 of the package, 64 hex digits.
        reason: why.
    """

    slot: Slot
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class BootReport:
    """What a boot that got through found.

    Attributes:
        components: what was measured, in boot order.
        is_claimed: whether a voucher was verified; without one nothing runs but the OS.
        voucher_refusal: why the voucher that is offered was not taken, or an empty string; an older one may hold.
        stopped_cores: real-time cores that do not run, and why: their model was refused. The sibling runs.
        reverted: the image on trial that this boot dropped, or None.
    """

    components: tuple[SoftwareComponent, ...]
    is_claimed: bool
    voucher_refusal: str
    stopped_cores: Mapping[Core, DeviceSimError]
    reverted: Revert | None


@dataclass(frozen=True, slots=True)
class MeasuredImages:
    """What the chain verified; see `security_versions` for what it burns.

    Attributes:
        images: in boot order.
        voucher: in force, or None.
        voucher_refusal: why a voucher was refused, or an empty string.
        refused_models: by core.
    """

    images: Mapping[Slot, VerifiedImage]
    voucher: Voucher | None
    voucher_refusal: str
    refused_models: Mapping[Core, BootStoppedError]

    @property
    def security_versions(self) -> dict[Slot, int]:
        """What the fuses are raised to: the security version of every image that its owner or maker signed."""
        return {slot: image.info.security_version for slot, image in self.images.items() if burns_fuse(image)}


def burns_fuse(image: VerifiedImage) -> bool:
    """Whether a verified image raises the fuse of its slot: its owner or maker signed it, not everybody."""
    return image.signer_id != _DEVELOPMENT_SIGNER


def load_authorities(path: Path) -> Authorities:
    """Read authorities.json.

    Raises:
        DeviceFolderError: missing or malformed: the factory has not signed the device.
    """
    try:
        document = parse_document(read_file(path), _AuthoritiesDocument)
    except DocumentError as error:
        raise DeviceFolderError(f"{path.name}: expected the keys of the factory, found {error}") from error
    return Authorities(_public_key(document.rom_key, "ROM"), _public_key(document.voucher_key, "voucher"))


def component_of(slot: Slot, image: VerifiedImage) -> SoftwareComponent:
    """Return the measurement of a verified image."""
    return SoftwareComponent(slot.value, bytes.fromhex(image.digest), image.signer_id, image.info.name)


def verify_stage(
    slot: Slot, unverified_image: bytes | None, keys: Keys, *, root_of_trust: RootOfTrust, is_home: bool = True
) -> VerifiedImage:
    """Verify one image before it runs.

    Args:
        slot: where it runs.
        unverified_image: the whole package, or None.
        keys: that may have signed it.
        root_of_trust: holds the fuses and the capability.
        is_home: whether it lies in its home slot; False for the spare, which is filled over the air.

    Raises:
        BootStoppedError: steps 1 to 3.
    """
    # Step 1: presence.
    if unverified_image is None:
        raise BootStoppedError(slot, expected="an image", found="an empty slot")
    # Step 2: package.
    try:
        image = verify_package(
            unverified_image,
            keys,
            kind=slot.kind,
            allow_development=is_home and slot not in SYSTEM_SLOTS and root_of_trust.has_app_development,
        )
    except ProtocolError as error:
        raise BootStoppedError(slot, expected=f"a signed {slot.kind} image", found=str(error)) from error
    # Step 3: security version.
    floor = root_of_trust.fuse(slot)
    if image.info.security_version < floor:
        version = image.info.security_version
        raise BootStoppedError(slot, expected=f"security version {floor} or above", found=f"{version}")
    return image


def measured_boot(
    read_image: ReadImage, settle: Settle, authorities: Authorities, *, root_of_trust: RootOfTrust
) -> MeasuredImages:
    """Go through the chain.

    Args:
        read_image: gives the image that a slot boots from.
        settle: asked once the OS is verified.
        authorities: of the factory.
        root_of_trust: holds the fuses.

    Raises:
        BootStoppedError: a mandatory image is missing, tampered or below its fuse.
    """
    images = {
        slot: verify_stage(slot, read_image(slot), [authorities.rom_key], root_of_trust=root_of_trust)
        for slot in SYSTEM_SLOTS
    }
    owner = settle(authorities.voucher_key)
    refused: dict[Core, BootStoppedError] = {}
    if owner.voucher is not None:
        keys = public_keys(owner.voucher.package_keys)
        may_lack_images = owner.may_lack_images or root_of_trust.has_app_development
        for slot in _catalog_slots(read_image, may_lack_images=may_lack_images):
            try:
                images[slot] = verify_stage(slot, read_image(slot), keys, root_of_trust=root_of_trust)
            except BootStoppedError as error:
                if slot.kind != ImageKind.MODEL:
                    raise
                refused[slot.core] = error
    return MeasuredImages(images, owner.voucher, owner.refusal, refused)


def _catalog_slots(read_image: ReadImage, *, may_lack_images: bool) -> list[Slot]:
    slots = [slot for slot in Slot if slot not in SYSTEM_SLOTS]
    optional = {slot for slot in slots if may_lack_images or slot.kind == ImageKind.MODEL}
    return [slot for slot in slots if slot not in optional or read_image(slot) is not None]


def _public_key(pem: str, name: str) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DeviceFolderError(f"authorities.json: expected the {name} key as PEM, found something else") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise DeviceFolderError(f"authorities.json: expected a P-256 {name} key, found another type")
    return key
