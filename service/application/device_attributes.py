"""Attributes of devices: facts that operators give them, for rollouts to target and for people to read.

A change of attributes is a change of the device: its version rises, the audit log tells of it, and an event lets the
worker look at what rollouts mean for the device now. A change that changes nothing leaves no trace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.attributes import MAX_ATTRIBUTES, AttributeRow
from service.application.attribute_repository import Attributes
from service.application.audit import Change
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.products import check_version
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.device import Device
from service.domain.errors import InvalidError, JsonValue, ServiceError
from service.domain.operator import Actor


class TooManyAttributesError(InvalidError):
    """A device would have more attributes than one may have."""


@dataclass(frozen=True, slots=True)
class DeviceWithAttributes:
    """A device and its attributes by name."""

    device: Device
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of an import that changed nothing.

    Attributes:
        row: from 0.
        device: as the row names it.
        reason: expected and found.
    """

    row: int
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of an import.

    Attributes:
        changed: devices.
        unchanged: devices whose attributes were so before.
        refused: rows that changed nothing.
    """

    changed: int
    unchanged: int
    refused: Sequence[RefusedRow]


class DeviceAttributes:
    """Use cases of attributes."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def of(self, id_or_prefix: str) -> DeviceWithAttributes:
        """Return a device with its attributes.

        Raises:
            UnknownDeviceError: there is no such device.
            AmbiguousDeviceError: several begin so.
        """
        async with self._unit_of_work(read_only=True) as work:
            return await _read(work, id_or_prefix)

    async def replace(
        self, actor: Actor, id_or_prefix: str, attributes: Attributes, *, based_on: int | None
    ) -> DeviceWithAttributes:
        """Store attributes in the place of all that the device had; none are fine.

        Raises:
            UnknownDeviceError: there is no such device.
            AmbiguousDeviceError: several begin so.
            FinalStateError: it was moved to another catalog, or decommissioned.
            VersionConflictError: the device changed since the version that the caller saw.
        """
        async with self._unit_of_work() as work:
            before = await _read(work, id_or_prefix)
            check_version(based_on, before.device.version)
            return await self._store_one(work, actor, before, attributes)

    async def change(
        self, actor: Actor, id_or_prefix: str, changes: Mapping[str, str | None], *, based_on: int | None
    ) -> DeviceWithAttributes:
        """Set attributes, or remove those whose value is None; others stay.

        Raises:
            TooManyAttributesError: the device would have too many; and errors as of `replace`.
        """
        async with self._unit_of_work() as work:
            before = await _read(work, id_or_prefix)
            check_version(based_on, before.device.version)
            return await self._store_one(work, actor, before, _merged(before.attributes, changes))

    async def take(self, actor: Actor, rows: Sequence[AttributeRow]) -> Imported:
        """Take the rows of an import in one transaction; one that cannot be done changes nothing, and is told of.

        Args:
            actor: who imports.
            rows: a later one of the same device goes on from the earlier one.
        """
        wanted: dict[str, Attributes] = {}
        refused: list[RefusedRow] = []
        async with self._unit_of_work() as work:
            named = await _named(work, rows, refused)
            held = await _held(work, set(named.values()))
            for number, device_id in named.items():
                try:
                    before = wanted.get(device_id, held[device_id].attributes)
                    held[device_id].device.check_present()
                    wanted[device_id] = _merged(before, rows[number].attributes)
                except ServiceError as error:
                    refused.append(RefusedRow(number, rows[number].device, str(error)))
            changed = [(held[device_id], after) for device_id, after in wanted.items()]
            changed = [(before, after) for before, after in changed if before.attributes != after]
            await self._store(work, actor, changed)
            await work.commit()
        return Imported(len(changed), len(wanted) - len(changed), sorted(refused, key=lambda each: each.row))

    async def _store_one(
        self, work: UnitOfWork, actor: Actor, before: DeviceWithAttributes, after: Attributes
    ) -> DeviceWithAttributes:
        before.device.check_present()
        if after == before.attributes:
            return before
        await self._store(work, actor, [(before, after)])
        await work.commit()
        return DeviceWithAttributes(before.device.annotate(), after)

    async def _store(
        self, work: UnitOfWork, actor: Actor, changes: Sequence[tuple[DeviceWithAttributes, Attributes]]
    ) -> None:
        now = self._clock.now()
        await work.attributes.put({before.device.device_id: after for before, after in changes})
        for before, after in changes:
            device = before.device.annotate()
            await work.devices.save(device, replaces_version=before.device.version)
            entry = Change("device.attributes", device.device_id, dict(before.attributes), dict(after))
            await work.audit.add(actor, entry, at=now)
            data: dict[str, JsonValue] = {"group_id": device.group_id, "state": device.state}
            work.record(Event(EventType.DEVICE, device.device_id, "attributes", now, data))


async def _read(work: UnitOfWork, id_or_prefix: str) -> DeviceWithAttributes:
    device = await work.devices.get(id_or_prefix)
    attributes = await work.attributes.of([device.device_id])
    return DeviceWithAttributes(device, attributes.get(device.device_id, {}))


async def _named(work: UnitOfWork, rows: Sequence[AttributeRow], refused: list[RefusedRow]) -> dict[int, str]:
    """Return the device's full id of each row, by the row's number; a row of no device is refused."""
    found: dict[int, str] = {}
    known = await work.devices.find_many({row.device for row in rows})
    for number, row in enumerate(rows):
        try:
            found[number] = row.device if row.device in known else (await work.devices.get(row.device)).device_id
        except ServiceError as error:
            refused.append(RefusedRow(number, row.device, str(error)))
    return found


async def _held(work: UnitOfWork, device_ids: set[str]) -> dict[str, DeviceWithAttributes]:
    devices = await work.devices.find_many(device_ids, lock=True)
    attributes = await work.attributes.of(device_ids)
    return {id_: DeviceWithAttributes(device, attributes.get(id_, {})) for id_, device in devices.items()}


def _merged(before: Attributes, changes: Mapping[str, str | None]) -> Attributes:
    after = {name: value for name, value in {**before, **changes}.items() if value is not None}
    if len(after) > MAX_ATTRIBUTES:
        raise TooManyAttributesError(f"attributes: expected at most {MAX_ATTRIBUTES} of a device, found {len(after)}")
    return after
