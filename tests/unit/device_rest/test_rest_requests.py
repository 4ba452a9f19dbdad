"""Requests of the device-local interface: paths, methods, bodies of the wrong form, and what the stores refuse."""

import json
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from device_sim.rest.certstore import MAX_PEM_BYTES
from device_sim.rest.diagnostics import MAX_REPORT_BYTES, DiagnosticLog
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import OCTETS_TYPE, Answer, Request, Route, Router, require_type
from device_sim.rest.wifi import MAX_NETWORKS
from protocol.geometry import Core, Slot
from tests.unit.device_rest.local_device import Local

NO_GUID = "..%2f..%2frot.json"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "nothing",
        "app",
        "app/status",
        "app/status/",
        "status/",
        "images/../status",
        "certstore/certs/a/b",
        "status?x",
    ],
)
def test_an_unknown_path_is_not_found(path: str, local: Local) -> None:
    """With the code of an invalid request URI."""
    assert local.refusal("GET", path) == (HTTPStatus.NOT_FOUND, Code.INVALID_URI)


def test_a_wrong_method_is_not_allowed(local: Local) -> None:
    """On a path that is there."""
    assert local.refusal("DELETE", "images") == (HTTPStatus.METHOD_NOT_ALLOWED, Code.INVALID_URI)


@given(st.text(max_size=60))
def test_no_target_is_more_than_found_or_not(target: str) -> None:
    """Whatever is asked for, the router answers or refuses."""
    router = Router((Route("GET", "a/*", lambda _: Answer()), Route("GET", "b", lambda _: Answer())))
    try:
        route, parameters = router.find("GET", target)
    except RequestRefusedError:
        return
    assert target.removeprefix("/") == "/".join([route.path.split("/")[0], *parameters])


def test_a_media_type_is_the_routes(local: Local) -> None:
    """With or without parameters; another one is refused."""
    route = local.router.find("PUT", "/update/stage")[0]
    require_type(route, f"{OCTETS_TYPE}; charset=x")
    with pytest.raises(RequestRefusedError, match="media type: expected application/octet-stream, found none") as error:
        require_type(route, None)
    assert error.value.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 60_000, b'{"trigger":"go"}', b'{"trigger":1}'])
def test_a_body_of_another_form_is_refused(body: bytes, local: Local) -> None:
    """Nothing happens to the core."""
    component = local.device.images()[Slot.M4_0_FIRMWARE].component_id
    assert local.refusal("PATCH", f"app/status/{component}", body) == (HTTPStatus.BAD_REQUEST, Code.INVALID_PARAMETER)
    assert local.machine.cores[Core.M4_0].is_running


@pytest.mark.parametrize("request_line", ["GET app/status", "GET app/quota", "DELETE app/image"])
def test_a_component_id_that_is_no_guid_is_refused(request_line: str, local: Local) -> None:
    """Not a way into the folder either."""
    method, path = request_line.split()
    assert local.refusal(method, f"{path}/{NO_GUID}") == (HTTPStatus.BAD_REQUEST, Code.INVALID_PARAMETER)


@pytest.mark.parametrize("state", ["Unknown", "blank", "", "x" * 5000])
def test_no_other_manufacturing_state_is_taken(state: str, local: Local) -> None:
    """Only the three that are in an order."""
    wanted: dict[str, object] = {"manufacturingState": state}
    assert local.refusal("PUT", "device/manufacturing_state", wanted)[1] is Code.INVALID_PARAMETER
    assert local.ask("GET", "device/manufacturing_state") == {"manufacturingState": "Blank"}


def test_uptime_counts_from_the_last_boot(local: Local) -> None:
    """In whole seconds of the host's clock."""
    local.clock.seconds += 61.5
    assert local.ask("GET", "status") == {"uptime": 61}
    local.ask("POST", "restart")
    assert local.ask("GET", "status") == {"uptime": 0}


