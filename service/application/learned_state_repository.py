"""What a unit of work stores of learned states: each device's newest backup, and what operators ordered."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from protocol.geometry import Core
from protocol.learned_backup import OrderKind


@dataclass(frozen=True, slots=True)
class LearnedBackup:
    """What one core of a device learned, as the device sent it last; no facts of it are proven.

    Attributes:
        component_id: GUID of the component that learned.
        layout_sha256: of the feature layout.
        template_sha256: of the template that it was learned under.
        windows: learned on the device.
        prototypes: kinds of normal.
        sha256: of the content.
        received_at: UTC, aware.
        content: see `protocol.learned_state`.
    """

    device_id: str
    core: Core
    component_id: str
    layout_sha256: str
    template_sha256: str
    windows: int
    prototypes: int
    sha256: str
    received_at: datetime
    content: bytes


class OrderState(StrEnum):
    """What became of an order; the last three are final."""

    OPEN = "open"  # the device has not said how it went
    DONE = "done"
    REFUSED = "refused"  # by the device
    WITHDRAWN = "withdrawn"  # a newer order for the same core took its place


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An operator's word about what one core of a device learned.

    Attributes:
        order_id: GUID.
        source_device_id: whose state is restored; None in a reset.
        sha256: of what is restored; None in a reset.
        content: what is restored; None in a reset, and once the order is settled.
        ordered_by: name of the operator.
        ordered_at: UTC, aware.
        detail: the device's reason, or the operator's.
        settled_at: UTC, aware; None while it is open.
        number: rises with each order; 0 before it is stored.
    """

    order_id: str
    device_id: str
    core: Core
    kind: OrderKind
    ordered_by: str
    ordered_at: datetime
    source_device_id: str | None = None
    sha256: str | None = None
    content: bytes | None = None
    state: OrderState = OrderState.OPEN
    detail: str = ""
    settled_at: datetime | None = None
    number: int = 0


class LearnedStateRepository(Protocol):
    """Backups and orders."""

    async def put(self, backup: LearnedBackup) -> None:
        """Store a backup in the place of the one before."""

    async def find(self, device_id: str, core: Core) -> LearnedBackup | None:
        """Return the backup of one core, or None."""

    async def page(
        self, *, after: tuple[str, str] | None, limit: int, device_id: str | None = None
    ) -> Sequence[LearnedBackup]:
        """Return at most `limit` backups by device and core, beyond the one of a device and core; None: all."""

    async def add_order(self, order: StoredOrder) -> None:
        """Store a new order; open ones for the same core are withdrawn."""

    async def open_orders(self, device_id: str, *, limit: int) -> Sequence[StoredOrder]:
        """Return at most `limit` open orders of a device, oldest first."""

    async def settle(
        self, device_id: str, order_id: str, *, state: OrderState, detail: str, at: datetime
    ) -> StoredOrder | None:
        """Close an open order of a device; returns it as it is now, or None if none of this id is open there."""

    async def has_order(self, device_id: str, order_id: str) -> bool:
        """Whether a device has, or had, an order of an id."""

    async def page_orders(
        self, *, before: int | None, limit: int, device_id: str | None = None
    ) -> Sequence[StoredOrder]:
        """Return at most `limit` orders, newest first, with numbers below `before`; None stands for all."""

    async def forget_orders(self, *, settled_before: datetime) -> None:
        """Delete orders that were settled before a time."""
