"""A copied device folder runs beside its original against one service; a device alone that reboots often does not."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.party import Party, SimulatedDevice, has

pytestmark = pytest.mark.timeout(600)

REBOOTS = 5
Events = list[dict[str, Any]]


@pytest.fixture
def party(tmp_path: Path) -> Party:
    """A catalog with a product and factory images."""
    found = Party(tmp_path / "catalog", "Catalog", "Camera")
    found.init()
    return found


def claimed(party: Party, devices: Path) -> SimulatedDevice:
    """Make, sign, flash and claim a device."""
    party.run("factory", "images")
    party.run("product", "create", party.product)
    device = SimulatedDevice.manufacture(devices)
    party.run("factory", "sign", devices)
    device.flash()
    party.run("device", "claim", devices, "--product", party.product)
    return device


def shown(party: Party, device: SimulatedDevice) -> dict[str, Any]:
    return party.run("device", "show", device.device_id, "--json")


def test_copy_beside_its_original_is_found_and_blocked_by_hand(party: Party, tmp_path: Path) -> None:
    """Both live on until an operator who was told blocks the identity; the evidence is shown."""
    with party.serving(certificate_lifetime_seconds=20.0):
        device = claimed(party, tmp_path / "devices")
        copy = SimulatedDevice(tmp_path / "thief" / device.folder.name)
        shutil.copytree(device.folder, copy.folder)

        def is_suspected(_events: Events) -> bool:
            return shown(party, device)["clone_suspected_at"] is not None

        _live_together(party, [device, copy], is_suspected)

        found = shown(party, device)
        assert found["clone_detail"].partition(":")[0] in {"boot-seed", "certificate", "manifest"}
        assert found["state"] == "active"
        assert party.run("fleet", "summary", "--json")["suspected_clones"] == 1
        party.run("device", "block", device.device_id, "--reason", "cloned")
        device.live(party, has("refused"))
        copy.live(party, has("refused"))


def _live_together(party: Party, devices: list[SimulatedDevice], until: Callable[[Events], bool]) -> None:
    """Run devices at the same time, each in a process of its own, until a condition holds for all."""
    failed: list[BaseException] = []

    def live(device: SimulatedDevice) -> None:
        try:
            device.live(party, until)
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            failed.append(error)

    threads = [threading.Thread(target=live, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_device_alone_that_reboots_often_is_not_suspected(party: Party, tmp_path: Path) -> None:
    """Every boot attests anew, and certificates are renewed while it runs."""
    with party.serving(certificate_lifetime_seconds=6.0):
        device = claimed(party, tmp_path / "devices")
        for _ in range(REBOOTS):
            device.live(party, has("connected"))
        device.live(party, lambda events: sum(event["event"] == "attested" for event in events) >= REBOOTS)
        found = shown(party, device)
        assert (found["clone_suspected_at"], found["state"]) == (None, "active")
        assert party.run("fleet", "summary", "--json")["suspected_clones"] == 0
