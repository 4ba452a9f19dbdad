"""Revocation lists in the control database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, literal, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pki.issuance import IssuanceKind
from pki.revocation import Reason, Revocation
from protocol.identity import DEVICE_URI_PREFIX
from service.adapters.database.device_tables import devices
from service.adapters.database.identity_tables import crls, issuance_log, revocations
from service.adapters.database.upsert import upsert
from service.application.revocation_repository import RevokedCertificate, StoredCrl
from service.domain.device import DeviceState
from service.domain.errors import VersionConflictError

_LDEVID_REASONS = {
    DeviceState.BLOCKED: Reason.CERTIFICATE_HOLD,  # until it is unblocked
    DeviceState.MOVED: Reason.AFFILIATION_CHANGED,
    DeviceState.DECOMMISSIONED: Reason.CESSATION_OF_OPERATION,
}


class SqlRevocations:
    """Implements `RevocationRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def crls(self) -> Sequence[StoredCrl]:
        """See `RevocationRepository.crls`."""
        return [_crl(row) for row in await self._connection.execute(select(crls))]

    async def crl(self, issuer_key_id: str) -> StoredCrl | None:
        """See `RevocationRepository.crl`."""
        row = (await self._connection.execute(select(crls).where(crls.c.issuer_key_id == issuer_key_id))).first()
        return None if row is None else _crl(row)

    async def put_crl(self, crl: StoredCrl, *, replaces: int | None) -> None:
        """See `RevocationRepository.put_crl`."""
        values = {
            "issuer_key_id": crl.issuer_key_id,
            "number": crl.number,
            "der": crl.der,
            "this_update": crl.this_update,
            "next_update": crl.next_update,
        }
        if replaces is None:
            try:
                await self._connection.execute(insert(crls).values(values))
            except IntegrityError as error:
                raise VersionConflictError("CRL: expected none in force, found another that came first") from error
            return
        replaced = update(crls).where(crls.c.issuer_key_id == crl.issuer_key_id, crls.c.number == replaces)
        if (await self._connection.execute(replaced.values(values))).rowcount == 0:
            raise VersionConflictError(f"CRL: expected number {replaces} in force, found another that came first")

    async def put(self, certificates: Sequence[RevokedCertificate]) -> None:
        """See `RevocationRepository.put`."""
        if certificates:
            await self._connection.execute(
                upsert(self._connection, revocations), [_values(each) for each in certificates]
            )

    async def remove(self, issuer_key_id: str, serials: Sequence[str]) -> None:
        """See `RevocationRepository.remove`."""
        for serial in serials:  # holds are few
            released = delete(revocations).where(
                revocations.c.issuer_key_id == issuer_key_id, revocations.c.serial == serial
            )
            await self._connection.execute(released)

    async def find(self, issuer_key_id: str, serial: str) -> RevokedCertificate | None:
        """See `RevocationRepository.find`."""
        query = select(revocations).where(revocations.c.issuer_key_id == issuer_key_id, revocations.c.serial == serial)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _revoked(row)

    async def shut_out(self, issuer_sha256: str, *, now: datetime) -> Mapping[int, Revocation]:
        """See `RevocationRepository.shut_out`."""
        shut_out_at = func.coalesce(devices.c.decommissioned_at, devices.c.moved_at, devices.c.blocked_at)
        query = (
            select(issuance_log.c.serial, devices.c.state, shut_out_at.label("shut_out_at"))
            .select_from(devices)
            .join(issuance_log, issuance_log.c.subject == literal(DEVICE_URI_PREFIX).concat(devices.c.device_id))
            .where(devices.c.state.in_(_LDEVID_REASONS), issuance_log.c.kind == IssuanceKind.LDEVID)
            .where(issuance_log.c.issuer_sha256 == issuer_sha256, issuance_log.c.not_after > now)
        )
        return {
            int(row.serial, 16): Revocation(row.shut_out_at.replace(microsecond=0), _LDEVID_REASONS[row.state])
            for row in await self._connection.execute(query)
        }

    async def of_device(self, device_id: str) -> RevokedCertificate | None:
        """See `RevocationRepository.of_device`."""
        query = select(revocations).where(revocations.c.subject == device_id).limit(1)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _revoked(row)


def _values(certificate: RevokedCertificate) -> dict[str, object]:
    return {
        "issuer_key_id": certificate.issuer_key_id,
        "serial": certificate.serial,
        "subject": certificate.device_id,
        "revoked_at": certificate.revoked_at,
        "reason": certificate.reason,
    }


def _crl(row: Row[Any]) -> StoredCrl:
    return StoredCrl(row.issuer_key_id, row.number, bytes(row.der), row.this_update, row.next_update)


def _revoked(row: Row[Any]) -> RevokedCertificate:
    return RevokedCertificate(row.issuer_key_id, row.serial, row.subject, row.revoked_at, Reason(row.reason))
