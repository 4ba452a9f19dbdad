"""Storing a changed device with what tells of it: the audit log and the event that every process follows."""

from collections.abc import Mapping
from datetime import datetime

from service.application.audit import Change
from service.application.events import Event, EventType
from service.application.unit_of_work import UnitOfWork
from service.domain.device import Device
from service.domain.errors import JsonValue
from service.domain.operator import Actor


async def store_device(
    work: UnitOfWork,
    actor: Actor,
    before: Device,
    after: Device,
    *,
    change: str,
    at: datetime,
    facts: Mapping[str, JsonValue] | None = None,
) -> bool:
    """Store what has become of a device; no commit.

    Args:
        work: the transaction.
        actor: who did it.
        before: as it was read in this transaction.
        after: as it is now.
        change: what happened, one word, e.g. `blocked`.
        at: UTC, aware.
        facts: further ones for the audit log, such as the reason.

    Returns:
        False if nothing changed; then nothing was stored.

    Raises:
        VersionConflictError: another change came first.
    """
    if after == before:
        return False
    await work.devices.save(after, replaces_version=before.version)
    entry = Change(f"device.{change}", after.device_id, before=_facts(before), after={**_facts(after), **(facts or {})})
    await work.audit.add(actor, entry, at=at)
    data: dict[str, JsonValue] = {"group_id": after.group_id, "state": after.state}
    work.record(Event(EventType.DEVICE, after.device_id, change, at, data))
    return True


def _facts(device: Device) -> dict[str, JsonValue]:
    return {
        "state": device.state,
        "group_id": device.group_id,
        "blocked_reason": device.blocked_reason,
        "moved_to": device.moved_to,
        "clone_suspected": device.clone_suspected_at is not None,
        "has_voucher": device.voucher is not None,
    }
