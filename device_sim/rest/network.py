"""The network as the device sees it over the cable: one interface that is never connected, a proxy that is only kept.

A device that runs (`device-sim run`) reaches its service over the host's network and knows neither.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from device_sim.hardware.machine import Machine
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import JSON_TYPE, Answer, Request, RequestDocument, Route, json_answer
from device_sim.runtime.trust import LDEVID
from protocol.document import Document

INTERFACE = "wlan0"
_STORED = "rest/network"  # name in secure storage
Address = Annotated[str, Field(min_length=1, max_length=255)]


class _InterfaceChange(RequestDocument):
    interface_up: bool


class _NewProxy(RequestDocument):
    enabled: bool
    address: Address
    port: Annotated[int, Field(ge=1, le=65535)]
    no_proxy_addresses: Annotated[tuple[Address, ...], Field(max_length=64)] = ()
    authentication_type: Literal["anonymous", "basic"]
    username: Annotated[str, Field(max_length=128)] = ""
    password: Annotated[str, Field(max_length=128)] = ""


class _Proxy(Document):
    enabled: bool
    address: str
    port: int
    no_proxy_addresses: tuple[str, ...]
    authentication: str
    username: str
    password: str

    def shown(self) -> dict[str, object]:
        """Return it as the client sees it: without its password."""
        shown: dict[str, object] = {
            "enabled": self.enabled,
            "address": self.address,
            "port": self.port,
            "noProxyAddresses": list(self.no_proxy_addresses),
            "authenticationType": self.authentication,
        }
        return shown | ({"username": self.username} if self.username else {})


class _Network(Document):
    is_up: bool = True
    proxy: _Proxy | None = None


class Network:
    """Routes of the network.

    Args:
        machine: of the device.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def routes(self) -> Iterator[Route]:
        """Yield them."""
        yield Route("GET", "net/status", self._status)
        yield Route("GET", "net/interfaces", lambda _: json_answer({"interfaces": [self._interface()]}))
        yield Route("GET", "net/interfaces/*", self._show_interface)
        yield Route("PATCH", "net/interfaces/*", self._change_interface, content_type=JSON_TYPE)
        yield Route("GET", "net/firewall/rulesets", self._firewall)
        yield Route("GET", "net/proxy", self._show_proxy)
        yield Route("POST", "net/proxy", self._set_proxy, content_type=JSON_TYPE)
        yield Route("DELETE", "net/proxy", self._delete_proxy)

    @property
    def _network(self) -> _Network:
        return self._machine.storage.get_document(_STORED, _Network) or _Network()

    def _keep(self, **changes: object) -> None:
        self._machine.storage.put_document(_STORED, self._network.model_copy(update=changes))

    def _status(self, _request: Request) -> Answer:
        proxy = self._network.proxy
        return json_answer(
            {
                "deviceAuthenticationIsReady": self._machine.storage.get(LDEVID) is not None,
                "networkTimeSync": "complete" if self._machine.clock.is_synchronised else "incomplete",
                "proxy": "enabled" if proxy is not None and proxy.enabled else "disabled",
            }
        )

    def _interface(self) -> dict[str, object]:
        return {
            "interfaceName": INTERFACE,
            "interfaceUp": self._network.is_up,
            "connectedToNetwork": False,
            "ipAcquired": False,
            "connectedToInternet": False,
            "ipAddresses": [],
        }

    def _show_interface(self, request: Request) -> Answer:
        _require_interface(request)
        return json_answer(self._interface())

    def _change_interface(self, request: Request) -> Answer:
        _require_interface(request)
        self._keep(is_up=request.document(_InterfaceChange).interface_up)
        return Answer()

    def _firewall(self, _request: Request) -> Answer:
        hooks = ("input", "output")
        return json_answer({"rulesets": [{"hook": hook, "isValid": True, "rules": []} for hook in hooks]})

    def _show_proxy(self, _request: Request) -> Answer:
        proxy = self._network.proxy
        return json_answer({} if proxy is None else proxy.shown())

    def _set_proxy(self, request: Request) -> Answer:
        offered = request.document(_NewProxy)
        if bool(offered.username and offered.password) != (offered.authentication_type == "basic"):
            raise RequestRefusedError(Code.INVALID_PARAMETER, "proxy: expected name and password for basic alone")
        proxy = _Proxy(
            enabled=offered.enabled,
            address=offered.address,
            port=offered.port,
            no_proxy_addresses=offered.no_proxy_addresses,
            authentication=offered.authentication_type,
            username=offered.username,
            password=offered.password,
        )
        self._keep(proxy=proxy)
        return json_answer(proxy.shown())

    def _delete_proxy(self, _request: Request) -> Answer:
        self._keep(proxy=None)
        return Answer()


def _require_interface(request: Request) -> None:
    if request.parameter != INTERFACE:
        raise RequestRefusedError(
            Code.INVALID_INTERFACE, f"interface: expected {INTERFACE}, found {request.parameter[:20]!r}"
        )
