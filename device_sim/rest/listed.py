"""Whether a package is listed for the device: what may come over the cable without the AppDevelopment capability.

Listed is what the top-level targets of the Image repository name for the slot, by the newest metadata that the device
has verified and kept, as long as that has not expired by the device's clock. Delegated roles are not asked: nothing
here walks the delegations that say what they may speak of. Nor may a package be older than what the slot holds, for
going back takes a signed release, and that comes over the air.
"""

from datetime import datetime

from tuf.api.metadata import Metadata, Targets

from device_sim.hardware.installed import InstalledImage
from device_sim.update.repository import MetadataStore, Storage
from device_sim.update.uptane import IMAGE_STORE
from protocol.geometry import Slot
from protocol.image import VerifiedImage
from protocol.updates import image_target_name
from protocol.versions import Build, is_older
from protocol.voucher import Voucher


def is_listed(image: VerifiedImage, slot: Slot, *, voucher: Voucher, storage: Storage, now: datetime) -> bool:
    """Say whether the catalog lists an image for a slot.

    Args:
        image: verified.
        slot: that it is for.
        voucher: in force.
        storage: of the device.
        now: the device's time, UTC and aware.
    """
    kept = MetadataStore(storage, IMAGE_STORE, anchor=voucher.image_root).read(Targets.type)
    if kept is None:
        return False
    targets = Metadata[Targets].from_bytes(kept).signed
    named = targets.targets.get(image_target_name(slot, image.info.image_id))
    return named is not None and not targets.is_expired(now) and named.hashes.get("sha256") == image.digest


def goes_back(image: VerifiedImage, installed: InstalledImage | None) -> bool:
    """Say whether an image is older than the one that a slot holds."""
    if installed is None:
        return False
    info = image.info
    return is_older(Build(image.digest, info.component_id, info.name, info.built_at), installed.build)
