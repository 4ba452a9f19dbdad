"""One MQTT connection: reads packets, checks topics, hands messages to the committer, answers.

The way of a message: `data_received` → frames → `_take_publish` (topic looked up in this connection's cache of
checked topics) → one `Committer.submit` per read → `acknowledge` after the commit, one write for all PUBACKs.
No object, task or await is spent on a single message.

What needs a database (CONNECT, SUBSCRIBE, UNSUBSCRIBE) is a *step*: reading pauses, the packets behind it wait in
order, and they go on when the step is done.

A connection is admitted in these steps:

1. CONNECT is the first packet [MQTT-3.1.0-1], in time, of MQTT 3.1.1.
2. The certificate that TLS verified is admitted now (`service.gateway.admission`): valid, known, not blocked.
3. Client id and user name are the certificate's device id (`service.gateway.dialects`).
4. A will's topic is the device's own.
5. It is still open: a kick during steps 2 to 4 counts.
"""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import TypeAlias, cast

import structlog
from typing_extensions import override

from protocol.identity import DeviceId
from service.application.messaging import (
    AdmittedDevice,
    ConnectedDevice,
    MessagingError,
    NotAdmittedError,
    RefusalReason,
    TelemetryRow,
)
from service.gateway import codec
from service.gateway.committer import Share
from service.gateway.dialects import Dialect, Route, dialect_of
from service.gateway.errors import (
    ClientIdMismatchError,
    ConnectTimeoutError,
    GatewayError,
    MalformedPacketError,
    ProtocolViolationError,
    UnsupportedProtocolError,
)
from service.gateway.host import Host
from service.gateway.session import Session

_log = structlog.get_logger()

_PUBACK_BYTES = 4
_KEEP_ALIVE_FACTOR = 1.5  # [MQTT-3.1.2-24]

_RouteParts: TypeAlias = tuple[str, str, str | None]  # kind, stream, properties: as a row takes them


