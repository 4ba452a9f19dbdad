"""The issuance log in the control database: chained, one writer after the other, nothing without its transaction."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from pki.issuance import GENESIS, CertificateFacts, IssuanceKind, LogCheck, LogHead
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.issuance import KeyReusedError, LogHeadError

NOW = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
PAGE = 7


def facts(number: int, *, kind: IssuanceKind = IssuanceKind.LDEVID) -> CertificateFacts:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return CertificateFacts(
        at=NOW + timedelta(seconds=number),
        kind=kind,
        serial=f"{number:x}",
        subject=f"urn:tinyfleet:device:{number:0128x}",
        key_sha256=digest,
        certificate_sha256=digest,
        issuer_sha256="a" * 64,
        not_after=NOW + timedelta(days=1, seconds=number),
    )


@pytest.fixture
async def control(database: str) -> AsyncIterator[Database]:
    opened = Database(database_url(database))
    await migrate(opened)
    yield opened
    await opened.close()


async def append(control: Database, *numbers: int) -> None:
    async with SqlUnitOfWorkFactory(control)() as work:
        await work.issuance.append([facts(number) for number in numbers])
        await work.commit()


async def walk(control: Database, *, remembered: LogHead | None = None) -> LogHead:
    """Verify the whole log page by page."""
    check = LogCheck(remembered=remembered)
    while True:
        async with SqlUnitOfWorkFactory(control)(read_only=True) as work:
            entries, head = await work.issuance.page(after=check.head.sequence, limit=PAGE)
        for entry in entries:
            check.add(entry)
        if len(entries) < PAGE:
            return check.finish(claimed=head)


async def test_new_log_is_empty(control: Database) -> None:
    """It ends at its beginning."""
    assert await walk(control) == GENESIS


async def test_entries_come_back_as_they_were_hashed(control: Database) -> None:
    """Over several pages, one and many at a time, times to the microsecond."""
    await append(control, 1)
    await append(control, *range(2, 30))
    await append(control)
    assert (await walk(control)).sequence == 29
    async with SqlUnitOfWorkFactory(control)(read_only=True) as work:
        entries, _ = await work.issuance.page(after=3, limit=2)
    assert [entry.facts for entry in entries] == [facts(4), facts(5)]


async def test_entries_without_commit_leave_the_log_as_it_was(control: Database) -> None:
    """What was not committed was not issued, and leaves no gap."""
    await append(control, 1)
    async with SqlUnitOfWorkFactory(control)() as work:
        await work.issuance.append([facts(2)])
    await append(control, 3)
    assert (await walk(control)).sequence == 2


async def test_writers_at_once_make_one_chain(control: Database, database: str) -> None:
    """From two processes' connections, each waits for the one before."""
    other = Database(database_url(database))
    try:
        writers = [append((control, other)[number % 2], 2 * number, 2 * number + 1) for number in range(20)]
        await asyncio.gather(*writers)
    finally:
        await other.close()
    assert (await walk(control)).sequence == 40


async def test_key_is_certified_once(control: Database) -> None:
    """Even if two requests have both found it fresh."""
    await append(control, 1)
    with pytest.raises(KeyReusedError, match="never certified"):
        await append(control, 2, 1)
    assert (await walk(control)).sequence == 1


async def test_certified_keys_are_known(control: Database) -> None:
    """And only those."""
    await append(control, 1, 2)
    async with SqlUnitOfWorkFactory(control)(read_only=True) as work:
        asked = [facts(number).key_sha256 for number in (1, 3)]
        assert await work.issuance.known_keys(asked) == {facts(1).key_sha256}
        assert await work.issuance.known_keys(asked, device_ids=["0" * 128]) == {facts(1).key_sha256}


async def test_use_of_an_issuer_is_counted(control: Database) -> None:
    """How many, and until when."""
    await append(control, 3, 1)
    await append(control, 2)
    async with SqlUnitOfWorkFactory(control)(read_only=True) as work:
        (use,) = await work.issuance.uses()
    assert (use.issuer_sha256, use.certificates, use.not_after) == ("a" * 64, 3, facts(3).not_after)


async def test_log_without_its_head_issues_nothing(control: Database) -> None:
    """Somebody deleted the row that says where the log ends."""
    await append(control, 1)
    async with control.engine.begin() as connection:
        await connection.execute(text("DELETE FROM issuance_head"))
    with pytest.raises(LogHeadError, match="expected the row"):
        await append(control, 2)
    with pytest.raises(LogHeadError, match="expected the row"):
        await walk(control)
