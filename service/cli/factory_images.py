"""The images that simulated devices are made with.

Their payloads are simulated: no code of an MT3620 runs in tinyfleet. Each is a line that says so, followed by
SHAKE-256 output of its name, as long as such an image is on a real device; so equal names and versions give equal
bytes everywhere. What is real is everything around a payload: package, signature, measurement, slot, update.
"""

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pki.catalog import Catalog
from pki.keystore import KeyStore
from pki.packages import sign_package
from protocol.errors import ProtocolError
from protocol.geometry import KIB, Slot
from protocol.image import IMAGE_TYPE, ImageInfo
from protocol.updates import image_target_name
from service.cli.offered import OfferedImage, verify_offered
from service.cli.working_copy import WorkingCopy

VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class FactoryImage:
    """An image of the factory release.

    Attributes:
        name: without its version.
        component_id: GUID; later versions of the same image carry it too.
        payload_bytes: length of the simulated payload.
    """

    slot: Slot
    name: str
    component_id: str
    payload_bytes: int


FACTORY_IMAGES = (
    FactoryImage(Slot.BOOT_LOADER, "boot-loader", "a5ab8f55-4eb8-4ea1-a3f0-e4f19c5a6e11", 24 * KIB),
    FactoryImage(Slot.SECURITY_MONITOR, "security-monitor", "0a4f3cf7-6d2e-4a38-9f5e-8f7d2f8a5b62", 56 * KIB),
    FactoryImage(Slot.OS, "os", "7bb0a9e3-3a63-4dc2-b6f7-04b0c9e5d7c3", 640 * KIB),
    FactoryImage(Slot.A7_APPLICATION, "telemetry-app", "b7a1f569-9587-43f0-ac75-7edf5b558dec", 72 * KIB),
    FactoryImage(Slot.M4_0_FIRMWARE, "m4-0-runtime", "c1d5b0c2-52a0-4a8e-9a55-1d0b9f1f6a74", 44 * KIB),
    FactoryImage(Slot.M4_1_FIRMWARE, "m4-1-runtime", "d98ed4a7-7f0c-4f5e-8d83-67a1c2b3e485", 44 * KIB),
)


def simulated_payload(name: str, version: str, payload_bytes: int) -> bytes:
    """Return a payload that stands for an image's code; see the module's docstring."""
    label = f"simulated payload of {name}@{version}\n".encode()
    return label + hashlib.shake_256(label).digest(payload_bytes - len(label))


def build_factory_images(
    keys: KeyStore, catalog: Catalog, *, working_copy: WorkingCopy, now: datetime
) -> Iterator[OfferedImage]:
    """Sign the factory images, or take from the working copy what an interrupted run has signed already.

    Args:
        keys: that sign.
        catalog: whose keys these must be.
        working_copy: of the same operator's folder.
        now: UTC, aware.

    Raises:
        KeyStoreError: a key cannot be used.
        PackageSignatureError: a key is not the catalog's.
    """
    for factory_image in FACTORY_IMAGES:
        image_id = _image_id(factory_image)
        package = _signed_before(
            factory_image, working_copy.find(image_target_name(factory_image.slot, image_id)), catalog
        )
        if package is None:
            package = _sign(factory_image, image_id, keys, now=now)
        yield OfferedImage(factory_image.slot, package, verify_offered(package, factory_image.slot, catalog))


def _signed_before(factory_image: FactoryImage, package: bytes | None, catalog: Catalog) -> bytes | None:
    if package is None:
        return None
    try:
        verify_offered(package, factory_image.slot, catalog)
    except ProtocolError:
        return None
    return package


def _image_id(factory_image: FactoryImage) -> str:
    """The same build has the same id: these bytes never change under one name and version."""
    return str(uuid.uuid5(uuid.UUID(factory_image.component_id), f"{factory_image.name}@{VERSION}"))


def _sign(factory_image: FactoryImage, image_id: str, keys: KeyStore, *, now: datetime) -> bytes:
    info = ImageInfo(
        image_type=IMAGE_TYPE[factory_image.slot.kind],
        component_id=factory_image.component_id,
        image_id=image_id,
        name=f"{factory_image.name}@{VERSION}",
        security_version=1,
        built_at=now.replace(microsecond=0),
    )
    payload = simulated_payload(factory_image.name, VERSION, factory_image.payload_bytes)
    return sign_package(payload, info, kind=factory_image.slot.kind, keys=keys)