def test_an_error_report_holds_the_newest_that_fit() -> None:
    """Its length has two bytes."""
    log = DiagnosticLog()
    for number in range(50):
        log.hear({"event": "crashed", "number": number, "reason": "x" * 2000})
    report = log.error_report()
    assert int.from_bytes(report[3:5], "big") == len(report) - 5 <= MAX_REPORT_BYTES
    assert [json.loads(line)["number"] for line in report[5:].splitlines()][-1] == 49


class TestCertificates:
    """The certificate store refuses each wrong part by its own code, and keeps nothing of it."""

    key = ec.generate_private_key(ec.SECP256R1())

    def pem(self, name: str = "floor") -> str:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        start = datetime(2026, 11, 1, tzinfo=UTC)
        builder = x509.CertificateBuilder(subject, subject, self.key.public_key(), 1)
        builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=30))
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    def key_pem(self, password: str = "") -> str:
        encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"certType": "server"}, Code.CERTIFICATE_TYPE),
            ({"privateKey": "x"}, Code.KEY_NOT_ALLOWED),
            ({"password": "x"}, Code.PASSWORD_NOT_ALLOWED),
            ({"publicCert": "x" * (MAX_PEM_BYTES + 1)}, Code.CERTIFICATE_TOO_LONG),
            ({"publicCert": "not PEM"}, Code.CERTIFICATE_INVALID),
            ({"publicCert": 7}, Code.INVALID_PARAMETER),
            ({"more": "x"}, Code.INVALID_PARAMETER),
            ({"certType": "client"}, Code.KEY_INVALID),
            ({"certType": "client", "privateKey": "x" * (MAX_PEM_BYTES + 1)}, Code.CERTIFICATE_KEY_TOO_LONG),
            ({"certType": "client", "password": "x" * 300}, Code.PASSWORD_TOO_LONG),
        ],
    )
    def test_a_wrong_root_or_client_is_refused(self, changes: dict[str, object], code: Code, local: Local) -> None:
        """One thing wrong in each."""
        body = {"certType": "rootca", "publicCert": self.pem()} | changes
        assert local.refusal("POST", "certstore/certs/me", body)[1] is code
        assert local.ask("GET", "certstore/certs") == {"identifiers": []}

    def test_two_certificates_at_once_are_refused(self, local: Local) -> None:
        """An identifier names one."""
        body: dict[str, object] = {"certType": "rootca", "publicCert": self.pem() * 2}
        assert local.refusal("POST", "certstore/certs/me", body)[1] is Code.CERTIFICATE_INVALID

    @pytest.mark.parametrize(
        ("locked_by", "given", "code"),
        [("secret", "", Code.KEY_INVALID), ("secret", "other", Code.KEY_INVALID), ("", "x", Code.PASSWORD_NOT_NEEDED)],
    )
    def test_a_key_opens_with_its_own_password_alone(
        self, locked_by: str, given: str, code: Code, local: Local
    ) -> None:
        """And without one where it has none."""
        body = {"certType": "client", "publicCert": self.pem(), "privateKey": self.key_pem(locked_by)}
        assert local.refusal("POST", "certstore/certs/me", body | {"password": given})[1] is code
        assert local.ask("POST", "certstore/certs/me", body | {"password": locked_by}) == {}

    @pytest.mark.parametrize(
        ("identifier", "code"),
        [("a b", Code.CERTIFICATE_ID_INVALID), ("x" * 17, Code.CERTIFICATE_ID_TOO_LONG), ("%2e", 38797314)],
    )
    def test_an_identifier_of_another_form_is_refused(self, identifier: str, code: int, local: Local) -> None:
        """To add, to show and to remove."""
        body: dict[str, object] = {"certType": "rootca", "publicCert": self.pem()}
        for method, content in (("POST", body), ("GET", b""), ("DELETE", b"")):
            assert local.refusal(method, f"certstore/certs/{identifier}", content)[1] == code

    def test_the_store_ends_at_its_room(self, local: Local) -> None:
        """What does not fit leaves what is there."""
        size = len(self.pem("x" * 60))
        body: dict[str, object] = {"certType": "rootca", "publicCert": self.pem("x" * 60)}
        count = 0
        while int(local.ask("GET", "certstore/space")["AvailableSpace"]) >= size + 8:
            local.ask("POST", f"certstore/certs/{count}", body)
            count += 1
        local_answer = [local.answer("POST", f"certstore/certs/last-{n}", body) for n in range(2)]
        assert json.loads(local_answer[-1].body) == {"error": Code.CERTIFICATE_SPACE}
        assert count > 10


