"""What the device needs of a network. Real sockets implement it today, a virtual network can tomorrow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from device_sim.errors import DeviceSimError
from device_sim.hardware.machine import Machine
from device_sim.network.tls import Credential
from protocol.identity import DeviceId
from protocol.voucher import Voucher


class NetworkError(DeviceSimError):
    """Base: the service could not be reached, or did not answer as agreed. Worth trying again later.

    Attributes:
        retry_after_seconds: how long the service asked to be left alone; 0 if it did not.
    """

    def __init__(self, message: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(NetworkError):
    """No connection, a failed handshake, or a connection that broke."""


class FalseServerError(UnreachableError):
    """Somebody answers in the service's place, without a certificate of the voucher's root."""


class EndlessDataError(NetworkError):
    """The answer is longer than it may be."""


class SlowRetrievalError(NetworkError):
    """The answer did not arrive within its time."""


class UnexpectedResponseError(NetworkError):
    """The service answered, but not with what was agreed."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One whole answer.

    Attributes:
        status: HTTP status code.
        headers: names in lower case.
        body: read to its end; of an error perhaps only the beginning.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpTransport(Protocol):
    """Requests to one server with one credential."""

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send one request and read the whole answer.

        Args:
            method: GET or POST.
            path: starts with `/device/v1/`.
            max_bytes: longest body of a success that is taken.
            body: JSON to post.
            headers: further headers.

        Raises:
            UnreachableError: no answer could be had.
            FalseServerError: somebody else would have answered; nothing was sent.
            EndlessDataError: the body of a success is longer than `max_bytes`.
            SlowRetrievalError: the answer did not arrive in time.
        """

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""


@dataclass(frozen=True, slots=True)
class LinkCounts:
    """Messages of one MQTT link since it was made.

    Attributes:
        sent: handed to the network, each counted once.
        acknowledged: of these, how many the service acknowledged.
        dropped: thrown away, oldest first, because the offline queue was full.
        waiting: in the offline queue now.
    """

    sent: int
    acknowledged: int
    dropped: int
    waiting: int

    @property
    def outstanding(self) -> int:
        """Messages that the service has yet to acknowledge."""
        return self.sent - self.acknowledged + self.waiting


class MqttLink(Protocol):
    """One device's connection to the gateway; it reconnects by itself."""

    @property
    def connected(self) -> bool:
        """Whether the gateway accepted the connection and it still stands."""

    @property
    def counts(self) -> LinkCounts:
        """What has been sent so far."""

    def start(self) -> None:
        """Connect in the background, for the first time or after `stop`."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Queue one message at QoS 1; the oldest waiting one makes room when the queue is full."""

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until everything is acknowledged; False when the time ran out first."""

    def reconnect(self) -> None:
        """Connect anew, with the certificate in force; what is unacknowledged is sent again."""

    def stop(self) -> None:
        """Disconnect until `start`; what is unacknowledged waits. Does nothing to a link that is stopped."""


@dataclass(frozen=True, slots=True)
class LinkEvents:
    """What a link tells its device, from the link's own thread.

    Attributes:
        connected: the gateway accepted the connection.
        disconnected: it ended, with the reason's code.
        command: a command arrived, by name with its payload.
    """

    connected: Callable[[], None]
    disconnected: Callable[[int], None]
    command: Callable[[str, bytes], None]


class Session(Protocol):
    """Everything that a device does with its operational certificate."""

    @property
    def transport(self) -> HttpTransport:
        """HTTPS to the device API."""

    @property
    def link(self) -> MqttLink:
        """MQTT to the gateway; not started yet."""

    def renew(self, credential: Credential) -> None:
        """Show another certificate from now on; HTTPS connects anew, the link when it is told to."""

    def close(self) -> None:
        """End both connections for good."""


class Sessions(Protocol):
    """How an attested device gets its connections."""

    def session(self, device_id: DeviceId, voucher: Voucher, credential: Credential, events: LinkEvents) -> Session:
        """Return the connections of an attested device."""


class Network(Sessions, Protocol):
    """How a device gets all its connections."""

    def attestation(self, machine: Machine, voucher: Voucher) -> HttpTransport:
        """Return HTTPS with the IDevID, for the attestation endpoint alone."""
