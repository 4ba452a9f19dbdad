"""The MQTT link: paho-mqtt over mutual TLS, MQTT 3.1.1, QoS 1, a session that outlives its connections.

Invariants: at most `in_flight` messages await their PUBACK, at most `queue` wait behind them; when that is full the
oldest waiting message is dropped and counted. A message counts as sent when paho takes it and as acknowledged when
its PUBACK arrives; paho repeats unacknowledged ones after a reconnect.
"""

import contextlib
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from paho.mqtt import client as paho

from device_sim.network.ports import LinkCounts, LinkEvents
from protocol.identity import DeviceId
from protocol.topics import command_filter

CONNECTION_ACCEPTED = 0


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one link may hold, and how it waits.

    Attributes:
        in_flight: messages that await their PUBACK.
        queue: messages that wait behind them.
        keepalive_seconds: MQTT keep alive.
        reconnect_seconds: shortest and longest pause between attempts; it doubles from one to the other.
    """

    in_flight: int = 20
    queue: int = 1000
    keepalive_seconds: int = 60
    reconnect_seconds: tuple[int, int] = (1, 60)


class _Client(paho.Client):
    """paho 1.6 takes only ConnectionError for a lost connection.

    TLS tells one by other OSErrors (`ssl.SSLEOFError`), which would end paho's thread, and with it the link, for good.
    And it makes two sockets at every start of its loop, of which it forgets the ones before.
    paho is pinned; tests/integration/device_update/test_mqtt_link.py stands on every private method.
    """

    def release(self) -> None:
        """Close the sockets of a loop that has stopped."""
        super()._reset_sockets(sockpair_only=True)  # type: ignore[misc]  # private, so not in the stubs

    def _sock_send(self, buf: bytes) -> int:
        with _lost_connections():
            return int(super()._sock_send(buf))  # type: ignore[misc]  # private, so not in the stubs

    def _sock_recv(self, bufsize: int) -> bytes:
        with _lost_connections():
            return bytes(super()._sock_recv(bufsize))  # type: ignore[misc]  # private, so not in the stubs


@contextlib.contextmanager
def _lost_connections() -> Iterator[None]:
    try:
        yield
    except (BlockingIOError, ConnectionError):
        raise
    except OSError as error:
        raise ConnectionError(str(error)) from error


class PahoLink:
    """The real `MqttLink`."""

    def __init__(
        self,
        device_id: DeviceId,
        context: ssl.SSLContext,
        *,
        host: str,
        port: int,
        events: LinkEvents,
        limits: LinkLimits | None = None,
    ) -> None:
        """Prepare a link; nothing connects yet.

        Args:
            device_id: the MQTT client id.
            context: from `client_context`; a renewed credential is shown from the next connection on.
            host: the gateway's, as its certificate names it.
            port: the gateway's.
            events: called from the link's thread.
            limits: what the link may hold.
        """
        self._limits = limits or LinkLimits()
        self._address = (host, port)
        self._events = events
        self._commands = command_filter(device_id)
        self._queue: deque[tuple[str, bytes]] = deque()
        self._changed = threading.Condition()
        self._sent = self._acknowledged = self._dropped = 0
        self._connected = False
        self._client = self._new_client(device_id, context)

    def _new_client(self, device_id: DeviceId, context: ssl.SSLContext) -> _Client:
        client = _Client(client_id=device_id, clean_session=False, protocol=paho.MQTTv311)
        client.tls_set_context(context)
        client.max_inflight_messages_set(self._limits.in_flight)
        client.reconnect_delay_set(*self._limits.reconnect_seconds)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        return client

    @property
    def connected(self) -> bool:
        """Whether the gateway accepted the connection and it still stands."""
        return self._connected

    @property
    def counts(self) -> LinkCounts:
        """What has been sent so far."""
        with self._changed:
            return LinkCounts(self._sent, self._acknowledged, self._dropped, len(self._queue))

    def start(self) -> None:
        """Connect in the background, for the first time or after `stop`, and reconnect until stopped."""
        self._client.connect_async(*self._address, keepalive=self._limits.keepalive_seconds)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes) -> None:
        """Queue one message at QoS 1; the oldest waiting one makes room when the queue is full."""
        with self._changed:
            if len(self._queue) >= self._limits.queue:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append((topic, payload))
        self._send_waiting()

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until everything is acknowledged; False when the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and self._acknowledged == self._sent, timeout_seconds)

    def reconnect(self) -> None:
        """Break the connection, so that paho makes a new one and sends again what is unacknowledged."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            with contextlib.suppress(OSError):  # it broke by itself
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # below TLS, which paho's thread is using

    def stop(self) -> None:
        """Disconnect until `start`; what is unacknowledged waits."""
        self._client.disconnect()
        self._client.loop_stop()
        self._client.release()
        self._connected = False

    def _send_waiting(self) -> None:
        while message := self._next_message():
            self._client.publish(*message, qos=1)

    def _next_message(self) -> tuple[str, bytes] | None:
        with self._changed:
            free = self._connected and self._sent - self._acknowledged < self._limits.in_flight
            if not free or not self._queue:
                return None
            self._sent += 1
            return self._queue.popleft()

    def _on_connect(self, client: paho.Client, _userdata: object, _flags: dict[str, int], code: int) -> None:
        if code != CONNECTION_ACCEPTED:
            return  # paho closes the connection and tries again
        client.subscribe(self._commands, qos=1)
        self._connected = True
        self._events.connected()
        self._send_waiting()

    def _on_disconnect(self, _client: paho.Client, _userdata: object, code: int) -> None:
        was_connected, self._connected = self._connected, False
        if was_connected:
            self._events.disconnected(code)

    def _on_publish(self, _client: paho.Client, _userdata: object, _message_id: int) -> None:
        with self._changed:
            self._acknowledged += 1
            self._changed.notify_all()
        self._send_waiting()

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        self._events.command(message.topic.rpartition("/")[2], bytes(message.payload))
