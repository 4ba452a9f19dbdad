"""A catalog that offers patches, as the service's role `deltas` does."""

import hashlib
from datetime import timedelta

from pki.metadata import DELTAS_PATHS, DELTAS_ROLE, Delegation, content_target, role_delegations, sign_targets
from protocol.delta import write_patch
from protocol.geometry import KIB, Slot
from protocol.updates import delta_target_name
from tests.unit.device_update.update_builder import NOW, Updated, info_of

SLOT = Slot.M4_0_MODEL
PADDING = 70 * KIB


def large_model(device: Updated, version: str, *, padding: int = PADDING) -> bytes:
    """A model package of several groups of a patch, signed anew each time."""
    return device.builder.packages.model(SLOT, version=version, padding=padding)


def install_old(device: Updated, *, padding: int = PADDING) -> bytes:
    """Give the device a large model from the factory, and return it."""
    old = large_model(device, "1.0.0", padding=padding)
    device.machine.flash_factory({SLOT: old})
    device.restart()
    return old


def offer_new(device: Updated, *, padding: int = PADDING) -> bytes:
    """Roll a newer large model out, and return it."""
    new = large_model(device, "2.0.0", padding=padding)
    golden = device.catalog.add_golden(info_of(new).component_id)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, new, golden=golden)})
    return new


def offer_patch(device: Updated, old: bytes, new: bytes, *, patch: bytes | None = None, days: int = 1) -> bytes:
    """List a patch between two packages in the role `deltas` and publish it; return it."""
    catalog = device.catalog
    patch = write_patch(old, new) if patch is None else patch
    catalog.artifacts[hashlib.sha256(patch).hexdigest()] = patch
    catalog.delegations = role_delegations(
        [Delegation(DELTAS_ROLE, (catalog.keys.snapshot.public_key,), 1, DELTAS_PATHS)]
    )
    name = delta_target_name(hashlib.sha256(old).hexdigest(), hashlib.sha256(new).hexdigest())
    version = catalog.version + 1
    catalog.roles[DELTAS_ROLE] = sign_targets(
        [content_target(name, patch)],
        catalog.keys.snapshot,
        version=version,
        expires=NOW + timedelta(days=days),
    )
    catalog.publish()
    return patch
