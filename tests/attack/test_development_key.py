"""Azure Sphere's development key is public: what it signs runs on no device but one with the AppDevelopment capability.

There it comes over a cable alone, and such a device takes nothing over the air.
"""

import hashlib
from pathlib import Path

import pytest
from azuresphere_imagemetadata.image import Image

from device_sim.errors import BootStoppedError
from device_sim.hardware.boot import BootReport
from protocol.document import sign_document
from protocol.geometry import Core, Slot
from protocol.image import DEVELOPMENT_KEY
from protocol.messages import ActionState, Cause
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, encode_public_keys
from tests.attack.update_refusals import SLOT, assert_refused, offer, state_of, updated_device
from tests.unit.device_hardware.device_builder import install_trial
from tests.unit.device_update.update_builder import Updated

APPLICATION = Slot.A7_APPLICATION
DEVELOPED = (APPLICATION, Slot.M4_0_FIRMWARE, SLOT)
HIGHEST = (1 << 32) - 1


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update."""
    return updated_device(tmp_path)


def by_anybody(package: bytes) -> bytes:
    """The same image, signed by the key that is in everybody's hands, with Microsoft's own tool."""
    return bytes(Image(package).serialize())


def developed(device: Updated, slot: Slot, *, security: int = 1) -> bytes:
    packages = device.builder.packages
    if slot is SLOT:
        return by_anybody(packages.model(slot, version="9.0.0", security=security))
    return by_anybody(packages.image(slot, version="9.0.0", security=security))


def sideload(device: Updated, slot: Slot, package: bytes) -> BootReport:
    """Write a package over the cable and restart."""
    device.machine.flash_factory({slot: package})
    return device.machine.boot()


@pytest.mark.parametrize("slot", DEVELOPED)
def test_development_image_stops_a_device_without_the_capability(device: Updated, slot: Slot) -> None:
    """Whoever holds the device for a minute gets nothing of his own to run."""
    package = developed(device, slot)
    if slot is SLOT:
        report = sideload(device, slot, package)
        assert "public development key" in str(report.stopped_cores[Core.M4_0])
    else:
        with pytest.raises(BootStoppedError, match="public development key"):
            sideload(device, slot, package)


@pytest.mark.parametrize("slot", DEVELOPED)
def test_development_image_runs_where_the_capability_is(device: Updated, slot: Slot) -> None:
    """A developer's device runs what he sideloads, after every restart, until the capability is taken away."""
    device.machine.rot.set_app_development(allowed=True)
    package = developed(device, slot)
    sideload(device, slot, package)
    device.restart()
    assert device.digests()[slot] == hashlib.sha256(package).hexdigest()
    assert all(core.is_running for core in device.machine.cores.values())
    device.machine.rot.set_app_development(allowed=False)
    if slot is SLOT:
        assert Core.M4_0 in device.machine.boot().stopped_cores
    else:
        with pytest.raises(BootStoppedError, match="public development key"):
            device.machine.boot()


@pytest.mark.parametrize("slot", [Slot.BOOT_LOADER, Slot.SECURITY_MONITOR, Slot.OS])
def test_system_stays_the_makers_with_the_capability(device: Updated, slot: Slot) -> None:
    """The capability opens the application cores, not the chain below them."""
    device.machine.rot.set_app_development(allowed=True)
    with pytest.raises(BootStoppedError, match=slot.value):
        sideload(device, slot, developed(device, slot))


def test_development_image_burns_no_fuse(device: Updated) -> None:
    """Or anybody could shut out every image that the owner will ever sign."""
    device.machine.rot.set_app_development(allowed=True)
    sideload(device, SLOT, developed(device, SLOT, security=HIGHEST))
    assert device.machine.rot.fuse(SLOT) == 1
    device.machine.rot.set_app_development(allowed=False)
    sideload(device, SLOT, device.model(version="2.1.0"))
    assert device.machine.installed()[SLOT].name == "colour@2.1.0"


def test_development_image_over_the_air_is_refused(device: Updated) -> None:
    """Even where both repositories list it: stolen Director and image-targets keys."""
    package = developed(device, SLOT)
    offer(device, package)
    assert_refused(device, Cause.VERIFY, "public development key")


@pytest.mark.parametrize("allowed", [False, True], ids=["without", "with"])
def test_development_image_in_the_spare_does_not_start(device: Updated, *, allowed: bool) -> None:
    """The spare is filled over the air, so the capability does not count for it."""
    device.machine.rot.set_app_development(allowed=allowed)
    before = state_of(device)
    with pytest.raises(BootStoppedError, match="public development key"):
        install_trial(device.machine, SLOT, developed(device, SLOT))
    assert state_of(device) == before


def test_device_with_the_capability_takes_nothing_over_the_air(device: Updated) -> None:
    """It belongs to its developer: as on Azure Sphere, no deployment reaches it, and that is no attack."""
    device.machine.rot.set_app_development(allowed=True)
    offer(device, device.model(version="3.0.0"))
    requests = len(device.wire.requests)
    assert_refused(device, Cause.VERIFY, "without the AppDevelopment capability", None)
    assert [path for path in device.wire.requests[requests:] if "uptane" in path or "artifacts" in path] == []
    device.machine.rot.set_app_development(allowed=False)
    device.catalog.action_id = "44444444-4444-4444-8444-444444444444"
    device.catalog.publish()
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED


def test_voucher_that_names_the_development_key_trusts_nobody(device: Updated) -> None:
    """A catalog whose operator took the public key for his own."""
    voucher = device.machine.voucher
    assert voucher is not None
    keys = encode_public_keys([DEVELOPMENT_KEY, device.builder.packages.keys.package.public_key])
    renewed = voucher.model_copy(update={"package_keys": keys, "sequence": voucher.sequence + 1})
    envelope = sign_document(renewed, VOUCHER_PAYLOAD_TYPE, device.builder.packages.keys.voucher)
    (device.folder / "voucher.json").write_bytes(envelope)
    device.restart()
    assert device.machine.voucher == renewed
    with pytest.raises(BootStoppedError, match="public development key"):
        sideload(device, APPLICATION, developed(device, APPLICATION))
