"""Microsoft's unmodified azuresphere-device-api 1.1.1 inspects a simulated device and sideloads to it."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha512
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import NameOID

from protocol.geometry import Slot
from tests.interop.device_rest.served_device import ClientRaisedError, ServedDevice, make_device, served
from tests.unit.device_hardware.device_builder import DeviceBuilder

MODEL = Slot.M4_0_MODEL
PROXY = {
    "enabled": True,
    "address": "proxy.example",
    "port": 3128,
    "no_proxy_address": ["10.0.0.1"],
    "authentication_type": "basic",
    "username": "me",
    "password": "secret",
}
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> DeviceBuilder:
    return DeviceBuilder(tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def device(builder: DeviceBuilder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedDevice]:
    with served(make_device(builder), sdk=tmp_path_factory.mktemp("sdk")) as running:
        yield running


def component_in(device: ServedDevice, slot: Slot) -> str:
    images = device.call("image.get_images")["components"]
    return next(str(each["uid"]) for each in images if each["slot"] == slot.value)


def sideload(device: ServedDevice, package: bytes, *, mode: str = "Auto") -> None:
    path = device.folder.parent / "package.img"
    path.write_bytes(package)
    assert device.call("sideload.stage_image", str(path)) == {}
    assert device.call("sideload.install_images", mode) == {}


def refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ClientRaisedError, match=words) as raised:
        call()
    assert raised.value.kind == "DeviceError"


def test_it_reads_what_the_device_is(device: ServedDevice) -> None:
    """Uptime, interface version, OS version, identity, capabilities and manufacturing state."""
    assert device.call("device.get_device_status")["uptime"] >= 0
    assert device.call("device.get_device_rest_api_version") == {"REST-API-Version": "4.6.0"}
    assert device.call("device.get_device_os_version") == {"osversion": "1.0.0"}
    state = device.call("device.get_device_security_state")
    assert state["securityState"] == "SECURE"
    identity = json.loads((device.folder / "device.json").read_text())["device_id"]
    assert sha512(bytes.fromhex(state["deviceIdentityPublicKey"])).hexdigest() == identity
    assert device.call("capabilities.get_device_capabilities") == {"device_capabilities": [11]}


def test_manufacturing_goes_forward_alone(device: ServedDevice) -> None:
    """The state rises, stays where it is, and refuses to fall."""
    set_state = "manufacturing.set_device_manufacturing_state"
    assert device.call("manufacturing.get_device_manufacturing_state") == {"manufacturingState": "Blank"}
    assert device.call(set_state, "Module1Complete") == {}
    assert device.call(set_state, "Module1Complete") == {}
    refused(lambda: device.call(set_state, "Blank"), "Permission denied")
    assert device.call("manufacturing.get_device_manufacturing_state") == {"manufacturingState": "Module1Complete"}


def test_a_sideloaded_model_runs_and_survives_a_restart(device: ServedDevice, builder: DeviceBuilder) -> None:
    """Staged, installed into the home slot, listed, running; and measured again by the boot."""
    sideload(device, builder.packages.model(MODEL, version="2.0.0"))
    images = {each["slot"]: each["name"] for each in device.call("image.get_images")["components"]}
    assert images[MODEL.value] == "colour@2.0.0"
    component = component_in(device, MODEL)
    assert device.call("app.get_app_status", component) == {"state": "running"}
    assert device.call("device.restart_device") == {"restartingSystem": True}
    images = {each["slot"]: each["name"] for each in device.call("image.get_images")["components"]}
    assert images[MODEL.value] == "colour@2.0.0"
    assert device.call("app.get_app_status", component) == {"state": "running"}


def test_installed_by_hand_it_waits_for_its_start(device: ServedDevice, builder: DeviceBuilder) -> None:
    """appControlMode Manual leaves the core stopped until it is started; its sibling runs on."""
    sideload(device, builder.packages.image(Slot.M4_1_FIRMWARE, version="2.0.0"), mode="Manual")
    firmware, sibling = component_in(device, Slot.M4_1_FIRMWARE), component_in(device, Slot.M4_0_FIRMWARE)
    assert device.call("app.get_app_status", firmware) == {"state": "stopped"}
    assert device.call("app.get_app_status", sibling) == {"state": "running"}
    assert device.call("app.set_app_status", firmware, "start") == {"state": "running"}


def test_cores_and_the_application_stop_and_start(device: ServedDevice) -> None:
    """Each by its component, the sibling untouched; debugging is refused, an unknown component is not present."""
    for slot in (Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE):
        component = component_in(device, slot)
        assert device.call("app.set_app_status", component, "stop") == {"state": "stopped"}
        assert device.call("app.get_app_status", component) == {"state": "stopped"}
        refused(partial(device.call, "app.set_app_status", component, "startDebug"), "Debugging server")
        assert device.call("app.set_app_status", component, "start") == {"state": "running"}
    assert device.call("app.get_app_status", UNKNOWN) == {"state": "notPresent"}
    refused(lambda: device.call("app.set_app_status", UNKNOWN, "start"), "Application is not present")


def test_a_deleted_application_comes_back(device: ServedDevice, builder: DeviceBuilder) -> None:
    """Deleted, not present after a restart, which boots all the same; then the same component is installed again."""
    component = component_in(device, Slot.A7_APPLICATION)
    assert device.call("sideload.delete_image", component) == {}
    assert device.call("device.restart_device") == {"restartingSystem": True}
    assert device.call("app.get_app_status", component) == {"state": "notPresent"}
    sideload(device, builder.packages.image(Slot.A7_APPLICATION, version="3.0.0"))
    assert device.call("app.get_app_status", component) == {"state": "running"}
    assert device.call("sideload.delete_image", UNKNOWN) == {}


def test_it_reads_memory_and_quota(device: ServedDevice) -> None:
    """What the real-time cores were given, and that no component keeps storage of its own."""
    memory = device.call("app.get_memory_statistics")["memoryStats"]
    assert memory["peakUserModeMemoryUsageInBytes"] >= memory["currentMemoryUsageInBytes"] > 0
    assert memory["cores"]["m4-1"]["arena"] == 4096
    assert device.call("app.get_app_quota", component_in(device, MODEL)) == {"UsageKB": 0, "LimitKB": 0}
    refused(lambda: device.call("app.get_app_quota", UNKNOWN), "Unable to retrieve mutable storage quota")


def test_log_and_error_reports_are_fetched_and_cleared(
    device: ServedDevice, builder: DeviceBuilder, tmp_path: Path
) -> None:
    """A refused package is an error report with its length in bytes 3 and 4; the log has it, too."""
    device.call("device.clear_error_report_data")
    assert bytes.fromhex(device.call("device.get_error_report_data"))[3:] == b"\0\0"
    tampered = bytearray(builder.packages.model(MODEL, version="2.1.0"))
    tampered[100] ^= 1
    (tmp_path / "tampered.img").write_bytes(tampered)
    refused(lambda: device.call("sideload.stage_image", str(tmp_path / "tampered.img")), "Image not trusted by device")
    report = bytes.fromhex(device.call("device.get_error_report_data"))
    assert int.from_bytes(report[3:5], "big") == len(report) - 5
    assert json.loads(report[5:])["event"] == "sideload-refused"
    events = [
        json.loads(line)["event"] for line in bytes.fromhex(device.call("device.get_diagnostic_log")).splitlines()
    ]
    assert events[0] == "booted"
    assert events[-1] == "sideload-refused"


def test_wifi_networks_are_kept_without_telling_their_key(device: ServedDevice) -> None:
    """Add, list, change, remove; what is wrong with one is said by the client's own words."""
    add = "wifi.add_wifi_network"
    added = device.call(add, "works", "psk", "floor", "enabled", None, "secret-of-the-floor")
    assert added["ssid"] == "works"
    assert device.call("wifi.get_all_wifi_networks") == {"values": [added]}
    changed = device.call("wifi.change_wifi_network_config", added["id"], "disabled", "another-secret")
    assert changed["configState"] == "disabled"
    assert device.call("wifi.get_configured_wifi_network", added["id"]) == changed
    assert not re.search("secret", json.dumps([added, changed]))
    refused(lambda: device.call(add, "works", "psk", None, "enabled", None, "secret-of-the-floor"), "already exists")
    refused(lambda: device.call(add, "x" * 33, "open", None, "enabled"), "SSID is too long")
    refused(lambda: device.call(add, "other", "psk", None, "enabled", None, "short"), "PSK is too short")
    assert device.call("wifi.remove_configured_wifi_network", added["id"]) == {}
    refused(lambda: device.call("wifi.get_configured_wifi_network", added["id"]), "could not be found in the list")
    assert device.call("wifi.get_wifi_scan") == {"values": []}
    assert device.call("wifi.change_wifi_interface_state", reload_config=True, wifi_power_savings=True) == {}
    assert device.call("wifi.get_wifi_interface_state")["powerSavingsState"] == "enabled"


