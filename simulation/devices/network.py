"""A virtual device's connections: requests go straight to the virtual service's use cases.

Around them is the network of every fidelity (`device_sim.network.quality`): latency, jitter, loss, bandwidth, metered
days, offline hours, outages, NAT time-outs, and that answers take time. Not real: packets, and bytes on the wire, which
are estimated here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from device_sim.network.ports import HttpResponse, HttpTransport, LinkCounts, LinkEvents, UnreachableError
from device_sim.network.quality import NetworkPath
from device_sim.network.shaped import ShapedTransport
from device_sim.network.tls import Credential
from protocol.identity import DeviceId
from protocol.voucher import Voucher
from simulation.errors import ServiceDownError

REQUEST_BYTES = 420  # of HTTP and TLS around a request's body, without a handshake
ANSWER_BYTES = 260  # the same of an answer
HANDSHAKE_BYTES = 3_300  # both ways, with both certificates, P-256
TIME_LIMIT_SECONDS = 30.0  # of a request whose answer does not come
KEEP_ALIVE_SECONDS = 60.0  # of the MQTT link
CONNECTION_LOST = 7  # MQTT client libraries' code


@dataclass(frozen=True, slots=True)
class Answer:
    """What the virtual service answers: status, body, headers in lower case."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Serve = Callable[[DeviceId, str, str, bytes, Mapping[str, str]], Answer]
"""Takes device id, method, path, body and headers of a request that arrived."""


class DirectTransport:
    """Requests of one device that arrived; implements `HttpTransport`.

    Args:
        device_id: in the certificate that it would show.
        path: counts what would be on the wire.
        serve: answers.
    """

    __slots__ = ("_device_id", "_is_connected", "_path", "_serve")

    def __init__(self, device_id: DeviceId, path: NetworkPath, serve: Serve) -> None:
        self._device_id = device_id
        self._path = path
        self._serve = serve
        self._is_connected = False

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """See `HttpTransport.request`; the virtual service never sends more than it was asked for."""
        del max_bytes
        handshake = 0 if self._is_connected else HANDSHAKE_BYTES
        try:
            answer = self._serve(self._device_id, method, path, body or b"", headers or {})
        except ServiceDownError as error:
            self._is_connected = False
            raise UnreachableError(str(error)) from error
        self._is_connected = True
        sent, received = REQUEST_BYTES + len(body or b"") + handshake, ANSWER_BYTES + len(answer.body)
        self._path.meter.add(sent=sent, received=received, requests=1)
        return HttpResponse(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        """Have the next request make a new connection."""
        self._is_connected = False


class VirtualLink:
    """A device's MQTT connection; implements `MqttLink`.

    It carries no telemetry; what matters is whether a hint of the service finds the device.

    Args:
        path: to the service.
        events: told of connections and commands.
        is_service_up: says so.
    """

    __slots__ = ("_connected_at", "_events", "_is_service_up", "_path", "_wanted", "connected")

    def __init__(self, path: NetworkPath, events: LinkEvents, is_service_up: Callable[[], bool]) -> None:
        self._path = path
        self._events = events
        self._is_service_up = is_service_up
        self._wanted = False
        self._connected_at = 0.0
        self.connected = False

    @property
    def counts(self) -> LinkCounts:
        """Nothing is sent."""
        return LinkCounts(sent=0, acknowledged=0, dropped=0, waiting=0)

    def start(self) -> None:
        """Connect, now or as soon as there is a way to the service."""
        self._wanted = True
        self.follow()

    def stop(self) -> None:
        """Disconnect until `start`."""
        self._wanted = False
        self._drop(0)

    def reconnect(self) -> None:
        """Connect anew."""
        if self.connected:
            self._connect()

    def publish(self, topic: str, payload: bytes) -> None:
        """Count what a message would cost."""
        self._path.meter.add(sent=len(topic) + len(payload))

    def drain(self, timeout_seconds: float) -> bool:
        """Wait for nothing."""
        del timeout_seconds
        return True

    def follow(self) -> None:
        """Connect or disconnect as the network and the service let it."""
        is_up = self._wanted and self._is_service_up() and self._path.is_open
        if is_up and not self.connected:
            self._connect()
            self._events.connected()
        elif not is_up:
            self._drop(CONNECTION_LOST)

    def tell(self, name: str) -> bool:
        """Hand a command to the device; False if it is not connected, or its network has forgotten it."""
        if not self.connected or not self._path.is_open or self._is_forgotten():
            return False
        self._path.meter.add(received=len(name))
        self._events.command(name, b"")
        return True

    def _connect(self) -> None:
        self.connected, self._connected_at = True, self._path.now
        self._path.meter.add(sent=HANDSHAKE_BYTES // 2, received=HANDSHAKE_BYTES // 2)

    def _is_forgotten(self) -> bool:
        """Whether a NAT dropped the silent connection, which shows at the next keep-alive message alone."""
        silent = (self._path.now - self._connected_at) % KEEP_ALIVE_SECONDS
        return self._path.forgets(self._path.now - silent)

    def _drop(self, code: int) -> None:
        if self.connected:
            self.connected = False
            self._events.disconnected(code)


class VirtualSession:
    """Both connections; implements `Session`."""

    __slots__ = ("_link", "_transport")

    def __init__(self, transport: HttpTransport, link: VirtualLink) -> None:
        self._transport = transport
        self._link = link

    @property
    def transport(self) -> HttpTransport:
        """Requests to the device API."""
        return self._transport

    @property
    def link(self) -> VirtualLink:
        """The MQTT connection."""
        return self._link

    def renew(self, credential: Credential) -> None:
        """Connect anew with the next request."""
        del credential
        self._transport.close()

    def close(self) -> None:
        """End both connections."""
        self._link.stop()


class VirtualNetwork:
    """How one device gets its connections; implements `Sessions`. It attests as data, see `devices.trust`.

    Args:
        path: of the device.
        serve: answers requests.
        is_service_up: says so.

    Attributes:
        link: of the session that is open, or None.
    """

    __slots__ = ("_is_service_up", "_path", "_serve", "link")

    def __init__(self, path: NetworkPath, serve: Serve, is_service_up: Callable[[], bool]) -> None:
        self._path = path
        self._serve = serve
        self._is_service_up = is_service_up
        self.link: VirtualLink | None = None

    def transport(self, device_id: DeviceId) -> HttpTransport:
        """Return a way to send requests."""
        direct = DirectTransport(device_id, self._path, self._serve)
        return ShapedTransport(direct, self._path, limit_seconds=TIME_LIMIT_SECONDS)

    def session(
        self, device_id: DeviceId, voucher: Voucher, credential: Credential, events: LinkEvents
    ) -> VirtualSession:
        """Return the connections of an attested device."""
        del voucher, credential
        self.link = VirtualLink(self._path, events, self._is_service_up)
        return VirtualSession(self.transport(device_id), self.link)
