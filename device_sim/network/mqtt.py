"""The MQTT link: paho-mqtt over mutual TLS, MQTT 3.1.1, QoS 1, a session that outlives its connections.

paho speaks the protocol; `LinkLoop` waits for the sockets of all links in one thread, so a link costs no thread.
Invariants: at most `in_flight` messages await their PUBACK, at most `queue` wait behind them; when that is full the
oldest waiting message is dropped and counted. A message counts as sent when paho takes it and as acknowledged when
its PUBACK arrives; paho repeats unacknowledged ones after a reconnect. Where the path lets nothing through, bytes
vanish without a word, as behind a NAT that has forgotten the connection: the keep alive finds out.
"""

import contextlib
import hashlib
import random
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from paho.mqtt import client as paho

from device_sim.network.loop import READ, LinkLoop
from device_sim.network.ports import LinkCounts, LinkEvents
from device_sim.network.quality import NetworkPath
from device_sim.network.wire import ConnectionCount
from protocol.identity import DeviceId
from protocol.topics import command_filter

CONNECTION_ACCEPTED = 0
CONNECTION_LOST = 7  # paho's MQTT_ERR_CONN_LOST


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one link may hold, and how it waits.

    Attributes:
        in_flight: messages that await their PUBACK.
        queue: messages that wait behind them.
        keepalive_seconds: MQTT keep alive.
        connect_seconds: for TCP, and for each flight of the TLS handshake.
        reconnect_seconds: shortest and longest pause between attempts; it doubles from one to the other.
    """

    in_flight: int = 20
    queue: int = 1000
    keepalive_seconds: int = 60
    connect_seconds: float = 10.0
    reconnect_seconds: tuple[float, float] = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where a link leads, and over what.

    Attributes:
        host: the gateway's, as its certificate names it.
        port: the gateway's.
        loop: waits for the link's sockets.
        path: lies between the device and the gateway.
    """

    host: str
    port: int
    loop: LinkLoop
    path: NetworkPath


class _Client(paho.Client):
    """paho 1.6, whose sockets the link's loop waits for.

    It takes only ConnectionError for a lost connection; TLS tells one by other OSErrors (`ssl.SSLEOFError`).
    paho is pinned; tests/integration/device_update/test_mqtt_link.py stands on every private method.
    """

    def __init__(
        self,
        device_id: DeviceId,
        address: tuple[str, int],
        *,
        place: str,
        lets_through: Callable[[], bool],
        connect_seconds: float,
    ) -> None:
        super().__init__(client_id=device_id, clean_session=False, protocol=paho.MQTTv311)
        self._address = address
        self._own_address = _address_of(device_id, place) if _is_loopback(address[0]) else None
        self._lets_through = lets_through
        self._connect_seconds = connect_seconds

    def drop(self) -> None:
        """Close the connection without a word."""
        super()._sock_close()  # type: ignore[misc]  # private, so not in the stubs

    def _create_socket_connection(self) -> socket.socket:
        connection = socket.create_connection(
            self._address, timeout=self._connect_seconds, source_address=self._own_address
        )
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _sock_send(self, buf: bytes) -> int:
        if not self._lets_through():
            return len(buf)
        with _lost_connections():
            return int(super()._sock_send(buf))  # type: ignore[misc]  # private, so not in the stubs

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._lets_through():
            raise BlockingIOError
        with _lost_connections():
            return bytes(super()._sock_recv(bufsize))  # type: ignore[misc]  # private, so not in the stubs


def _is_loopback(host: str) -> bool:
    """Whether a gateway is reached from any address of 127.0.0.0/8, which Linux alone has without being told."""
    return sys.platform == "linux" and host.startswith("127.")


def _address_of(device_id: DeviceId, place: str) -> tuple[str, int]:
    """Return an address for a device on the loopback: a gateway bounds what comes from one, as from one attacker."""
    first, second, third = hashlib.sha256(f"{device_id}{place}".encode()).digest()[:3]
    return f"127.{first}.{second}.{third or 1}", 0


@contextlib.contextmanager
def _lost_connections() -> Iterator[None]:
    try:
        yield
    except (BlockingIOError, ConnectionError):
        raise
    except OSError as error:
        raise ConnectionError(str(error)) from error


