"""A device is decommissioned by two operators, each at a command line of their own."""

import json
from pathlib import Path

import pytest

from tests.e2e.party import Party, SimulatedDevice, has

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def party(tmp_path: Path) -> Party:
    """A catalog that wants two persons to decommission a device."""
    found = Party(tmp_path / "catalog", "Catalog", "Camera")
    found.init()
    return found


def second_operator(party: Party, folder: Path) -> Path:
    """Add an admin, who keeps a login of their own; returns their folder."""
    folder.mkdir()
    party.run("operator", "add", "second", "--role", "admin", "--token-file", folder / "token")
    login = json.loads((party.operator / "credential.json").read_bytes())
    login |= {"ca": str(party.operator / login["ca"]), "token": (folder / "token").read_text()}
    (folder / "credential.json").touch(mode=0o600)
    (folder / "credential.json").write_text(json.dumps(login))
    return folder


def claimed(party: Party, devices: Path) -> SimulatedDevice:
    """Make, sign, flash and claim a device, and see it connected."""
    party.run("factory", "images")
    party.run("product", "create", party.product)
    device = SimulatedDevice.manufacture(devices)
    party.run("factory", "sign", devices)
    device.flash()
    party.run("device", "claim", devices, "--product", party.product)
    device.live(party, has("connected"))
    return device


def test_two_operators_decommission_a_device(party: Party, tmp_path: Path) -> None:
    """One asks, the same one cannot approve, another one can; then the device is out for good."""
    with party.serving(two_person_actions=["device.decommission"]):
        second = second_operator(party, tmp_path / "second")
        device = claimed(party, tmp_path / "devices")

        party.run("device", "decommission", device.device_id, "--reason", "scrapped")
        assert "waits for another operator: tinyfleet approval approve " in party.said
        request = party.said.split()[-1]
        assert party.run("device", "show", device.device_id, "--json")["state"] == "active"
        assert "expected another operator than" in party.refused("approval", "approve", request)
        assert party.run("approval", "show", request, "--json")["state"] == "pending"
        party.run("approval", "list")

        party.run("approval", "approve", request, "--operator-dir", second)
        assert "device.decommission" in party.said
        assert party.run("device", "show", device.device_id, "--json")["state"] == "decommissioned"
        assert "decommissioned" in str(device.live(party, has("refused")))
        assert "found it approved" in party.refused("approval", "reject", request)
        assert "found it decommissioned" in party.refused("device", "unblock", device.device_id)
