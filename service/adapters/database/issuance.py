"""The issuance log in the control database.

The head row makes concurrent writers follow one another: on PostgreSQL it is locked, SQLite has one writer anyway.
It also says where the log ends, so that deleted entries are missed.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Row, bindparam, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from pki.issuance import CertificateFacts, IssuanceKind, LogEntry, LogHead, extend
from service.adapters.database.device_tables import devices
from service.adapters.database.identity_tables import issuance_head, issuance_log, issuance_uses
from service.adapters.database.one_of import one_of
from service.application.issuance import IssuerUse, KeyReusedError, LogHeadError

_LOCKED_HEAD = (
    select(issuance_head.c.sequence, issuance_head.c.entry_sha256).where(issuance_head.c.id == 1).with_for_update()
)
_INSERT = insert(issuance_log)
_MOVE_HEAD = (
    update(issuance_head)
    .where(issuance_head.c.id == 1)
    .values(sequence=bindparam("last"), entry_sha256=bindparam("last_sha256"))
)
_COUNT_USE = sqlite_insert(issuance_uses)
_COUNT_USE = _COUNT_USE.on_conflict_do_update(
    index_elements=[issuance_uses.c.issuer_sha256],
    set_={
        "certificates": issuance_uses.c.certificates + _COUNT_USE.excluded.certificates,
        "not_after": func.max(issuance_uses.c.not_after, _COUNT_USE.excluded.not_after),
    },
)
# All in one round trip, however many entries there are.
_INSERT_AND_MOVE_HEAD = text(
    "WITH head AS (UPDATE issuance_head SET sequence = :last, entry_sha256 = :last_sha256 WHERE id = 1), "
    "uses AS (INSERT INTO issuance_uses SELECT * FROM unnest(CAST(:use_issuers AS varchar[]), "
    "CAST(:use_certificates AS bigint[]), CAST(:use_ends AS timestamptz[])) ON CONFLICT (issuer_sha256) DO UPDATE SET "
    "certificates = issuance_uses.certificates + excluded.certificates, "
    "not_after = greatest(issuance_uses.not_after, excluded.not_after)) "
    "INSERT INTO issuance_log (sequence, at, kind, serial, subject, key_sha256, certificate_sha256, issuer_sha256, "
    "not_after, previous_sha256, entry_sha256) SELECT * FROM unnest(CAST(:sequence AS bigint[]), "
    "CAST(:at AS timestamptz[]), CAST(:kind AS varchar[]), CAST(:serial AS varchar[]), CAST(:subject AS varchar[]), "
    "CAST(:key_sha256 AS varchar[]), CAST(:certificate_sha256 AS varchar[]), CAST(:issuer_sha256 AS varchar[]), "
    "CAST(:not_after AS timestamptz[]), CAST(:previous_sha256 AS varchar[]), CAST(:entry_sha256 AS varchar[]))"
).bindparams(bindparam("last", type_=BigInteger))


class SqlIssuanceLog:
    """Implements `IssuanceLog`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def append(self, facts: Sequence[CertificateFacts]) -> None:
        """See `IssuanceLog.append`."""
        if not facts:
            return
        row = (await self._connection.execute(_LOCKED_HEAD)).first()
        if row is None:
            raise _headless()
        entries = extend(LogHead(row.sequence, row.entry_sha256), facts)
        head = {"last": entries[-1].sequence, "last_sha256": entries[-1].entry_sha256}
        rows, uses = [_values(entry) for entry in entries], _uses(facts)
        try:
            if self._connection.dialect.name == "postgresql":
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                await self._connection.execute(_INSERT_AND_MOVE_HEAD, {**head, **columns, **_use_columns(uses)})
            else:
                await self._connection.execute(_INSERT, rows)
                await self._connection.execute(_MOVE_HEAD, head)
                if uses:
                    await self._connection.execute(_COUNT_USE, [asdict(use) for use in uses])
        except IntegrityError as error:
            raise KeyReusedError("key: expected one that was never certified, found one that was") from error

    async def known_keys(self, key_sha256s: Collection[str], *, device_ids: Collection[str] = ()) -> set[str]:
        """See `IssuanceLog.known_keys`."""
        is_certified = one_of(self._connection, issuance_log.c.key_sha256, key_sha256s)
        certified = select(issuance_log.c.key_sha256).where(is_certified)
        identities = select(devices.c.device_id).where(one_of(self._connection, devices.c.device_id, device_ids))
        query = certified.union(identities) if device_ids else certified
        return set(await self._connection.scalars(query))

    async def issuer_of(self, key_sha256: str) -> str | None:
        """See `IssuanceLog.issuer_of`."""
        query = select(issuance_log.c.issuer_sha256).where(issuance_log.c.key_sha256 == key_sha256)
        return await self._connection.scalar(query.order_by(issuance_log.c.sequence.desc()).limit(1))

    async def page(self, *, after: int, limit: int) -> tuple[Sequence[LogEntry], LogHead]:
        """See `IssuanceLog.page`; one statement, so that entries and head are of one moment."""
        query = (
            select(issuance_log, issuance_head.c.sequence.label("last"), issuance_head.c.entry_sha256.label("last_sha"))
            .select_from(issuance_head.outerjoin(issuance_log, issuance_log.c.sequence > after))
            .order_by(issuance_log.c.sequence)
            .limit(limit)
        )
        rows = (await self._connection.execute(query)).all()
        if not rows:
            raise _headless()
        return [_entry(row) for row in rows if row.sequence is not None], LogHead(rows[0].last, rows[0].last_sha)

    async def uses(self) -> Sequence[IssuerUse]:
        """See `IssuanceLog.uses`."""
        return [IssuerUse(*row) for row in await self._connection.execute(select(issuance_uses))]


def _headless() -> LogHeadError:
    return LogHeadError("issuance log: expected the row that says where it ends, found none")


def _uses(facts: Sequence[CertificateFacts]) -> Sequence[IssuerUse]:
    """Return what each issuer adds to its use, LDevIDs alone."""
    ends: defaultdict[str, list[datetime]] = defaultdict(list)
    for one in facts:
        if one.kind is IssuanceKind.LDEVID:
            ends[one.issuer_sha256].append(one.not_after)
    return [IssuerUse(issuer, len(found), max(found)) for issuer, found in ends.items()]


def _use_columns(uses: Sequence[IssuerUse]) -> dict[str, Any]:
    return {
        "use_issuers": [use.issuer_sha256 for use in uses],
        "use_certificates": [use.certificates for use in uses],
        "use_ends": [use.not_after for use in uses],
    }


def _values(entry: LogEntry) -> dict[str, Any]:
    facts = entry.facts
    return {
        "sequence": entry.sequence,
        "at": facts.at,
        "kind": facts.kind.value,
        "serial": facts.serial,
        "subject": facts.subject,
        "key_sha256": facts.key_sha256,
        "certificate_sha256": facts.certificate_sha256,
        "issuer_sha256": facts.issuer_sha256,
        "not_after": facts.not_after,
        "previous_sha256": entry.previous_sha256,
        "entry_sha256": entry.entry_sha256,
    }


def _entry(row: Row[Any]) -> LogEntry:
    facts = CertificateFacts(
        at=row.at,
        kind=IssuanceKind(row.kind),
        serial=row.serial,
        subject=row.subject,
        key_sha256=row.key_sha256,
        certificate_sha256=row.certificate_sha256,
        issuer_sha256=row.issuer_sha256,
        not_after=row.not_after,
    )
    return LogEntry(row.sequence, facts, row.previous_sha256, row.entry_sha256)