# Why a connection is not read from; bits of one int, because an IntFlag costs a microsecond per use.
_STEP = 1  # a CONNECT, SUBSCRIBE or UNSUBSCRIBE is being worked on
_UNCOMMITTED = 2  # too much of its own waits for the commit
_CONGESTED = 4  # too much of everybody's does
_WRITING = 8  # the peer does not read
_STOPPING = 16  # the gateway stops


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket.

    Attributes:
        device_id: Proven device id; between CONNECT and admission the claimed one; empty before.
        opened: Whether the TLS handshake succeeded.
        closed: Done when the connection is.
        source: Peer's IP address.
    """

    def __init__(self, host: Host, source: str) -> None:
        self.device_id = ""
        self.opened = False
        self.closed: asyncio.Future[None] = host.loop.create_future()
        self._host = host
        self.source = source
        self._reader = codec.FrameReader(host.limits.max_connect_bytes)
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle
        self._dialect: Dialect
        self._session: Session | None = None
        self._routes: dict[bytes, _RouteParts] = {}
        self._backlog: list[codec.Frame] = []
        self._rows: list[TelemetryRow] = []
        self._pubacks = bytearray()
        self._pingresps = bytearray()
        self._rows_bytes = 0
        self._uncommitted = 0
        self._uncommitted_bytes = 0
        self._received_at_ms = 0
        self._pauses = 0
        self._spoke = False
        self._closing = False
        self._close_reason = "connection_lost"
        self._last_heard = 0.0
        self._silence_seconds = host.limits.max_silence_seconds
        self._not_after: datetime
        self._will: tuple[_RouteParts, bytes] | None = None

    @property
    def certificate_der(self) -> bytes:
        """The client's certificate, which TLS has verified; empty without one."""
        return bytes(self._transport.get_extra_info("ssl_object").getpeercert(binary_form=True) or b"")

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for CONNECT, for a limited time."""
        self.opened = True
        self._transport = cast("asyncio.Transport", transport)
        self._host.registry.add(self)
        self._transport.set_write_buffer_limits(high=self._host.limits.write_buffer_bytes)
        self._last_heard = self._host.loop.time()
        self._timer = self._host.loop.call_later(self._host.limits.connect_seconds, self._connect_timed_out)

    @override
    def data_received(self, data: bytes) -> None:
        """Read packets; those behind a step wait for its end."""
        if self._closing:
            return
        self._last_heard = self._host.loop.time()
        try:
            if not self._spoke:
                self._check_first_byte(data)  # step 1
            frames = self._reader.feed(data)
        except GatewayError as error:
            self._refuse(error)
            return
        if self._pauses & (_STEP | _STOPPING):
            self._backlog += frames
        else:
            self._process(frames)

    @override
    def connection_lost(self, exc: Exception | None) -> None:  # the reason is known before, or is none of ours
        """Publish the will unless the client said goodbye, and forget the connection."""
        self._closing = True
        self._timer.cancel()
        self._host.registry.drop(self)
        self._host.registry.release(self.source)
        if self._session is not None:
            self._publish_will()
            self._host.ports.events.disconnected(
                self.device_id, reason=self._close_reason, at=self._host.ports.clock.now()
            )
        self._host.committer.forget(self)
        self.closed.set_result(None)

    def _publish_will(self) -> None:
        if self._will is not None:
            (kind, stream, properties), payload = self._will
            row = (self.device_id, kind, stream, self._now_ms(), payload, properties)
            self._host.committer.submit(self, [row], pubacks=bytearray(), size_bytes=len(payload))

    @override
    def pause_writing(self) -> None:
        """Stop reading from a peer that does not read, so that nothing piles up for it."""
        self._pause(_WRITING)

    @override
    def resume_writing(self) -> None:
        """Read again."""
        self._resume(_WRITING)

    def acknowledge(self, share: Share) -> None:
        """See `Publisher.acknowledge`."""
        self._uncommitted -= share.messages
        self._uncommitted_bytes -= share.size_bytes
        if share.pubacks:
            self.send(share.pubacks)
        if self._pauses & _UNCOMMITTED and self._has_room():
            self._resume(_UNCOMMITTED)

    def commit_failed(self) -> None:
        """See `Publisher.commit_failed`."""
        self.abort("commit_failed")

    def resume_committing(self) -> None:
        """See `Publisher.resume_committing`."""
        self._resume(_CONGESTED)

    def send(self, packets: bytes | bytearray) -> None:
        """Write packets, unless the connection is closing."""
        if not self._closing:
            self._transport.write(packets)

    def notify(self, packet: bytes) -> bool:
        """Write a packet that may be lost; False if the peer is too slow for it or gone."""
        if self._closing or self._pauses & _WRITING:
            return False
        self._transport.write(packet)
        return True

    async def deliver(self) -> None:
        """Send queued commands."""
        if self._session is not None and not self._closing:
            await self._session.deliver(self._send_command)

    @property
    def session(self) -> Session | None:
        """The session, once admitted."""
        return self._session

    @property
    def dialect(self) -> Dialect:
        """The topic map; only once admitted."""
        return self._dialect

    def abort(self, reason: str, *, publish_will: bool = True) -> None:
        """Close at once; what waits to be written is dropped."""
        if not self._closing:
            self._closing = True
            self._close_reason = reason
            if not publish_will:
                self._will = None
            self._transport.abort()

    def stop_reading(self) -> None:
        """Take no more packets: the gateway stops and commits what it has."""
        self._pause(_STOPPING)

    def finish(self, reason: str) -> None:
        """Close after what waits to be written, with a TLS close."""
        if not self._closing:
            self._closing = True
            self._close_reason = reason
            self._will = None
            self._transport.close()

    def _check_first_byte(self, data: bytes) -> None:
        """Refuse another protocol, or another packet, without waiting for the rest of it."""
        self._spoke = True
        if data[0] != codec.CONNECT:
            raise ProtocolViolationError(
                f"first packet: expected CONNECT, found first byte 0x{data[0]:02x} [MQTT-3.1.0-1]"
            )

    def _process(self, frames: list[codec.Frame]) -> None:
        """Take packets in order until one begins a step or ends the connection."""
        self._received_at_ms = self._now_ms()
        admitted = self._session is not None
        try:
            for position, (header, body) in enumerate(frames, start=1):
                if header & 0xF0 == codec.PUBLISH and admitted:
                    self._take_publish(header, body)
                elif self._take_control(header, body):
                    self._backlog = frames[position:]
                    break
        except GatewayError as error:
            self._refuse(error)
            return
        if self._pingresps:  # one write for all of them
            self.send(self._pingresps)
            self._pingresps = bytearray()
        if self._rows:
            self._submit()

    def _now_ms(self) -> int:
        return int(self._host.ports.clock.now().timestamp() * 1000)

    def _take_publish(self, header: int, body: bytes) -> None:
        topic, packet_id, payload = codec.split_publish(header, body)
        route = self._routes.get(topic) or self._check_topic(topic)
        if len(payload) > self._host.limits.max_payload_bytes:
            raise MalformedPacketError(
                f"payload: expected at most {self._host.limits.max_payload_bytes} bytes, found {len(payload)}"
            )
        kind, stream, properties = route
        self._rows.append((self.device_id, kind, stream, self._received_at_ms, payload, properties))
        self._rows_bytes += len(payload)
        if packet_id:
            self._pubacks += codec.PUBACK_PREFIX + packet_id

    def _check_topic(self, topic: bytes) -> _RouteParts:
        """Check a topic that this connection has not used yet, and remember it."""
        limits = self._host.limits
        if len(topic) > limits.max_topic_bytes:
            raise MalformedPacketError(
                f"topic name: expected at most {limits.max_topic_bytes} bytes, found {len(topic)}"
            )
        name = codec.decode_text(topic, "topic name")
        codec.check_topic_name(name)
        route = _parts(self._dialect.route(name))
        if len(self._routes) >= limits.max_cached_topics:
            self._routes.clear()
        self._routes[topic] = route
        return route

    def _submit(self) -> None:
        rows, pubacks, size_bytes = self._rows, self._pubacks, self._rows_bytes
        self._rows, self._pubacks, self._rows_bytes = [], bytearray(), 0
        self._host.counters.received += len(rows)
        self._uncommitted += len(rows)
        self._uncommitted_bytes += size_bytes
        if not self._host.committer.submit(self, rows, pubacks=pubacks, size_bytes=size_bytes):
            self._pause(_CONGESTED)
        if not self._has_room():
            self._pause(_UNCOMMITTED)

    def _has_room(self) -> bool:
        return (
            self._uncommitted < self._host.limits.max_uncommitted_messages
            and self._uncommitted_bytes < self._host.limits.max_uncommitted_message_bytes
        )

    def _take_control(self, header: int, body: bytes) -> bool:
        """Take a packet that is no message; True if the packets behind it must wait, or come too late."""
        if self._session is None:
            self._begin(self._connect(codec.parse_connect(body)))
            return True
        match header:
            case codec.PUBACK:
                self._take_puback(self._session, codec.parse_puback(body))
            case codec.SUBSCRIBE:
                self._begin(self._subscribe(self._session, *codec.parse_subscribe(body)))
                return True
            case codec.UNSUBSCRIBE:
                self._begin(self._unsubscribe(self._session, *codec.parse_unsubscribe(body)))
                return True
            case codec.PINGREQ if not body:
                self._pingresps += codec.PINGRESP_PACKET
            case codec.DISCONNECT if not body:
                self.finish("disconnect")
                return True
            case _:
                raise _unexpected(header, body)
        return False

    def _take_puback(self, session: Session, packet_id: int) -> None:
        if session.begin_acknowledging(packet_id):
            self._host.tasks.create_task(self._guard(session.acknowledge(packet_id, self._send_command)))

    def _begin(self, step: Coroutine[None, None, None]) -> None:
        self._pause(_STEP)
        self._host.tasks.create_task(self._run_step(step))

    async def _run_step(self, step: Coroutine[None, None, None]) -> None:
        await self._guard(step)
        if self._closing:
            return
        backlog, self._backlog = self._backlog, []
        self._pauses &= ~_STEP
        if not self._pauses & _STOPPING:
            self._process(backlog)
        if not self._pauses and not self._closing:
            self._transport.resume_reading()

    async def _guard(self, step: Coroutine[None, None, None]) -> None:
        """Run a step; whatever it raises closes this connection and no other."""
        try:
            await step
        except (GatewayError, NotAdmittedError) as error:
            self._refuse(error)
        except MessagingError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  # an adapter's defect must cost one connection, not the gateway
            self._fail(error)

    async def _connect(self, connect: codec.Connect) -> None:
        """Admit the client; the steps are those of the module."""
        self.device_id = connect.client_id
        self._host.registry.begin_admission(self)
        if not (certificate := self.certificate_der):
            raise NotAdmittedError(RefusalReason.NO_CERTIFICATE, "certificate: expected one, found none")
        admitted = await self._host.ports.admission.admit(certificate)  # step 2
        dialect = dialect_of(connect, DeviceId(admitted.device_id))  # step 3
        wish = connect.will
        will = None if wish is None else (_parts(dialect.route(wish.topic)), wish.payload)  # step 4
        session = self._new_session(admitted.device_id, dialect, durable=not connect.clean_session)
        await session.open()
        if self._closing:  # step 5
            return
        self._dialect, self._session, self._will = dialect, session, will
        self._welcome(connect, admitted, certificate, session_present=session.present)
        await session.deliver(self._send_command)

    def _new_session(self, device_id: str, dialect: Dialect, *, durable: bool) -> Session:
        return Session(
            device_id,
            dialect,
            durable=durable,
            subscription_store=self._host.ports.subscriptions,
            command_queue=self._host.ports.commands,
            clock=self._host.ports.clock,
            limits=self._host.limits,
        )

    def _welcome(
        self, connect: codec.Connect, admitted: AdmittedDevice, certificate: bytes, *, session_present: bool
    ) -> None:
        """Take the place of an older connection [MQTT-3.1.4-2], answer, and watch keep alive and notAfter."""
        older = self._host.registry.admit(self)
        if older is not None:
            older.abort("superseded")
        self._reader.max_bytes = self._host.limits.max_packet_bytes
        self._not_after = admitted.not_after
        if connect.keep_alive_seconds:
            self._silence_seconds = min(self._silence_seconds, _KEEP_ALIVE_FACTOR * connect.keep_alive_seconds)
        self._timer.cancel()
        self._watch()
        self.send(codec.connack(codec.CONNACK_ACCEPTED, session_present=session_present))
        self._host.counters.admitted += 1
        displaced, now = None if older is None else older.source, self._host.ports.clock.now()
        connected = ConnectedDevice(self.device_id, certificate, source=self.source, displaced=displaced, at=now)
        self._host.ports.events.connected(connected)

    async def _subscribe(self, session: Session, packet_id: int, requests: tuple[tuple[str, int], ...]) -> None:
        self.send(codec.suback(packet_id, await session.subscribe(requests)))
        await session.deliver(self._send_command)

    async def _unsubscribe(self, session: Session, packet_id: int, filters: tuple[str, ...]) -> None:
        await session.unsubscribe(filters)
        self.send(codec.unsuback(packet_id))

    def _send_command(self, packet: bytes) -> None:
        self._host.counters.commands_sent += 1
        self.send(packet)

    def _watch(self) -> None:
        """Close at notAfter and after too long a silence; else look again when the earlier of them is due."""
        now = self._host.loop.time()
        if self._pauses & ~_WRITING:  # our own pause is not the peer's silence
            self._last_heard = now
        valid_seconds = (self._not_after - self._host.ports.clock.now()).total_seconds()
        silent_seconds = now - self._last_heard
        if valid_seconds <= 0:
            self.abort("certificate_expired", publish_will=False)
        elif silent_seconds >= self._silence_seconds:
            self.abort("keep_alive")
        else:
            wait_seconds = min(valid_seconds, self._silence_seconds - silent_seconds)
            self._timer = self._host.loop.call_later(wait_seconds, self._watch)

    def _connect_timed_out(self) -> None:
        limit = self._host.limits.connect_seconds
        self._refuse(ConnectTimeoutError(f"CONNECT: expected admission within {limit} s of the handshake"))

    def _refuse(self, error: GatewayError | NotAdmittedError) -> None:
        """Audit a broken rule and close; a refused CONNECT is answered first [MQTT-3.2.2-4]."""
        if self._closing:
            return
        self._rows.clear()
        device_id = self.device_id if self._session is not None else None
        self._host.refuse(error.reason, str(error), source=self.source, device_id=device_id)
        return_code = _connack_of(error)
        if self._session is None and return_code is not None:
            self.send(codec.connack(return_code))
            self.finish(error.reason)
        else:
            self.abort(error.reason)

    def _fail(self, error: Exception) -> None:
        """Close because of our own failure; an unanswered CONNECT is told to come again."""
        _log.error("gateway_step_failed", error=repr(error), exc_info=error)
        if self._session is None:
            self.send(codec.connack(codec.CONNACK_SERVER_UNAVAILABLE))
            self.finish(RefusalReason.INTERNAL)
        else:
            self.abort(RefusalReason.INTERNAL)

    def _pause(self, reason: int) -> None:
        if not self._pauses and not self._closing:
            self._transport.pause_reading()
        self._pauses |= reason

    def _resume(self, reason: int) -> None:
        was_paused = bool(self._pauses)
        self._pauses &= ~reason
        if was_paused and not self._pauses and not self._closing:
            self._transport.resume_reading()


def _parts(route: Route) -> _RouteParts:
    return route.kind.value, route.stream, route.properties


def _connack_of(error: GatewayError | NotAdmittedError) -> int | None:
    """Return the CONNACK return code for a refused CONNECT; None where the connection is closed unanswered."""
    match error:
        case NotAdmittedError():
            return codec.CONNACK_NOT_AUTHORIZED
        case ClientIdMismatchError():
            return codec.CONNACK_IDENTIFIER_REJECTED
        case UnsupportedProtocolError():
            return codec.CONNACK_UNACCEPTABLE_PROTOCOL
        case _:
            return None


def _unexpected(header: int, body: bytes) -> GatewayError:
    if header == codec.CONNECT:
        return ProtocolViolationError("CONNECT: expected once per connection, found a second [MQTT-3.1.0-2]")
    return MalformedPacketError(
        f"packet: expected one that a client sends, found first byte 0x{header:02x} and {len(body)} bytes"
    )
