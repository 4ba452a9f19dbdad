"""Claimed devices in the control database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.identity import DeviceId
from service.adapters.database.device_tables import devices
from service.domain.device import AlreadyClaimedError, AmbiguousDeviceError, Device, DeviceState, UnknownDeviceError
from service.domain.errors import VersionConflictError

MIN_PREFIX_DIGITS = 8
_BEYOND_HEX = "g"  # sorts after every hex digit


class SqlDevices:
    """Implements `DeviceRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, device: Device) -> None:
        """See `DeviceRepository.add`."""
        try:
            await self._connection.execute(insert(devices).values(_values(device)))
        except IntegrityError as error:
            raise AlreadyClaimedError(
                f"device {device.device_id[:16]}…: expected an unclaimed device, found it claimed"
            ) from error

    async def find(self, device_id: str) -> Device | None:
        """See `DeviceRepository.find`."""
        row = (await self._connection.execute(select(devices).where(devices.c.device_id == device_id))).first()
        return None if row is None else _device(row)

    async def get(self, id_or_prefix: str) -> Device:
        """See `DeviceRepository.get`."""
        if len(id_or_prefix) < MIN_PREFIX_DIGITS:
            raise AmbiguousDeviceError(
                f"device id: expected at least {MIN_PREFIX_DIGITS} digits, found {len(id_or_prefix)}"
            )
        column = devices.c.device_id
        query = select(devices).where(column >= id_or_prefix, column < id_or_prefix + _BEYOND_HEX).limit(2)
        rows = (await self._connection.execute(query)).all()
        if not rows:
            raise UnknownDeviceError(f"device: expected one of the catalog, found none of id {id_or_prefix[:16]!r}")
        if len(rows) > 1:
            raise AmbiguousDeviceError(f"device: expected one that begins {id_or_prefix[:16]}, found several")
        return _device(rows[0])

    async def page(
        self, *, after_id: str | None, limit: int, group_id: str | None = None, state: DeviceState | None = None
    ) -> Sequence[Device]:
        """See `DeviceRepository.page`."""
        query = select(devices).order_by(devices.c.device_id).limit(limit)
        if after_id is not None:
            query = query.where(devices.c.device_id > after_id)
        if group_id is not None:
            query = query.where(devices.c.group_id == group_id)
        if state is not None:
            query = query.where(devices.c.state == state)
        return [_device(row) for row in await self._connection.execute(query)]

    async def save(self, device: Device, *, replaces_version: int) -> None:
        """See `DeviceRepository.save`."""
        changed = (
            update(devices)
            .where(devices.c.device_id == device.device_id, devices.c.version == replaces_version)
            .values(
                group_id=device.group_id,
                state=device.state,
                blocked_at=device.blocked_at,
                blocked_reason=device.blocked_reason,
                voucher=device.voucher,
                version=device.version,
            )
        )
        if (await self._connection.execute(changed)).rowcount == 0:
            raise VersionConflictError(f"version: expected {replaces_version} in force, found another")

    async def certify(self, device: Device) -> None:
        """See `DeviceRepository.certify`; a device that was blocked meanwhile stays so."""
        certified = (
            update(devices)
            .where(devices.c.device_id == device.device_id, devices.c.blocked_at.is_(None))
            .values(
                state=DeviceState.ACTIVE,
                activated_at=device.activated_at,
                certificate_serial=device.certificate_serial,
                certificate_key_sha256=device.certificate_key_sha256,
                certificate_not_after=device.certificate_not_after,
            )
        )
        if (await self._connection.execute(certified)).rowcount == 0:
            raise VersionConflictError("device: expected it unblocked, found it blocked meanwhile")

    async def touch(self, last_seen: Mapping[str, datetime]) -> None:
        """See `DeviceRepository.touch`."""
        if not last_seen:
            return
        statement = (
            update(devices).where(devices.c.device_id == bindparam("touched")).values(last_seen_at=bindparam("at"))
        )
        # In the order of the key, so that two processes never wait for one another's rows.
        rows = [{"touched": device_id, "at": at} for device_id, at in sorted(last_seen.items())]
        await self._connection.execute(statement, rows)

    async def counts(self) -> Mapping[DeviceState, int]:
        """See `DeviceRepository.counts`."""
        rows = await self._connection.execute(select(devices.c.state, func.count()).group_by(devices.c.state))
        found = {DeviceState(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in DeviceState}

    async def standings(self) -> Sequence[tuple[str, bool]]:
        """See `DeviceRepository.standings`."""
        rows = await self._connection.execute(select(devices.c.device_id, devices.c.state))
        return [(device_id, state == DeviceState.BLOCKED) for device_id, state in rows]


def _values(device: Device) -> dict[str, object]:
    return {
        "device_id": device.device_id,
        "group_id": device.group_id,
        "state": device.state,
        "identity_key": device.identity_key,
        "idevid_chain": device.idevid_chain,
        "claimed_at": device.claimed_at,
        "claimed_by": device.claimed_by,
        "activated_at": device.activated_at,
        "blocked_at": device.blocked_at,
        "blocked_reason": device.blocked_reason,
        "last_seen_at": device.last_seen_at,
        "certificate_serial": device.certificate_serial,
        "certificate_key_sha256": device.certificate_key_sha256,
        "certificate_not_after": device.certificate_not_after,
        "voucher": device.voucher,
        "version": device.version,
    }


def _device(row: Row[Any]) -> Device:
    return Device(
        device_id=DeviceId(row.device_id),
        group_id=row.group_id,
        identity_key=row.identity_key,
        idevid_chain=row.idevid_chain,
        claimed_at=row.claimed_at,
        claimed_by=row.claimed_by,
        activated_at=row.activated_at,
        blocked_at=row.blocked_at,
        blocked_reason=row.blocked_reason,
        last_seen_at=row.last_seen_at,
        certificate_serial=row.certificate_serial,
        certificate_key_sha256=row.certificate_key_sha256,
        certificate_not_after=row.certificate_not_after,
        voucher=row.voucher,
        version=row.version,
    )
