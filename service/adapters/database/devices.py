"""Claimed devices in the control database."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, Row, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.identity import Access, DeviceId
from service.adapters.database.device_counts import sum_up
from service.adapters.database.device_tables import devices
from service.adapters.database.one_of import one_of
from service.adapters.database.prefixes import begins_with
from service.domain.device import AlreadyClaimedError, AmbiguousDeviceError, Device, DeviceState, UnknownDeviceError
from service.domain.errors import VersionConflictError
from service.domain.membership import ENROLLED_STATES

MIN_PREFIX_DIGITS = 8
MAX_PARAMETERS = 10_000  # of one statement; SQLite takes 32,766
_SHUT_OUT = tuple(state for state in DeviceState if not state.may_connect)
# What attestation changes of a device; an operator's change leaves it alone, and the other way round.
_ATTESTED = (
    "state",
    "activated_at",
    "certificate_serial",
    "certificate_key_sha256",
    "certificate_not_after",
    "access",
    "evidence",
    "evidence_at",
    "boot_seeds",
    "clone_suspected_at",
    "clone_detail",
)


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

    async def reclaim(self, device: Device) -> None:
        """See `DeviceRepository.reclaim`; of two claims at once one finds the state changed."""
        moved = update(devices).where(devices.c.device_id == device.device_id, devices.c.state == DeviceState.MOVED)
        if (await self._connection.execute(moved.values(_values(device)))).rowcount == 0:
            raise AlreadyClaimedError(
                f"device {device.device_id[:16]}…: expected an unclaimed device, found it claimed"
            )

    async def find(self, device_id: str) -> Device | None:
        """See `DeviceRepository.find`."""
        row = (await self._connection.execute(select(devices).where(devices.c.device_id == device_id))).first()
        return None if row is None else _device(row)

    async def find_many(self, device_ids: Collection[str], *, lock: bool = False) -> Mapping[str, Device]:
        """See `DeviceRepository.find_many`; locks are taken in the order of the key."""
        is_wanted = one_of(self._connection, devices.c.device_id, device_ids)
        query = select(devices).where(is_wanted).order_by(devices.c.device_id)
        rows = await self._connection.execute(query.with_for_update() if lock else query)
        return {row.device_id: _device(row) for row in rows}

    async def of_idevids_locked(self, serials: Sequence[str]) -> Sequence[Device]:
        """See `DeviceRepository.of_idevids_locked`."""
        found: list[Device] = []
        for start in range(0, len(serials), MAX_PARAMETERS):
            some = serials[start : start + MAX_PARAMETERS]
            query = select(devices).where(devices.c.idevid_serial.in_(some)).order_by(devices.c.device_id)
            found += [_device(row) for row in await self._connection.execute(query.with_for_update())]
        return found

    async def get(self, id_or_prefix: str) -> Device:
        """See `DeviceRepository.get`."""
        if len(id_or_prefix) < MIN_PREFIX_DIGITS:
            raise AmbiguousDeviceError(
                f"device id: expected at least {MIN_PREFIX_DIGITS} digits, found {len(id_or_prefix)}"
            )
        column = devices.c.device_id
        query = select(devices).where(begins_with(column, id_or_prefix)).limit(2)
        rows = (await self._connection.execute(query)).all()
        if not rows:
            raise UnknownDeviceError(f"device: expected one of the catalog, found none of id {id_or_prefix[:16]!r}")
        if len(rows) > 1:
            raise AmbiguousDeviceError(f"device: expected one that begins {id_or_prefix[:16]}, found several")
        return _device(rows[0])

    async def page(
        self,
        *,
        after_id: str | None,
        limit: int,
        group_id: str | None = None,
        state: DeviceState | None = None,
        suspected_clone: bool | None = None,
    ) -> Sequence[Device]:
        """See `DeviceRepository.page`."""
        query = select(devices).order_by(devices.c.device_id).limit(limit)
        if after_id is not None:
            query = query.where(devices.c.device_id > after_id)
        if group_id is not None:
            query = query.where(devices.c.group_id == group_id)
        if state is not None:
            query = query.where(devices.c.state == state)
        if suspected_clone is not None:
            since = devices.c.clone_suspected_at
            query = query.where(since.is_not(None) if suspected_clone else since.is_(None))
        return [_device(row) for row in await self._connection.execute(query)]

    async def save(self, device: Device, *, replaces_version: int) -> None:
        """See `DeviceRepository.save`."""
        changed = (
            update(devices)
            .where(devices.c.device_id == device.device_id, devices.c.version == replaces_version)
            # The state is stored with an operator's change and follows from what attestation stores, too.
            .where(devices.c.access.is_not_distinct_from(device.access))
            .where(devices.c.activated_at.is_not_distinct_from(device.activated_at))
            .values(
                group_id=device.group_id,
                state=device.state,
                blocked_at=device.blocked_at,
                blocked_reason=device.blocked_reason,
                voucher=device.voucher,
                decommissioned_at=device.decommissioned_at,
                moved_at=device.moved_at,
                moved_to=device.moved_to,
                version=device.version,
            )
        )
        if (await self._connection.execute(changed)).rowcount == 0:
            raise VersionConflictError(f"version: expected {replaces_version} in force, found another")

    async def save_suspicion(self, device: Device) -> None:
        """See `DeviceRepository.save_suspicion`."""
        await self._connection.execute(
            update(devices)
            .where(devices.c.device_id == device.device_id)
            .values(
                boot_seeds=list(device.boot_seeds),
                clone_suspected_at=device.clone_suspected_at,
                clone_detail=device.clone_detail,
            )
        )

    async def save_attested(self, attested: Sequence[Device]) -> None:
        """See `DeviceRepository.save_attested`."""
        if not attested:
            return
        columns: dict[str, BindParameter[Any]] = {name: bindparam(f"new_{name}") for name in _ATTESTED}
        statement = update(devices).where(devices.c.device_id == bindparam("which")).values(columns)
        # In the order of the key, so that two processes never wait for one another's rows.
        rows = [_attested_values(device) for device in sorted(attested, key=lambda device: device.device_id)]
        await self._connection.execute(statement, rows)

    async def last_seen(self, group_id: str, device_ids: Collection[str]) -> Mapping[str, datetime]:
        """See `DeviceRepository.last_seen`."""
        query = select(devices.c.device_id, devices.c.last_seen_at).where(
            one_of(self._connection, devices.c.device_id, device_ids),
            devices.c.group_id == group_id,
            devices.c.state.in_(ENROLLED_STATES),
            devices.c.last_seen_at.is_not(None),
        )
        return {row.device_id: row.last_seen_at for row in await self._connection.execute(query)}

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

    async def sum_up_counts(self, *, limit: int) -> int:
        """See `DeviceRepository.sum_up_counts`."""
        return await sum_up(self._connection, limit=limit)

    async def count_suspected(self) -> int:
        """See `DeviceRepository.count_suspected`."""
        query = select(func.count()).select_from(devices).where(devices.c.clone_suspected_at.is_not(None))
        return await self._connection.scalar(query) or 0

    async def standings(self) -> Sequence[tuple[str, DeviceState]]:
        """See `DeviceRepository.standings`."""
        rows = await self._connection.execute(select(devices.c.device_id, devices.c.state))
        return [(device_id, DeviceState(state)) for device_id, state in rows]


def _attested_values(device: Device) -> dict[str, object]:
    return {"which": device.device_id, **{f"new_{name}": getattr(device, name) for name in _ATTESTED}}


def _values(device: Device) -> dict[str, object]:
    return {
        "device_id": device.device_id,
        "group_id": device.group_id,
        "state": device.state,
        "identity_key": device.identity_key,
        "idevid_chain": device.idevid_chain,
        "idevid_serial": device.idevid_serial,
        "claimed_at": device.claimed_at,
        "claimed_by": device.claimed_by,
        "activated_at": device.activated_at,
        "blocked_at": device.blocked_at,
        "blocked_reason": device.blocked_reason,
        "last_seen_at": device.last_seen_at,
        "certificate_serial": device.certificate_serial,
        "certificate_key_sha256": device.certificate_key_sha256,
        "certificate_not_after": device.certificate_not_after,
        "access": device.access,
        "evidence": device.evidence,
        "evidence_at": device.evidence_at,
        "voucher": device.voucher,
        "boot_seeds": list(device.boot_seeds),
        "clone_suspected_at": device.clone_suspected_at,
        "clone_detail": device.clone_detail,
        "decommissioned_at": device.decommissioned_at,
        "moved_at": device.moved_at,
        "moved_to": device.moved_to,
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
        access=None if row.access is None else Access(row.access),
        evidence=row.evidence,
        evidence_at=row.evidence_at,
        voucher=row.voucher,
        boot_seeds=tuple(row.boot_seeds),
        clone_suspected_at=row.clone_suspected_at,
        clone_detail=row.clone_detail,
        decommissioned_at=row.decommissioned_at,
        moved_at=row.moved_at,
        moved_to=row.moved_to,
        version=row.version,
    )
