"""Nonces and attestation results in the control database.

Results of many devices are stored at once: one statement finds the last ones, and those that are the same only have
their counter raised.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Delete, Row, and_, delete, func, insert, or_, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.advisory_locks import AdvisoryLock
from service.adapters.database.device_tables import attestation_nonces, attestations
from service.adapters.database.one_of import one_of
from service.adapters.database.upsert import upsert
from service.application.device_repositories import AttestationRecord, IssuedNonce, NoncePurpose
from service.domain.attestation import Appraisal, Finding, Status, Verdict


class SqlAttestations:
    """Implements `AttestationRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put_nonces(self, nonces: Sequence[IssuedNonce]) -> None:
        """See `AttestationRepository.put_nonces`."""
        rows = [
            {
                "device_id": issued.device_id,
                "purpose": issued.purpose,
                "nonce": issued.nonce,
                "expires_at": issued.expires_at,
            }
            # In the order of the key, so that two processes never wait for one another's rows.
            for issued in sorted(nonces, key=lambda issued: (issued.device_id, issued.purpose))
        ]
        if rows:
            await self._connection.execute(upsert(self._connection, attestation_nonces), rows)

    async def take_nonces(
        self, wanted: Collection[tuple[str, NoncePurpose]], *, now: datetime
    ) -> Mapping[tuple[str, NoncePurpose], bytes]:
        """See `AttestationRepository.take_nonces`."""
        table = attestation_nonces.c
        of_purpose = {purpose: [id_ for id_, its in wanted if its is purpose] for purpose in NoncePurpose}
        are_wanted = (
            and_(table.purpose == purpose, one_of(self._connection, table.device_id, ids))
            for purpose, ids in of_purpose.items()
        )
        statement = _delete_nonces(or_(*are_wanted))
        rows = await self._connection.execute(
            statement.returning(table.device_id, table.purpose, table.nonce, table.expires_at)
        )
        return {(row.device_id, NoncePurpose(row.purpose)): bytes(row.nonce) for row in rows if row.expires_at > now}

    async def prune_nonces(self, *, now: datetime) -> None:
        """See `AttestationRepository.prune_nonces`."""
        await self._connection.execute(_delete_nonces(attestation_nonces.c.expires_at <= now))

    async def record(self, results: Mapping[str, Appraisal], *, at: datetime) -> Sequence[str]:
        """See `AttestationRepository.record`."""
        await self._lock(sorted(results))
        rows = await self._last_rows(results)
        newest = {row.device_id: row for row in rows}
        same = {row.record_id for id_, row in newest.items() if _is_same(row, results[id_])}
        if same:
            extended = update(attestations).where(attestations.c.record_id.in_(same))
            await self._connection.execute(extended.values(last_at=at, times=attestations.c.times + 1))
        latest = {row.device_id: row for row in rows if row.is_latest}
        new = [
            _New(id_, result, latest=latest.get(id_), newest=newest.get(id_))
            for id_, result in results.items()
            if id_ not in newest or newest[id_].record_id not in same
        ]
        await self._add(new, at=at)
        return [one.device_id for one in new if one.is_change]

    async def _add(self, new: Sequence["_New"], *, at: datetime) -> None:
        superseded = [one.latest.record_id for one in new if one.is_latest and one.latest is not None]
        if superseded:
            their = update(attestations).where(attestations.c.record_id.in_(superseded))
            await self._connection.execute(their.values(is_latest=False))
        if new:
            await self._connection.execute(insert(attestations), [_row(one, at=at) for one in new])

    async def _lock(self, device_ids: Sequence[str]) -> None:
        """Let of two results of one device, in whatever processes, one follow the other."""
        if self._connection.dialect.name == "postgresql":
            await self._connection.execute(_LOCKS, {"ids": device_ids, "class": AdvisoryLock.ATTESTATION_RESULT.value})

    async def _last_rows(self, device_ids: Collection[str]) -> Sequence[Row[Any]]:
        """Return each device's latest and newest row, which may be one, in the order of their numbers."""
        is_wanted = one_of(self._connection, attestations.c.device_id, device_ids)
        newest = select(func.max(attestations.c.record_id)).where(is_wanted).group_by(attestations.c.device_id)
        is_last = or_(attestations.c.is_latest, attestations.c.record_id.in_(newest))
        rows = select(attestations).where(is_wanted, is_last).order_by(attestations.c.record_id)
        return (await self._connection.execute(rows)).all()

    async def latest(self, device_id: str) -> AttestationRecord | None:
        """See `AttestationRepository.latest`."""
        is_its = attestations.c.device_id == device_id
        row = (await self._connection.execute(select(attestations).where(attestations.c.is_latest, is_its))).first()
        return None if row is None else _record(row)

    async def newest(self, device_id: str) -> AttestationRecord | None:
        """See `AttestationRepository.newest`."""
        return next(iter(await self.page_history(device_id, before_id=None, limit=1)), None)

    async def page_latest(
        self, *, after_device_id: str | None, limit: int, verdict: Verdict | None = None
    ) -> Sequence[AttestationRecord]:
        """See `AttestationRepository.page_latest`."""
        query = select(attestations).where(attestations.c.is_latest).order_by(attestations.c.device_id).limit(limit)
        if after_device_id is not None:
            query = query.where(attestations.c.device_id > after_device_id)
        if verdict is not None:  # the index is on `accepted`
            query = query.where(attestations.c.accepted.is_(verdict is Verdict.ACCEPTED))
            query = query.where(attestations.c.verdict == verdict)
        return [_record(row) for row in await self._connection.execute(query)]

    async def page_history(self, device_id: str, *, before_id: int | None, limit: int) -> Sequence[AttestationRecord]:
        """See `AttestationRepository.page_history`."""
        newest = attestations.c.record_id.desc()
        query = select(attestations).where(attestations.c.device_id == device_id).order_by(newest).limit(limit)
        if before_id is not None:
            query = query.where(attestations.c.record_id < before_id)
        return [_record(row) for row in await self._connection.execute(query)]

    async def counts(self) -> Mapping[Verdict, int]:
        """See `AttestationRepository.counts`."""
        query = select(attestations.c.verdict, func.count()).where(attestations.c.is_latest)
        rows = await self._connection.execute(query.group_by(attestations.c.verdict))
        found = {Verdict(verdict): count for verdict, count in rows}
        return {verdict: found.get(verdict, 0) for verdict in Verdict}


# Locks are taken in the order of their numbers, so that two processes never wait for one another.
_LOCKS = text(
    "SELECT pg_advisory_xact_lock(:class, lock) FROM "
    "(SELECT DISTINCT hashtext(id) AS lock FROM unnest(CAST(:ids AS text[])) AS id ORDER BY 1) AS locks"
)


def _delete_nonces(condition: ColumnElement[bool]) -> Delete:
    """Delete in the order of the key, as nonces are put, so that two processes never wait for one another's rows."""
    key = attestation_nonces.c.device_id, attestation_nonces.c.purpose
    locked = select(*key).where(condition).order_by(*key).with_for_update()  # SQLite has one writer and no such clause
    return delete(attestation_nonces).where(tuple_(*key).in_(locked))


def _is_same(row: Row[Any], appraisal: Appraisal) -> bool:
    """Compare a stored result without making findings of it: almost all are the same as the last time."""
    stored, findings = row.findings, appraisal.findings
    return (
        row.verdict == appraisal.verdict
        and len(stored) == len(findings)
        and all(
            before.get("status") == finding.status
            and before["digest"] == finding.digest
            and before["found"] == finding.found
            and before["expected"] == finding.expected
            and before["component"] == finding.component
            for before, finding in zip(stored, findings, strict=True)
        )
    )


@dataclass(frozen=True, slots=True)
class _New:
    """A result that is not the same as its device's newest one.

    Attributes:
        latest: the device's latest row before it.
        newest: the device's newest row before it.
    """

    device_id: str
    appraisal: Appraisal
    latest: Row[Any] | None
    newest: Row[Any] | None

    @property
    def before(self) -> Row[Any] | None:
        """What it is compared with."""
        return self.latest if self.appraisal.is_judged else self.newest

    @property
    def is_change(self) -> bool:
        return self.before is None or not _is_same(self.before, self.appraisal)

    @property
    def is_latest(self) -> bool:
        if self.appraisal.is_judged or self.latest is None:
            return True
        return not _record(self.latest).appraisal.is_judged


def _row(new: _New, *, at: datetime) -> dict[str, object]:
    last, appraisal = None if new.before is None else _record(new.before), new.appraisal
    before = {} if last is None else {finding: finding.since or last.since for finding in last.appraisal.findings}
    return {
        "device_id": new.device_id,
        "accepted": appraisal.accepted,
        "verdict": appraisal.verdict,
        "findings": [_finding_json(finding, before.get(finding, at)) for finding in appraisal.findings],
        "since": at,
        "last_at": at,
        "times": 1,
        "is_latest": new.is_latest,
    }


def _finding_json(finding: Finding, since: datetime) -> dict[str, str | bool]:
    return {
        "component": finding.component,
        "expected": finding.expected,
        "found": finding.found,
        "status": finding.status,
        "digest": finding.digest,
        "healable": finding.healable,
        "since": since.isoformat(),
    }


def _record(row: Row[Any]) -> AttestationRecord:
    findings = tuple(_finding(finding, row.since) for finding in row.findings)
    return AttestationRecord(
        record_id=row.record_id,
        device_id=row.device_id,
        appraisal=Appraisal(findings, Verdict(row.verdict)),
        since=row.since,
        last_at=row.last_at,
        times=row.times,
    )


def _finding(stored: dict[str, Any], record_since: datetime) -> Finding:
    if "status" not in stored:  # of a release before statuses
        status = Status.AFFIRMING if stored["accepted"] else Status.CONTRAINDICATED
        return Finding(
            stored["component"], stored["expected"], stored["found"], status, stored["digest"], since=record_since
        )
    return Finding(**{**stored, "status": Status(stored["status"]), "since": datetime.fromisoformat(stored["since"])})
