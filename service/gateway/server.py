"""The gateway: accepts TLS connections, and is what the rest of the service sends commands through.

Sources are counted before the TLS handshake, so that a source cannot hold more handshakes than connections.

A stop is graceful: no new connection and no new packet, what was read is committed and acknowledged, then every
connection is closed.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from service.application.messaging import QueuedCommand, RefusalReason
from service.gateway import codec
from service.gateway.committer import Committer
from service.gateway.connection import Connection
from service.gateway.errors import CommandNameError
from service.gateway.host import Counters, GatewayPorts, Host
from service.gateway.limits import Limits
from service.gateway.registry import Registry
from service.gateway.tls import handshake_refusal

_log = structlog.get_logger()

_BACKLOG = 1_024  # connections that the kernel holds until they are accepted
_STOP_SECONDS = 5.0  # for peers to take their last acknowledgements
_ACCEPT_RETRY_SECONDS = 0.1  # after a failed accept: out of file descriptors
_COMMAND_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")


class Gateway:
    """One MQTT listener; implements `DeviceMessenger`. Made and used on one running event loop."""

    def __init__(self, ports: GatewayPorts, *, limits: Limits | None = None) -> None:
        self._ports = ports
        self._limits = limits or Limits()
        self._counters = Counters()
        self._registry = Registry(self._limits)
        self._loop = asyncio.get_running_loop()
        self._committer = Committer(ports.telemetry, loop=self._loop, limits=self._limits, on_committed=self._committed)
        self._host: Host
        self._handshakes: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, ssl_context: ssl.SSLContext) -> tuple[str, int]:
        """Listen, and return the address; port 0 takes a free one.

        Args:
            host: Address or name to bind.
            port: TCP port.
            ssl_context: From `service.gateway.tls.server_context`.

        Raises:
            OSError: The address is taken.
        """
        listener = socket.create_server((host, port), family=_family(host), backlog=_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003  # the standard library's signature
        ready = asyncio.Event()
        self._supervisor = self._loop.create_task(self._serve(listener, ssl_context, ready=ready), name="gateway")
        await ready.wait()
        address: tuple[str, int] = listener.getsockname()[:2]
        return address

    async def stop(self) -> None:
        """Stop gracefully; returns when every connection is closed and the committer thread has ended."""
        self._stopping.set()
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return when the gateway has stopped; raises what broke it, if something did."""
        if self._supervisor is not None:
            await self._supervisor

    async def send_command(self, device_id: str, name: str, payload: bytes, *, expires_at: datetime) -> QueuedCommand:
        """See `DeviceMessenger.send_command`.

        Raises:
            CommandNameError: The name does not fit into a topic.
            CommandQueueFullError: The device has too many waiting commands.
        """
        if not _COMMAND_NAME.match(name):
            raise CommandNameError(f"command name: expected 1 to 64 of A-Z a-z 0-9 _ . -, found {name[:80]!r}")
        command = await self._ports.commands.put(
            device_id,
            name,
            payload,
            expires_at=expires_at,
            now=self._ports.clock.now(),
            max_queued=self._limits.max_queued_commands,
        )
        await self.deliver(device_id)
        return command

    async def deliver(self, device_id: str) -> None:
        """Send the device what waits for it, for commands that were stored by somebody else."""
        connection = self._registry.get(device_id)
        if connection is not None:
            await connection.deliver()

    def notify(self, device_id: str, name: str, payload: bytes = b"") -> bool:
        """See `DeviceMessenger.notify`."""
        connection = self._registry.get(device_id)
        if connection is None or connection.session is None or not connection.session.hears_commands:
            return False
        return connection.notify(codec.publish(connection.dialect.command_topic(name), payload))

    def publish_desired(self, device_id: str, payload: bytes) -> bool:
        """See `DeviceMessenger.publish_desired`."""
        connection = self._registry.get(device_id)
        if connection is None or connection.session is None or not connection.session.hears_desired:
            return False
        topic = connection.dialect.desired_filter
        return topic is not None and connection.notify(codec.publish(topic, payload))

    def kick(self, device_id: str) -> bool:
        """See `DeviceMessenger.kick`; a connection whose admission is being decided is closed too."""
        connections = self._registry.of_device(device_id)
        for connection in connections:
            connection.abort("kicked", publish_will=False)
        return bool(connections)

    def kick_unless(self, is_trusted: Callable[[bytes], bool]) -> None:
        """Close each connection, admitted or not, whose client certificate (DER) is trusted no longer."""
        for connection in self._registry.all():
            if not is_trusted(connection.certificate_der):
                connection.abort("issuer_retired", publish_will=False)

    def is_connected(self, device_id: str) -> bool:
        """See `DeviceMessenger.is_connected`."""
        return self._registry.get(device_id) is not None

    def stats(self) -> Mapping[str, int]:
        """Return plain counters by name; those of refusals are `refused_{reason}`."""
        counters = self._counters
        return {
            "connections": self._registry.open,
            "connected_devices": self._registry.connected,
            "accepted": counters.accepted,
            "admitted": counters.admitted,
            "messages_received": counters.received,
            "messages_committed": self._committer.committed,
            "messages_failed": self._committer.failed,
            "messages_pending": self._committer.pending_rows,
            "batches": self._committer.batches,
            "commands_sent": counters.commands_sent,
            **{f"refused_{reason}": count for reason, count in counters.refused.items()},
        }

    async def _serve(self, listener: socket.socket, context: ssl.SSLContext, *, ready: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._host = Host(
                ports=self._ports,
                limits=self._limits,
                loop=self._loop,
                registry=self._registry,
                committer=self._committer,
                counters=self._counters,
                tasks=tasks,
            )
            acceptor = tasks.create_task(self._accept(listener, context))
            ready.set()
            await self._stopping.wait()
            for task in (acceptor, *self._handshakes):
                task.cancel()
            listener.close()
            await self._close_connections()
        self._committer.close()

    async def _close_connections(self) -> None:
        connections = self._registry.all()
        for connection in connections:
            connection.stop_reading()
        await self._committer.drain()
        for connection in connections:
            connection.finish("stopping")
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=_STOP_SECONDS)

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                accepted, address = await self._loop.sock_accept(listener)
            except OSError as error:
                _log.warning("gateway_accept_failed", error=repr(error))
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            self._take(accepted, context, source=address[0])

    def _take(self, accepted: socket.socket, context: ssl.SSLContext, *, source: str) -> None:
        self._counters.accepted += 1
        if self._registry.reserve(source):
            task = self._host.tasks.create_task(self._shake_hands(accepted, context, source=source))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)
            return
        accepted.close()
        self._host.refuse(
            RefusalReason.TOO_MANY_CONNECTIONS,
            f"connections: expected at most {self._limits.max_connections_per_source} of one source "
            f"and {self._limits.max_connections} in all",
            source=source,
            device_id=None,
        )

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext, *, source: str) -> None:
        connection = Connection(self._host, source)
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._limits.handshake_seconds,
                ssl_shutdown_timeout=self._limits.shutdown_seconds,
            )
        except OSError as error:
            self._host.refuse(handshake_refusal(error), str(error), source=source, device_id=None)
        except Exception:  # noqa: BLE001  # one connection's defect must not stop the gateway
            _log.exception("gateway_handshake_failed")
        finally:
            if not connection.opened:
                self._registry.release(source)

    def _committed(self, device_ids: Sequence[str], last_id: int) -> None:
        self._ports.events.committed(device_ids, last_id=last_id, at=self._ports.clock.now())


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
