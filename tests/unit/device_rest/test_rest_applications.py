"""Components that start, stop and go, and what the device tells of itself, without a network."""

from http import HTTPStatus

import pytest

from device_sim.rest.errors import Code
from protocol.evidence import LifeCycle
from protocol.geometry import Core, Slot
from tests.unit.device_hardware.device_builder import DeviceBuilder
from tests.unit.device_rest.local_device import Local, by_anybody

UNKNOWN = "00000000-0000-4000-8000-000000000000"


def component(local: Local, slot: Slot) -> str:
    return local.device.images()[slot].component_id


@pytest.mark.parametrize("slot", [Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE, Slot.M4_0_MODEL])
def test_a_component_stops_and_starts(slot: Slot, local: Local) -> None:
    """The other cores run on; a GUID is known in any spelling."""
    path = f"app/status/{component(local, slot).upper()}"
    sibling = f"app/status/{component(local, Slot.M4_1_MODEL)}"
    assert local.ask("PATCH", path, {"trigger": "stop"}) == {"state": "stopped"}
    assert local.ask("GET", path) == {"state": "stopped"}
    assert local.ask("GET", sibling) == {"state": "running"}
    assert local.refusal("PATCH", path, {"trigger": "startDebug"}) == (HTTPStatus.CONFLICT, Code.NO_DEBUG_SERVER)
    assert local.ask("PATCH", path, {"trigger": "start"}) == {"state": "running"}


def test_a_restart_starts_everything(local: Local) -> None:
    """What was stopped over the cable was stopped until then."""
    for slot in (Slot.A7_APPLICATION, Slot.M4_1_FIRMWARE):
        local.ask("PATCH", f"app/status/{component(local, slot)}", {"trigger": "stop"})
    local.ask("POST", "restart")
    for slot in (Slot.A7_APPLICATION, Slot.M4_1_FIRMWARE):
        assert local.ask("GET", f"app/status/{component(local, slot)}") == {"state": "running"}


def test_an_unknown_component_is_not_present(local: Local) -> None:
    """It has no quota, cannot be started, and deleting it changes nothing."""
    assert local.ask("GET", f"app/status/{UNKNOWN}") == {"state": "notPresent"}
    assert local.refusal("GET", f"app/quota/{UNKNOWN}")[1] is Code.NO_QUOTA
    assert local.refusal("PATCH", f"app/status/{UNKNOWN}", {"trigger": "stop"})[1] is Code.NOT_PRESENT
    before = local.machine.components()
    local.ask("DELETE", f"app/image/{UNKNOWN}")
    assert local.machine.components() == before


@pytest.mark.parametrize("slot", [Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE, Slot.M4_0_MODEL])
def test_a_removed_component_is_gone_until_it_is_sideloaded(slot: Slot, local: Local, builder: DeviceBuilder) -> None:
    """Not in the evidence, not after a restart; and a developer's device boots all the same."""
    packages, gone = builder.packages, component(local, slot)
    local.ask("DELETE", f"app/image/{gone}")
    local.ask("POST", "restart")
    assert slot not in local.names()
    assert slot not in [part.type for part in local.machine.components()]
    assert local.ask("GET", f"app/status/{gone}") == {"state": "notPresent"}
    package = packages.model(slot) if slot is Slot.M4_0_MODEL else packages.image(slot)
    local.ask("PUT", "update/stage", by_anybody(package))
    local.ask("POST", "update/install", {"appControlMode": "Auto"})
    assert local.ask("GET", f"app/status/{gone}") == {"state": "running"}


def test_a_removed_application_stops_the_boot_without_the_capability(local: Local) -> None:
    """Such a device lacks what it must have; its factory brings it back."""
    local.ask("DELETE", f"app/image/{component(local, Slot.A7_APPLICATION)}")
    local.machine.rot.set_app_development(allowed=False)
    local.ask("POST", "restart")
    assert local.device.failure is not None
    assert local.device.failure.stage == Slot.A7_APPLICATION


def test_memory_is_what_the_cores_were_given(local: Local) -> None:
    """A stopped core has none; the peak stays until the device restarts."""
    before = local.ask("GET", "stats/memory/groups/applications")["memoryStats"]
    assert before["cores"]["m4-0"].keys() == {"runtime", "arena"}
    local.device.stop(Core.M4_0)
    after = local.ask("GET", "stats/memory/groups/applications")["memoryStats"]
    assert after["cores"]["m4-0"] == {}
    assert after["currentMemoryUsageInBytes"] < before["currentMemoryUsageInBytes"]
    assert after["peakUserModeMemoryUsageInBytes"] == before["peakUserModeMemoryUsageInBytes"]


def test_a_device_out_of_service_says_so(local: Local) -> None:
    """Its security state is its life cycle's name."""
    local.machine.rot.advance_lifecycle(LifeCycle.DECOMMISSIONED)
    assert local.ask("GET", "device/security_state")["securityState"] == "DECOMMISSIONED"


def test_capabilities_are_those_of_now(local: Local) -> None:
    """EnableAppDevelopment is number 11."""
    assert local.ask("GET", "device/capabilities") == {"device_capabilities": [11]}
    local.machine.rot.set_app_development(allowed=False)
    assert local.ask("GET", "device/capabilities") == {"device_capabilities": []}


def test_boot_says_which_core_does_not_run(local: Local) -> None:
    """A damaged model is an error report, and the log has every event."""
    local.ask("DELETE", "telemetry")
    local.machine.tamper(Slot.M4_1_MODEL)
    local.ask("POST", "restart")
    assert b'"core-stopped"' in local.answer("GET", "telemetry").body
    assert local.answer("GET", "log").body.count(b'"booted"') == 2
    assert local.ask("GET", "osversion") == {"osversion": "1.0.0"}
