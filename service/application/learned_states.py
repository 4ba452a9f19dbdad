"""Learned states: devices back them up, operators have them restored to a device that took another's place, or reset.

A state is its device's own word. The service checks that it is well formed, keeps the newest of each core, and hands it
to nobody but operators and, by an operator's order, to a device of the catalog, which decides whether it fits its
template. Nothing else is ever decided by one: a device that lies about what it learned harms what it learned alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from protocol.geometry import Core
from protocol.image import digest_of
from protocol.learned_backup import (
    LEARNED_ORDERS,
    MAX_ORDERS,
    LearnedOrder,
    LearnedOrders,
    LearnedOutcome,
    LearnedUpload,
    OrderKind,
)
from protocol.learned_state import parse_state
from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType, StoredEvent
from service.application.learned_state_repository import LearnedBackup, OrderState, StoredOrder
from service.application.messaging import DeviceMessenger
from service.application.request_rate import RequestRate
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.device import Device, DeviceState
from service.domain.errors import ConflictError, JsonValue, NotFoundError
from service.domain.operator import Actor

UPLOADS_PER_HOUR = 12
ORDERED, SETTLED = "learned-ordered", "learned-settled"  # changes of a device, in events
_GONE = frozenset({DeviceState.DECOMMISSIONED, DeviceState.MOVED})


class UnknownLearnedStateError(NotFoundError):
    """A device has no backup of what this core learned."""


class UnknownLearnedOrderError(NotFoundError):
    """The device has no such order."""


class DeviceGoneError(ConflictError):
    """The device is out of service or with another catalog, and asks for no orders."""


class LearnedStates:
    """Backups and orders, for operators and for devices."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock, entropy: Entropy, kept: timedelta) -> None:
        """Make the use cases.

        Args:
            unit_of_work: opens transactions.
            clock: of the service.
            entropy: for ids.
            kept: how long settled orders are.
        """
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy
        self._kept = kept
        self._rate = RequestRate(clock, per_hour=UPLOADS_PER_HOUR)

    async def page(
        self, *, after: tuple[str, str] | None, limit: int, device: str | None = None
    ) -> Sequence[LearnedBackup]:
        """Return at most `limit` backups by device and core.

        Args:
            after: device id and core of the last one before; None for the first page.
            limit: at least 1.
            device: of this device alone: id, or a unique beginning.

        Raises:
            UnknownDeviceError, AmbiguousDeviceError: there is not one such device.
        """
        async with self._unit_of_work(read_only=True) as work:
            device_id = None if device is None else (await work.devices.get(device)).device_id
            return await work.learned.page(after=after, limit=limit, device_id=device_id)

    async def get(self, device: str, core: Core) -> LearnedBackup:
        """Return the backup of one core.

        Raises:
            UnknownDeviceError, AmbiguousDeviceError: there is not one such device.
            UnknownLearnedStateError: it has none.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await _backup(work, (await work.devices.get(device)).device_id, core)

    async def restore(self, actor: Actor, source: str, *, core: Core, to: str) -> StoredOrder:
        """Have a device take what another one, or it itself, learned on a core.

        Args:
            actor: who orders it.
            source: device whose backup it is: id, or a unique beginning.
            core: that learned it, and is to have it.
            to: device that gets it.

        Raises:
            UnknownDeviceError, AmbiguousDeviceError: there is not one such device.
            UnknownLearnedStateError: the source has no backup of the core.
            DeviceGoneError: the target is out of service.
        """
        async with self._unit_of_work() as work:
            source_id = (await work.devices.get(source)).device_id
            backup = await _backup(work, source_id, core)
            target = await work.devices.get(to)
            order = replace(
                self._order(actor, target, core=core, kind=OrderKind.RESTORE),
                source_device_id=source_id,
                sha256=backup.sha256,
                content=backup.content,
            )
            await self._place(work, actor, order)
        return order

    async def reset(self, actor: Actor, device: str, *, core: Core, reason: str) -> StoredOrder:
        """Have a device forget what a core learned, and learn anew.

        Raises:
            UnknownDeviceError, AmbiguousDeviceError: there is not one such device.
            DeviceGoneError: it is out of service.
        """
        async with self._unit_of_work() as work:
            target = await work.devices.get(device)
            order = replace(self._order(actor, target, core=core, kind=OrderKind.RESET), detail=reason)
            await self._place(work, actor, order)
        return order

    async def page_orders(self, *, before: int | None, limit: int, device: str | None = None) -> Sequence[StoredOrder]:
        """Return at most `limit` orders, newest first, with numbers below `before`; of one device alone if named.

        Raises:
            UnknownDeviceError, AmbiguousDeviceError: there is not one such device.
        """
        async with self._unit_of_work(read_only=True) as work:
            device_id = None if device is None else (await work.devices.get(device)).device_id
            return await work.learned.page_orders(before=before, limit=limit, device_id=device_id)

    async def take(self, device_id: str, upload: LearnedUpload) -> None:
        """Keep what a device learned; the same again changes nothing.

        Args:
            device_id: of the certificate.
            upload: the device's word.

        Raises:
            DeviceRateError: it comes too often.
            LearnedStateError: it is no state.
        """
        self._rate.admit(device_id)
        state = parse_state(upload.state)
        sha256 = digest_of(upload.state)
        async with self._unit_of_work() as work:
            known = await work.learned.find(device_id, upload.core)
            if known is not None and known.sha256 == sha256:
                return
            await work.learned.put(
                LearnedBackup(
                    device_id=device_id,
                    core=upload.core,
                    component_id=state.component_id,
                    layout_sha256=state.layout_sha256,
                    template_sha256=state.template_sha256,
                    windows=state.windows,
                    prototypes=len(state.prototypes),
                    sha256=sha256,
                    received_at=self._clock.now(),
                    content=upload.state,
                )
            )
            await work.commit()

    async def orders(self, device_id: str) -> LearnedOrders:
        """Return what waits for a device, oldest first."""
        async with self._unit_of_work(read_only=True) as work:
            found = await work.learned.open_orders(device_id, limit=MAX_ORDERS)
        return LearnedOrders(
            orders=tuple(
                LearnedOrder(order_id=each.order_id, core=each.core, kind=each.kind, state=each.content)
                for each in found
            )
        )

    async def settle(self, device_id: str, outcome: LearnedOutcome) -> None:
        """Take how an order went; said again, or of one that was withdrawn meanwhile, it changes nothing.

        Raises:
            UnknownLearnedOrderError: the device never had such an order.
        """
        state = OrderState.DONE if outcome.is_done else OrderState.REFUSED
        now = self._clock.now()
        async with self._unit_of_work() as work:
            order = await work.learned.settle(device_id, outcome.order_id, state=state, detail=outcome.detail, at=now)
            if order is not None:
                work.record(Event(EventType.DEVICE, device_id, SETTLED, now, _facts(order)))
                await work.commit()
            elif not await work.learned.has_order(device_id, outcome.order_id):
                raise UnknownLearnedOrderError(f"order: expected one of this device, found none of {outcome.order_id}")

    async def keep_house(self, now: datetime) -> None:
        """Delete orders that were settled long ago."""
        async with self._unit_of_work() as work:
            await work.learned.forget_orders(settled_before=now - self._kept)
            await work.commit()

    def _order(self, actor: Actor, target: Device, *, core: Core, kind: OrderKind) -> StoredOrder:
        if target.state in _GONE:
            raise DeviceGoneError(f"device {target.device_id[:16]}…: expected one in service, found it {target.state}")
        return StoredOrder(
            order_id=self._entropy.guid(),
            device_id=target.device_id,
            core=core,
            kind=kind,
            ordered_by=actor.name,
            ordered_at=self._clock.now(),
        )

    async def _place(self, work: UnitOfWork, actor: Actor, order: StoredOrder) -> None:
        await work.learned.add_order(order)
        change = Change(f"learned.{order.kind}", order.device_id, after=_facts(order))
        await work.audit.add(actor, change, at=order.ordered_at)
        work.record(Event(EventType.DEVICE, order.device_id, ORDERED, order.ordered_at, _facts(order)))
        await work.commit()


class OrderWaker:
    """Tells connected devices to ask for orders; who is not connected asks by itself.

    It follows the event feed, so that each process wakes the devices that are connected to it.
    """

    def __init__(self, messenger: DeviceMessenger) -> None:
        self._messenger = messenger

    def hear(self, stored: StoredEvent) -> None:
        """Wake a device that was ordered something."""
        if stored.event.type is EventType.DEVICE and stored.event.change == ORDERED:
            self._messenger.notify(stored.event.subject_id, LEARNED_ORDERS)


async def _backup(work: UnitOfWork, device_id: str, core: Core) -> LearnedBackup:
    found = await work.learned.find(device_id, core)
    if found is None:
        raise UnknownLearnedStateError(
            f"device {device_id[:16]}…: expected a backup of what {core} learned, found none"
        )
    return found


def _facts(order: StoredOrder) -> dict[str, JsonValue]:
    return {
        "order": order.order_id,
        "core": order.core,
        "kind": order.kind,
        "from": order.source_device_id,
        "sha256": order.sha256,
        "outcome": order.state,
        "detail": order.detail,
    }
