"""What outlives a device's connection: its subscriptions and the commands queued for it.

Subscriptions of a client that asked for clean_session=0 are stored and count again at its next connection, after
a restart of the service too. There is session state exactly when a subscription is stored; so a session without
subscriptions, which nothing could be delivered to, is not told from none (Session Present is 0), and a device's
check-in writes no row.

Commands belong to the service, not to the MQTT session: a clean session does not lose them.
"""

import asyncio
from collections.abc import Callable

from service.application.clock import Clock
from service.application.messaging import CommandQueue, QueuedCommand, SubscriptionStore
from service.gateway import codec
from service.gateway.dialects import Dialect
from service.gateway.limits import Limits

_MAX_PACKET_ID = 65_535


class Session:
    """The session of one connected device.

    Attributes:
        present: Whether stored state was found, for the CONNACK [MQTT-3.2.2-2].
    """

    def __init__(
        self,
        device_id: str,
        dialect: Dialect,
        *,
        durable: bool,
        subscription_store: SubscriptionStore,
        command_queue: CommandQueue,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.present = False
        self._device_id = device_id
        self._dialect = dialect
        self._durable = durable
        self._store = subscription_store
        self._queue = command_queue
        self._clock = clock
        self._limits = limits
        self._subscriptions: dict[str, int] = {}
        self._inflight: dict[int, int] = {}  # packet identifier → command id, sent on this connection
        self._acknowledging: set[int] = set()  # packet identifiers whose PUBACK is being worked on
        self._delivering = asyncio.Lock()

    async def open(self) -> None:
        """Load the stored subscriptions, or drop them for a clean session [MQTT-3.1.2-6]."""
        stored = await self._store.load(self._device_id)
        if self._durable:
            self._subscriptions = dict(stored)
            self.present = bool(stored)
        elif stored:
            await self._store.clear(self._device_id)

    async def subscribe(self, requests: tuple[tuple[str, int], ...]) -> tuple[int, ...]:
        """Take subscriptions and return the SUBACK's return codes, in order.

        Raises:
            ForeignTopicError: A filter that reaches beyond the device's own topics; none is taken.
        """
        granted = {topic_filter: min(qos, 1) for topic_filter, qos in requests if self._dialect.grants(topic_filter)}
        news = dict(granted.items() - self._subscriptions.items())
        if self._durable and news:
            await self._store.save(self._device_id, news)
        self._subscriptions |= granted
        return tuple(granted.get(topic_filter, codec.SUBACK_FAILURE) for topic_filter, _ in requests)

    async def unsubscribe(self, topic_filters: tuple[str, ...]) -> None:
        """Drop subscriptions; those that do not exist are no error [MQTT-3.10.4-5]."""
        held = self._subscriptions.keys() & topic_filters
        if self._durable and held:
            await self._store.remove(self._device_id, tuple(held))
        for topic_filter in held:
            del self._subscriptions[topic_filter]

    @property
    def hears_commands(self) -> bool:
        """Whether the device subscribed to commands, at any QoS: enough for hints."""
        return self._dialect.command_filter in self._subscriptions

    @property
    def hears_desired(self) -> bool:
        """Whether the device subscribed to desired twin properties."""
        return self._dialect.desired_filter in self._subscriptions

    async def deliver(self, send: Callable[[bytes], None]) -> None:
        """Send what is queued and was not sent on this connection, within the in-flight limit.

        The packet identifier is stored before the first delivery, so that a redelivery uses the same one and
        carries DUP [MQTT-3.3.1-1], [MQTT-4.4.0-1]. Nothing is sent to a subscription of QoS 0: a command is
        not done before its PUBACK.
        """
        if self._subscriptions.get(self._dialect.command_filter) != 1:
            return
        async with self._delivering:
            waiting = await self._queue.pending(
                self._device_id, now=self._clock.now(), limit=self._limits.max_inflight_commands
            )
            taken = {command.packet_id for command in waiting} | self._inflight.keys()
            sent = set(self._inflight.values())
            for command in waiting:
                if command.command_id not in sent:
                    packet_id = command.packet_id or self._new_packet_id(command, taken)
                    if command.packet_id is None:
                        await self._queue.mark_sent(command.command_id, packet_id)
                    self._inflight[packet_id] = command.command_id
                    send(self._packet(command, packet_id))

    def begin_acknowledging(self, packet_id: int) -> bool:
        """Say whether a PUBACK with this packet identifier is due; True once only, so that floods cost nothing."""
        if packet_id not in self._inflight or packet_id in self._acknowledging:
            return False
        self._acknowledging.add(packet_id)
        return True

    async def acknowledge(self, packet_id: int, send: Callable[[bytes], None]) -> None:
        """Take a PUBACK that `begin_acknowledging` let pass: the command is done, and the next ones may follow."""
        await self._queue.acknowledge(self._device_id, packet_id)
        del self._inflight[packet_id]
        self._acknowledging.discard(packet_id)
        if not self._inflight:
            await self.deliver(send)

    def _packet(self, command: QueuedCommand, packet_id: int) -> bytes:
        topic = self._dialect.command_topic(command.name)
        return codec.publish(topic, command.payload, packet_id=packet_id, dup=command.packet_id is not None)

    def _new_packet_id(self, command: QueuedCommand, taken: set[int | None]) -> int:
        packet_id = command.command_id % _MAX_PACKET_ID + 1
        while packet_id in taken:
            packet_id = packet_id % _MAX_PACKET_ID + 1
        taken.add(packet_id)
        return packet_id
