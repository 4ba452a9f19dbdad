"""One Wi-Fi interface without a radio, and the networks that it is configured for, in secure storage.

A pre-shared key goes in and never comes out. No network is ever in reach: a scan finds none, and none is connected.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from device_sim.hardware.ports import ItemStorage
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import JSON_TYPE, Answer, Request, RequestDocument, Route, json_answer
from protocol.document import Document

MAX_NETWORKS = 37  # Microsoft Learn: azsphere device wifi
MAX_SSID_BYTES = 32  # IEEE 802.11
MIN_KEY_BYTES, MAX_KEY_BYTES = 8, 63  # of a WPA2 passphrase
MAX_NAME_CHARACTERS = 16
_STORED = "rest/wifi"  # name in secure storage

ConfigState = Literal["unknown", "enabled", "disabled", "temp-disabled"]


class _NewNetwork(RequestDocument):
    ssid: str
    security_state: Literal["open", "psk", "eaptls"]
    config_state: ConfigState = "enabled"
    psk: str = ""
    config_name: str | None = None
    target_scan: bool = False
    client_identity: str = ""
    client_cert_store_identifier: str = ""
    root_ca_cert_store_identifier: Annotated[str, Field(alias="rootCaCertStoreIdentifier")] = ""


class _Change(RequestDocument):
    config_state: ConfigState | None = None
    psk: str | None = None


class _InterfaceChange(RequestDocument):
    reload_config: bool = False
    enable_power_savings: bool | None = None


class _Network(Document):
    id: int
    ssid: str
    security: str
    state: str
    psk: str = ""
    name: str | None = None
    target_scan: bool = False
    identity: str = ""
    client_certificate: str = ""
    root_certificate: str = ""

    def shown(self) -> dict[str, object]:
        """Return it as the client sees it: without its key."""
        return {
            "id": self.id,
            "ssid": self.ssid,
            "securityState": self.security,
            "configState": self.state,
            "connectionState": "disconnected",
            "configName": self.name or "",
            "targetScan": self.target_scan,
            "clientIdentity": self.identity,
            "clientCertStoreIdentifier": self.client_certificate,
            "rootCACertStoreIdentifier": self.root_certificate,
        }


class _Wifi(Document):
    networks: tuple[_Network, ...] = ()
    next_id: int = 0
    saves_power: bool = False


class Wifi:
    """Routes of the Wi-Fi interface.

    Args:
        storage: of the device.
    """

    def __init__(self, storage: ItemStorage) -> None:
        self._storage = storage

    def routes(self) -> Iterator[Route]:
        """Yield them."""
        yield Route("GET", "wifi/interface", self._interface)
        yield Route("PATCH", "wifi/interface", self._change_interface, content_type=JSON_TYPE)
        yield Route("GET", "wifi/scan", lambda _: json_answer({"values": []}))
        yield Route("GET", "wifi/config/networks", self._list)
        yield Route("POST", "wifi/config/networks", self._add, content_type=JSON_TYPE)
        yield Route("GET", "wifi/config/networks/*", lambda request: self._shown(self._require(request)))
        yield Route("PATCH", "wifi/config/networks/*", self._change, content_type=JSON_TYPE)
        yield Route("DELETE", "wifi/config/networks/*", self._remove)
        yield Route("GET", "wifi/diagnostics/networks", lambda _: json_answer({"values": []}))
        yield Route("GET", "wifi/diagnostics/networks/*", self._failure)

    @property
    def _wifi(self) -> _Wifi:
        return self._storage.get_document(_STORED, _Wifi) or _Wifi()

    def _keep(self, **changes: object) -> None:
        self._storage.put_document(_STORED, self._wifi.model_copy(update=changes))

    def _interface(self, _request: Request) -> Answer:
        return json_answer(
            {
                "interfaceName": "wlan0",
                "mode": "sta",
                "wpa_state": "DISCONNECTED",
                "powerSavingsState": "enabled" if self._wifi.saves_power else "disabled",
            }
        )

    def _change_interface(self, request: Request) -> Answer:
        change = request.document(_InterfaceChange)
        if change.enable_power_savings is not None:
            self._keep(saves_power=change.enable_power_savings)
        return Answer()

    def _list(self, _request: Request) -> Answer:
        return json_answer({"values": [network.shown() for network in self._wifi.networks]})

    def _add(self, request: Request) -> Answer:
        offered = request.document(_NewNetwork, code=Code.INVALID_NETWORK)
        wifi = self._wifi
        _check_form(offered)
        _check_place(offered, wifi)
        network = _Network(
            id=wifi.next_id,
            ssid=offered.ssid,
            security=offered.security_state,
            state=offered.config_state,
            psk=offered.psk,
            name=offered.config_name,
            target_scan=offered.target_scan,
            identity=offered.client_identity,
            client_certificate=offered.client_cert_store_identifier,
            root_certificate=offered.root_ca_cert_store_identifier,
        )
        self._keep(networks=(*wifi.networks, network), next_id=wifi.next_id + 1)
        return self._shown(network)

    def _change(self, request: Request) -> Answer:
        network = self._require(request)
        change = request.document(_Change, code=Code.INVALID_NETWORK)
        if change.psk is not None and network.security == "psk":
            _check_key(change.psk)
            network = network.model_copy(update={"psk": change.psk})
        if change.config_state is not None:
            network = network.model_copy(update={"state": change.config_state})
        self._keep(networks=tuple(network if each.id == network.id else each for each in self._wifi.networks))
        return self._shown(network)

    def _remove(self, request: Request) -> Answer:
        gone = self._require(request)
        self._keep(networks=tuple(each for each in self._wifi.networks if each.id != gone.id))
        return Answer()

    def _failure(self, request: Request) -> Answer:
        raise RequestRefusedError(
            Code.NETWORK_NOT_FOUND, f"failed connection: expected one, found none of network {request.parameter[:20]!r}"
        )

    def _require(self, request: Request) -> _Network:
        for network in self._wifi.networks:
            if str(network.id) == request.parameter:
                return network
        raise RequestRefusedError(
            Code.NETWORK_NOT_CONFIGURED, f"network: expected one configured, found {request.parameter[:20]!r}"
        )

    def _shown(self, network: _Network) -> Answer:
        return json_answer(network.shown())


def _check_form(offered: _NewNetwork) -> None:
    length = len(offered.ssid.encode())
    if length > MAX_SSID_BYTES:
        raise RequestRefusedError(Code.SSID_TOO_LONG, f"SSID: expected at most {MAX_SSID_BYTES} bytes, found {length}")
    if not length or bool(offered.psk) != (offered.security_state == "psk"):
        raise RequestRefusedError(Code.INVALID_NETWORK, "network: expected an SSID, and a key for psk alone")
    if offered.security_state == "psk":
        _check_key(offered.psk)
    if offered.security_state == "eaptls" and not offered.client_identity:
        raise RequestRefusedError(Code.NO_CLIENT_IDENTITY, "network: expected a client identity for eaptls, found none")
    if offered.config_name is not None and not 0 < len(offered.config_name) <= MAX_NAME_CHARACTERS:
        raise RequestRefusedError(Code.CONFIGURATION_NAME_LENGTH, "configuration name: expected 1 to 16 characters")


def _check_place(offered: _NewNetwork, wifi: _Wifi) -> None:
    if any((each.ssid, each.security) == (offered.ssid, offered.security_state) for each in wifi.networks):
        raise RequestRefusedError(Code.NETWORK_EXISTS, "network: expected a new one, found it configured")
    if offered.config_name is not None and any(each.name == offered.config_name for each in wifi.networks):
        raise RequestRefusedError(Code.CONFIGURATION_NAME_EXISTS, "configuration name: expected a new one, found it")
    if len(wifi.networks) >= MAX_NETWORKS:
        raise RequestRefusedError(Code.TOO_MANY_NETWORKS, f"networks: expected at most {MAX_NETWORKS}")


def _check_key(key: str) -> None:
    length = len(key.encode())
    if length < MIN_KEY_BYTES:
        raise RequestRefusedError(Code.KEY_TOO_SHORT, f"key: expected at least {MIN_KEY_BYTES} bytes, found {length}")
    if length > MAX_KEY_BYTES:
        raise RequestRefusedError(Code.KEY_TOO_LONG, f"key: expected at most {MAX_KEY_BYTES} bytes, found {length}")