class PahoLink:
    """The real `MqttLink`; what begins with an underscore runs in the loop, except `_dial`.

    Args:
        device_id: the MQTT client id.
        context: from `client_context`; a renewed credential is shown from the next connection on.
        gateway: where it leads.
        events: called from the loop.
        limits: what the link may hold.
    """

    def __init__(
        self,
        device_id: DeviceId,
        context: ssl.SSLContext,
        *,
        gateway: Gateway,
        events: LinkEvents,
        limits: LinkLimits | None = None,
    ) -> None:
        self._limits = limits or LinkLimits()
        self._gateway, self._loop, self._path = gateway, gateway.loop, gateway.path
        self._events = events
        self._commands = command_filter(device_id)
        self._queue: deque[tuple[float, str, bytes]] = deque()  # not sent before a moment
        self._changed = threading.Condition()
        self._sent = self._acknowledged = self._dropped = 0
        self._is_pumping = False
        self._awaited = 0.0  # moment of the message that the loop waits with
        self._connected = self._is_wanted = self._is_dialling = self._is_forgotten = False
        self._failures = self._connections = 0
        self._last_traffic = 0.0  # on the path's clock
        self._jitter = random.Random(device_id)  # noqa: S311 - pauses, no key
        self._count: ConnectionCount | None = None
        self._client = self._new_client(device_id, context)

    def _new_client(self, device_id: DeviceId, context: ssl.SSLContext) -> _Client:
        address = (self._gateway.host, self._gateway.port)
        limits = self._limits
        client = _Client(
            device_id,
            address,
            place=self._gateway.path.place,
            lets_through=self._lets_through,
            connect_seconds=limits.connect_seconds,
        )
        client.connect_async(*address, keepalive=limits.keepalive_seconds)
        client.tls_set_context(context)
        client.max_inflight_messages_set(limits.in_flight)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = _leave_to_flush
        return client

    @property
    def connected(self) -> bool:
        """Whether the gateway accepted the connection and it still stands."""
        return self._connected

    @property
    def last_traffic(self) -> float:
        """When bytes went over the connection for the last time, on the path's clock."""
        return self._last_traffic

    @property
    def counts(self) -> LinkCounts:
        """What has been sent so far."""
        with self._changed:
            return LinkCounts(self._sent, self._acknowledged, self._dropped, len(self._queue))

    def start(self) -> None:
        """Connect in the background, for the first time or after `stop`, and reconnect until stopped."""
        self._loop.call(self._start)

    def publish(self, topic: str, payload: bytes) -> None:
        """Queue one message at QoS 1; the oldest waiting one makes room when the queue is full."""
        moment = self._loop.now() + self._path.message_seconds(len(payload))
        with self._changed:
            if len(self._queue) >= self._limits.queue:
                self._queue.popleft()
                self._dropped += 1
            latest = self._queue[-1][0] if self._queue else 0.0
            self._queue.append((max(moment, latest), topic, payload))
            is_pumping, self._is_pumping = self._is_pumping, True
        if not is_pumping:
            self._loop.call(self._pump)

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until everything is acknowledged; False when the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and self._acknowledged == self._sent, timeout_seconds)

    def reconnect(self) -> None:
        """Connect anew; what is unacknowledged is sent again."""
        self._loop.call(self._break)

    def stop(self) -> None:
        """Disconnect until `start`; what is unacknowledged waits."""
        self._loop.call(self._stop)

    def _start(self) -> None:
        if not self._is_wanted:
            self._is_wanted = True
            self._connect()

    def _stop(self) -> None:
        self._is_wanted = False
        if not self._is_dialling and self._client.socket() is not None:
            self._client.disconnect()
            self._flush()
            self._lose(CONNECTION_ACCEPTED)  # where a full buffer has kept the farewell back

    def _break(self) -> None:
        if not self._is_dialling:
            self._lose(CONNECTION_LOST)

    def _lose(self, code: int) -> None:
        if self._client.socket() is not None:
            self._client.drop()
            self._on_disconnect(self._client, None, code)

    def _connect(self) -> None:
        if not self._is_wanted or self._is_dialling or self._client.socket() is not None:
            return
        if not self._path.is_open:
            self._retry()
            return
        self._is_dialling = True
        seconds = self._path.exchange(self._limits.connect_seconds).seconds
        self._loop.call_at(self._loop.now() + seconds, partial(self._loop.offload, self._dial, self._dialled))

    def _dial(self) -> bool:
        """Make the connection, in a thread of the loop's; return whether it stands."""
        try:
            self._client.reconnect()
        except OSError:
            return False
        return True

    def _dialled(self, stands: bool) -> None:  # noqa: FBT001 - the loop hands over one result
        self._is_dialling = False
        connection = self._client.socket()
        if not stands or not isinstance(connection, socket.socket):
            self._retry()
            return
        self._is_forgotten = False
        self._last_traffic = self._path.now
        self._count = ConnectionCount(connection, self._path.meter)
        self._loop.watch(connection, self._on_ready)
        if not self._is_wanted:
            self._stop()
            return
        self._flush()
        self._connections += 1
        self._keep_alive(self._connections)

    def _retry(self) -> None:
        first, limit = self._limits.reconnect_seconds
        longest = min(limit, first * float(1 << min(self._failures, 32)))
        self._failures += 1
        self._loop.call_at(self._loop.now() + longest * self._jitter.uniform(0.5, 1.0), self._connect)

    def _keep_alive(self, connection: int) -> None:
        """Look after one connection, and after the bytes that went over it, until there is another one or none."""
        connected = self._client.socket()
        if connection != self._connections or not isinstance(connected, socket.socket):
            return
        self._carry_count()
        if not self._loop.is_watched(connected) and self._lets_through():
            self._loop.watch(connected, self._on_ready)
        self._client.loop_misc()
        self._flush()
        self._loop.call_at(self._loop.now() + self._limits.keepalive_seconds / 2, partial(self._keep_alive, connection))

    def _lets_through(self) -> bool:
        self._is_forgotten = self._is_forgotten or self._path.forgets(self._last_traffic)
        passes = not self._is_forgotten and self._path.is_open
        if passes:
            self._last_traffic = self._path.now
        return passes

    def _on_ready(self, mask: int) -> None:
        connection = self._client.socket()
        if not isinstance(connection, ssl.SSLSocket):
            return
        if not self._lets_through():
            self._loop.unwatch(connection)  # what has arrived would be told again and again
            return
        if mask & READ:
            self._client.loop_read()
            while self._client.socket() is connection and connection.pending():
                self._client.loop_read()
        self._pump()

    def _flush(self) -> None:
        """Write what paho has queued, and ask the loop to tell when the rest can be written."""
        if self._is_dialling:
            return
        if self._client.want_write():
            self._client.loop_write()
        connection = self._client.socket()
        if isinstance(connection, socket.socket) and self._loop.is_watched(connection):
            self._loop.want(connection, self._on_ready, write=self._client.want_write())

    def _pump(self) -> None:
        """Hand messages whose moment has come to paho, and what paho has to the socket."""
        with self._changed:
            self._is_pumping = False
        while message := self._next_message():
            self._client.publish(*message, qos=1)
        self._flush()

    def _next_message(self) -> tuple[str, bytes] | None:
        with self._changed:
            free = self._connected and self._sent - self._acknowledged < self._limits.in_flight
            if not free or not self._queue:
                return None
            moment, topic, payload = self._queue[0]
            if moment > self._loop.now():
                if moment != self._awaited:
                    self._awaited = moment
                    self._loop.call_at(moment, self._pump)
                return None
            self._queue.popleft()
            self._sent += 1
            return topic, payload

    def _carry_count(self) -> None:
        if self._count is not None:
            self._count.carry()

    def _on_connect(self, client: paho.Client, _userdata: object, _flags: dict[str, int], code: int) -> None:
        if code != CONNECTION_ACCEPTED:
            return  # paho closes the connection
        client.subscribe(self._commands, qos=1)
        self._failures = 0
        self._connected = self._is_wanted
        self._events.connected()

    def _on_disconnect(self, _client: paho.Client, _userdata: object, code: int) -> None:
        was_connected, self._connected = self._connected, False
        if was_connected:
            self._events.disconnected(code)
        if self._is_wanted:
            self._retry()

    def _on_socket_close(self, _client: paho.Client, _userdata: object, connection: object) -> None:
        self._carry_count()
        self._count = None
        if isinstance(connection, socket.socket) and self._loop.is_watched(connection):
            self._loop.unwatch(connection)

    def _on_publish(self, _client: paho.Client, _userdata: object, _message_id: int) -> None:
        with self._changed:
            self._acknowledged += 1
            self._changed.notify_all()

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        name, payload = message.topic.rpartition("/")[2], bytes(message.payload)
        moment = self._loop.now() + self._path.message_seconds(len(payload))
        self._loop.call_at(moment, partial(self._events.command, name, payload))


def _leave_to_flush(_client: paho.Client, _userdata: object, _connection: object) -> None:
    """Tell paho that somebody else waits for the socket; `_flush` asks it what it has to write."""