def network(**changes: object) -> dict[str, object]:
    return {"ssid": "works", "securityState": "psk", "psk": "a secret"} | changes


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (network(ssid=""), Code.INVALID_NETWORK),
        (network(ssid="é" * 17), Code.SSID_TOO_LONG),
        (network(psk=""), Code.INVALID_NETWORK),
        (network(psk="x" * 64), Code.KEY_TOO_LONG),
        (network(securityState="open"), Code.INVALID_NETWORK),
        (network(securityState="wep"), Code.INVALID_NETWORK),
        (network(securityState="eaptls", psk=""), Code.NO_CLIENT_IDENTITY),
        (network(configName="x" * 17), Code.CONFIGURATION_NAME_LENGTH),
        (network(configName=""), Code.CONFIGURATION_NAME_LENGTH),
        (network(wpa3=True), Code.INVALID_NETWORK),
    ],
)
def test_a_wrong_network_is_refused(body: dict[str, object], code: Code, local: Local) -> None:
    """By the rule that it breaks; none is configured."""
    assert local.refusal("POST", "wifi/config/networks", body)[1] is code
    assert local.ask("GET", "wifi/config/networks") == {"values": []}


def test_networks_have_names_of_their_own_and_an_end(local: Local) -> None:
    """Removed ones leave their number unused."""
    for number in range(MAX_NETWORKS):
        local.ask("POST", "wifi/config/networks", network(ssid=f"n{number}", configName=f"c{number}"))
    assert local.refusal("POST", "wifi/config/networks", network())[1] is Code.TOO_MANY_NETWORKS
    local.ask("DELETE", f"wifi/config/networks/{MAX_NETWORKS - 1}")
    taken = network(configName="c0")
    assert local.refusal("POST", "wifi/config/networks", taken)[1] is Code.CONFIGURATION_NAME_EXISTS
    assert local.ask("POST", "wifi/config/networks", network())["id"] == MAX_NETWORKS


def test_a_changed_key_is_checked(local: Local) -> None:
    """As a new one is; the old one stays."""
    local.ask("POST", "wifi/config/networks", network())
    assert local.refusal("PATCH", "wifi/config/networks/0", {"psk": "short"})[1] is Code.KEY_TOO_SHORT
    local.ask("PATCH", "wifi/config/networks/0", {"psk": "another one"})
    assert b"another one" in (local.machine.storage.get("rest/wifi") or b"")
    assert local.refusal("PATCH", "wifi/config/networks/1", {"psk": "x"})[1] is Code.NETWORK_NOT_CONFIGURED


@pytest.mark.parametrize("changes", [{"port": 0}, {"address": ""}, {"username": "me"}, {"authenticationType": "basic"}])
def test_a_wrong_proxy_is_refused(changes: dict[str, object], local: Local) -> None:
    """None is kept then."""
    body = {"enabled": True, "address": "proxy", "port": 1, "authenticationType": "anonymous"} | changes
    if "username" in changes:
        body |= {"password": "x"}
    assert local.refusal("POST", "net/proxy", body)[1] is Code.INVALID_PARAMETER
    assert local.ask("GET", "net/proxy") == {}


def test_settings_survive_a_restart(local: Local) -> None:
    """They are in secure storage."""
    local.ask("POST", "wifi/config/networks", network())
    local.ask("PATCH", "net/interfaces/wlan0", {"interfaceUp": False})
    local.ask("POST", "restart")
    assert [each["ssid"] for each in local.ask("GET", "wifi/config/networks")["values"]] == ["works"]
    assert local.ask("GET", "net/interfaces/wlan0")["interfaceUp"] is False


def test_handlers_take_what_the_server_gives() -> None:
    """A path's only parameter is found without its place."""
    assert Request(("a",)).parameter == "a"
