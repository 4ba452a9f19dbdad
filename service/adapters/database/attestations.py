"""Nonces and attestation results in the control database."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.device_tables import attestation_nonces, attestations
from service.application.device_repositories import AttestationRecord
from service.domain.attestation import Appraisal, Finding


class SqlAttestations:
    """Implements `AttestationRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put_nonce(self, nonce: bytes, device_id: str, *, expires_at: datetime) -> None:
        """See `AttestationRepository.put_nonce`."""
        values = {"device_id": device_id, "purpose": "attest", "nonce": nonce, "expires_at": expires_at}
        insert_or_update = postgresql_insert if self._connection.dialect.name == "postgresql" else sqlite_insert
        statement = insert_or_update(attestation_nonces).values(values)
        await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["device_id", "purpose"], set_={"nonce": nonce, "expires_at": expires_at}
            )
        )

    async def take_nonce(self, device_id: str, *, now: datetime) -> bytes | None:
        """See `AttestationRepository.take_nonce`."""
        statement = (
            delete(attestation_nonces)
            .where(attestation_nonces.c.device_id == device_id, attestation_nonces.c.purpose == "attest")
            .returning(attestation_nonces.c.nonce, attestation_nonces.c.expires_at)
        )
        row = (await self._connection.execute(statement)).first()
        return None if row is None or row.expires_at <= now else bytes(row.nonce)

    async def prune_nonces(self, *, now: datetime) -> None:
        """See `AttestationRepository.prune_nonces`."""
        await self._connection.execute(delete(attestation_nonces).where(attestation_nonces.c.expires_at <= now))

    async def record(self, device_id: str, appraisal: Appraisal, *, at: datetime) -> AttestationRecord:
        """See `AttestationRepository.record`."""
        if self._connection.dialect.name == "postgresql":  # of two results at once, one follows the other
            await self._connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:id))"), {"id": device_id})
        previous = await self.latest(device_id)
        if previous is not None and previous.appraisal == appraisal:
            return await self._extend(previous, at)
        superseded = update(attestations).where(attestations.c.device_id == device_id, attestations.c.is_latest)
        await self._connection.execute(superseded.values(is_latest=False))
        values = {
            "device_id": device_id,
            "accepted": appraisal.accepted,
            "findings": [_finding_json(finding) for finding in appraisal.findings],
            "since": at,
            "last_at": at,
            "times": 1,
            "is_latest": True,
        }
        row = (await self._connection.execute(insert(attestations).values(values).returning(attestations))).one()
        return _record(row)

    async def _extend(self, previous: AttestationRecord, at: datetime) -> AttestationRecord:
        statement = (
            update(attestations)
            .where(attestations.c.record_id == previous.record_id)
            .values(last_at=at, times=attestations.c.times + 1)
            .returning(attestations)
        )
        return _record((await self._connection.execute(statement)).one())

    async def latest(self, device_id: str) -> AttestationRecord | None:
        """See `AttestationRepository.latest`."""
        newest = attestations.c.record_id.desc()
        query = select(attestations).where(attestations.c.device_id == device_id).order_by(newest).limit(1)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _record(row)

    async def page_latest(
        self, *, after_device_id: str | None, limit: int, accepted: bool | None = None
    ) -> Sequence[AttestationRecord]:
        """See `AttestationRepository.page_latest`."""
        query = select(attestations).where(attestations.c.is_latest).order_by(attestations.c.device_id).limit(limit)
        if after_device_id is not None:
            query = query.where(attestations.c.device_id > after_device_id)
        if accepted is not None:
            query = query.where(attestations.c.accepted.is_(accepted))
        return [_record(row) for row in await self._connection.execute(query)]

    async def page_history(self, device_id: str, *, before_id: int | None, limit: int) -> Sequence[AttestationRecord]:
        """See `AttestationRepository.page_history`."""
        newest = attestations.c.record_id.desc()
        query = select(attestations).where(attestations.c.device_id == device_id).order_by(newest).limit(limit)
        if before_id is not None:
            query = query.where(attestations.c.record_id < before_id)
        return [_record(row) for row in await self._connection.execute(query)]

    async def counts(self) -> tuple[int, int]:
        """See `AttestationRepository.counts`."""
        query = (
            select(attestations.c.accepted, func.count().label("devices"))
            .where(attestations.c.is_latest)
            .group_by(attestations.c.accepted)
        )
        found = {row.accepted: row.devices for row in await self._connection.execute(query)}
        return found.get(True, 0), found.get(False, 0)


def _finding_json(finding: Finding) -> dict[str, str | bool]:
    return {
        "component": finding.component,
        "expected": finding.expected,
        "found": finding.found,
        "accepted": finding.accepted,
        "digest": finding.digest,
    }


def _record(row: Row[Any]) -> AttestationRecord:
    return AttestationRecord(
        record_id=row.record_id,
        device_id=row.device_id,
        appraisal=Appraisal(tuple(Finding(**finding) for finding in row.findings)),
        since=row.since,
        last_at=row.last_at,
        times=row.times,
    )