def test_network_settings_are_kept(device: ServedDevice) -> None:
    """Interfaces, proxy and firewall, and that no connection ever failed."""
    assert device.call("network.set_network_interfaces", "wlan0", interface_up=False) == {}
    assert device.call("network.get_network_interface", "wlan0")["interfaceUp"] is False
    assert len(device.call("network.get_all_network_interfaces")["interfaces"]) == 1
    refused(lambda: device.call("network.get_network_interface", "eth7"), "Invalid interface")
    proxy = device.call("network.configure_proxy", **PROXY)
    assert device.call("network.get_network_proxy") == proxy
    assert "secret" not in json.dumps(proxy)
    assert device.call("network.get_network_status")["proxy"] == "enabled"
    assert device.call("network.delete_network_proxy") == {}
    assert device.call("network.get_network_proxy") == {}
    assert [each["hook"] for each in device.call("network.get_network_firewall_ruleset")["rulesets"]] == [
        "input",
        "output",
    ]
    assert device.call("network.get_all_failed_network_connections") == {"values": []}
    refused(lambda: device.call("network.get_failed_network_connection", "1"), "Network not found")


def test_certificates_are_added_read_and_removed(device: ServedDevice, tmp_path: Path) -> None:
    """A root CA and a client certificate with its key; another key is refused."""
    certificate, key = _certificate()
    (tmp_path / "ca.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "other.pem").write_bytes(_certificate()[1])
    add, paths = "certificate.add_certificate", [str(tmp_path / name) for name in ("ca.pem", "key.pem", "other.pem")]
    assert device.call(add, "root-1", paths[0], "rootca") == {}
    assert device.call(add, "me", paths[0], "client", paths[1], "password") == {}
    assert device.call("certificate.get_all_certificates") == {"identifiers": ["me", "root-1"]}
    assert device.call("certificate.get_certificate", "me")["subjectName"] == "CN=floor"
    assert int(device.call("certificate.get_certificate_space")["AvailableSpace"]) < 24 * 1024
    refused(lambda: device.call(add, "me2", paths[0], "client", paths[2], "password"), "pair do not match")
    refused(lambda: device.call(add, "m!", paths[0], "rootca"), "identifier is invalid")
    assert device.call("certificate.remove_certificate", "me") == {}
    refused(lambda: device.call("certificate.get_certificate", "me"), "No certificate with that identifier")


def test_a_device_without_the_capability_refuses_its_developer(tmp_path: Path) -> None:
    """What nobody listed is not taken, nothing is stopped or deleted, and the client says why."""
    builder = DeviceBuilder(tmp_path / "devices")
    folder = make_device(builder, develops=False)
    (tmp_path / "package.img").write_bytes(builder.packages.model(MODEL, version="2.0.0"))
    with served(folder, sdk=tmp_path) as device:
        component = component_in(device, MODEL)
        assert device.call("capabilities.get_device_capabilities") == {"device_capabilities": []}
        refused(lambda: device.call("sideload.stage_image", str(tmp_path / "package.img")), "Image not trusted")
        refused(lambda: device.call("app.set_app_status", component, "stop"), "Operation not permitted")
        refused(lambda: device.call("sideload.delete_image", component), "Permission denied")
        assert device.call("app.get_app_status", component) == {"state": "running"}


def test_a_device_whose_boot_stops_is_gone(tmp_path: Path) -> None:
    """The restart is answered; then the client finds nobody, and the command has failed and said where."""
    builder = DeviceBuilder(tmp_path / "devices")
    with served(make_device(builder), sdk=tmp_path) as device:
        application = builder.packages.image(Slot.A7_APPLICATION, version="2.0.0")
        sideload(device, application)
        flash = device.folder / "flash.bin"
        content = bytearray(flash.read_bytes())
        content[content.index(application[:64]) + 100] ^= 1
        with flash.open("r+b") as chip:  # as somebody with a programmer would
            chip.write(content)
        assert device.call("device.restart_device") == {"restartingSystem": True}
        assert device.server.wait() == 1
        refused(lambda: device.call("device.get_device_status"), "Device connection timed out")


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "floor")])
    start = datetime(2026, 11, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
