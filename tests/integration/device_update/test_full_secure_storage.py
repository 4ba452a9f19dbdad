"""Secure storage that is full: the action fails with a report that says so, and the device goes on."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from device_sim.errors import StorageFullError
from device_sim.hardware.machine import Machine
from device_sim.hardware.secure_storage import LAST_REVERT, MAX_STORAGE_BYTES, RESERVED_BYTES
from device_sim.hardware.spare import Spare
from protocol.geometry import Slot
from protocol.messages import ActionState, Cause
from tests.storage_filler import fill_storage, shrink_storage
from tests.unit.device_update.update_builder import Updated, ready_device, with_reach

APPLICATION = Slot.A7_APPLICATION


def test_full_storage_fails_the_action_and_not_the_device(tmp_path: Path) -> None:
    """Nothing is installed, the service hears why, and the next action installs once there is room."""
    device = ready_device(tmp_path)
    storage, before = device.machine.storage, device.digests()
    free = MAX_STORAGE_BYTES - RESERVED_BYTES - (device.folder / "state.json").stat().st_size
    storage.put("filler", bytes((free - 400) * 3 // 4))  # values are kept as base64
    device.offer_model(version="2.0.0")
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause, report.rule) == (ActionState.FAILED, Cause.VERIFY, "StorageFullError")
    assert "secure storage: expected at most" in report.detail
    assert (report.attack, device.digests()) == (None, before)
    device.restart()
    device.machine.storage.update({"filler": None})
    device.catalog.action_id = "33333333-3333-4333-8333-333333333333"
    device.offer_model(version="3.0.0", counter=3)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED


def _install_application(device: Updated, during_trial: Callable[[Machine], None]) -> str:
    """Roll a new application out that proves itself once the storage is full; return its digest."""
    package = device.builder.packages.image(APPLICATION, version="2.0.0", security=1)
    device.catalog.roll_out({APPLICATION: device.catalog.add_image(APPLICATION, package)}, counter=2)
    device.client = with_reach(device, lambda: during_trial(device.machine))
    device.run()
    return hashlib.sha256(package).hexdigest()


def test_storage_that_fills_in_the_trial_keeps_the_release_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the confirmation must keep comes out of the reserve."""
    shrink_storage(monkeypatch)
    device = ready_device(tmp_path)
    digest = _install_application(device, lambda machine: fill_storage(machine.storage))
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert device.digests()[APPLICATION] == digest
    assert device.client.installer.release_floor(APPLICATION) == 2
    with pytest.raises(StorageFullError):
        device.machine.storage.put("more", bytes(1000))


def test_trial_whose_release_cannot_be_kept_reverts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reserve used up as well, the image on trial is dropped and nothing stays unconfirmed."""
    most = shrink_storage(monkeypatch)
    device = ready_device(tmp_path)
    before = device.digests()
    _install_application(device, lambda machine: fill_storage(machine.storage, reserve=LAST_REVERT))
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.REVERTED, Cause.FLASH)
    assert f"secure storage: expected at most {most} bytes" in report.detail
    assert device.machine.spare == Spare()
    assert device.digests() == before
    device.restart()
    assert device.digests() == before
