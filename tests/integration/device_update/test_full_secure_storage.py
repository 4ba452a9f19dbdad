"""Secure storage that is full: the action fails with a report that says so, and the device goes on."""

from pathlib import Path

from device_sim.hardware.secure_storage import MAX_STORAGE_BYTES, RESERVED_BYTES
from protocol.messages import ActionState, Cause
from tests.unit.device_update.update_builder import ready_device


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
