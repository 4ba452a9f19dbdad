"""Somebody with the service's database in hand hides what was certified; the operator's next verification finds it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import text

from pki.errors import IssuanceLogError, LogChainError, LogCutError, LogOrderError, LogRewrittenError
from pki.issuance import OPERATOR_LOG_FILE, CertificateFacts, LogHead, extend
from protocol.signing import SoftwareSigner
from service.adapters.database.engine import Database, database_url
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.cli.errors import RefusedError
from service.cli.pki_log import HEAD_FILE, verify
from tests.live_service import LiveService, live_service
from tests.service_folder import ADMIN_TOKEN, make_folders

DEVICES = 4  # so many entries
_CHANGE_ENTRY = text(
    "UPDATE issuance_log SET subject = :subject, previous_sha256 = :previous, entry_sha256 = :own WHERE sequence = :at"
)
_CHANGE_HEAD = text("UPDATE issuance_head SET entry_sha256 = :own")


@dataclass(frozen=True, slots=True)
class Scene:
    """A running service whose log was verified once, and a way into its database."""

    live: LiveService
    database: Database

    @property
    def operator(self) -> Path:
        return self.live.folders.operator

    async def verify(self) -> LogHead:
        """What `tinyfleet pki log verify` does; returns where it says that the service's log ends."""
        await asyncio.to_thread(verify, operator_dir=self.operator)
        return LogHead(**json.loads((self.operator / HEAD_FILE).read_bytes())["service"])

    async def tamper(self, *statements: str) -> None:
        async with self.database.engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    async def rewrite(self, *, beyond: int) -> None:
        """Change the entry after a number, and hash it and everything after it anew."""
        unit_of_work = SqlUnitOfWorkFactory(self.database)
        async with unit_of_work(read_only=True) as work:
            entries, _ = await work.issuance.page(after=0, limit=100)
        head = entries[beyond - 1].head
        facts = [entry.facts for entry in entries[beyond:]]
        async with self.database.engine.begin() as connection:
            for new in extend(head, [_other(facts[0]), *facts[1:]]):
                values = {
                    "subject": new.facts.subject,
                    "previous": new.previous_sha256,
                    "own": new.entry_sha256,
                    "at": new.sequence,
                }
                await connection.execute(_CHANGE_ENTRY, values)
                await connection.execute(_CHANGE_HEAD, {"own": new.entry_sha256})


def _other(facts: CertificateFacts) -> CertificateFacts:
    return replace(facts, subject="urn:tinyfleet:device:" + "0" * 128)


@pytest.fixture
async def scene(database: str, tmp_path: Path) -> AsyncIterator[Scene]:
    folders, control = make_folders(tmp_path), Database(database_url(database))
    async with live_service(folders, database_url=database) as live:
        login = {"url": live.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
        credential = folders.operator / "credential.json"
        credential.write_text(json.dumps(login))
        credential.chmod(0o600)
        for _ in range(DEVICES):
            await live.attest(await live.claimed())
        opened = Scene(live, control)
        assert (await opened.verify()).sequence == DEVICES
        yield opened
    await control.close()


# What somebody does to the database: the statements, and what gives it away.
TABLES = ("issuance_log", "issuance_head")
NOBODY = hashlib.sha256(b"nobody").hexdigest()
TAMPERING: dict[str, tuple[tuple[str, ...], type[IssuanceLogError], str]] = {
    "another_subject": (("UPDATE issuance_log SET subject = 'x' WHERE sequence = 2",), LogChainError, "entry 2"),
    "another_key": (
        (f"UPDATE issuance_log SET key_sha256 = '{NOBODY}' WHERE sequence = 4",),  # noqa: S608 - a constant
        LogChainError,
        "entry 4",
    ),
    "another_kind": (("UPDATE issuance_log SET kind = 'idevid' WHERE sequence = 1",), LogChainError, "entry 1"),
    "another_hash": (
        (f"UPDATE issuance_log SET entry_sha256 = '{NOBODY}' WHERE sequence = 4",),  # noqa: S608 - a constant
        LogChainError,
        "entry 4",
    ),
    "hidden_in_the_middle": (
        ("DELETE FROM issuance_log WHERE sequence = 2",),
        LogOrderError,
        "expected entry 2, found 3",
    ),
    "hidden_and_renumbered": (
        (
            "DELETE FROM issuance_log WHERE sequence = 2",
            "UPDATE issuance_log SET sequence = 2 WHERE sequence = 3",
            "UPDATE issuance_log SET sequence = 3 WHERE sequence = 4",
        ),
        LogChainError,
        "entry 2: expected to follow",
    ),
    "swapped": (
        (
            "UPDATE issuance_log SET sequence = 9 WHERE sequence = 2",
            "UPDATE issuance_log SET sequence = 2 WHERE sequence = 3",
            "UPDATE issuance_log SET sequence = 3 WHERE sequence = 9",
        ),
        LogChainError,
        "entry 2: expected to follow",
    ),
    "beginning_deleted": (("DELETE FROM issuance_log WHERE sequence = 1",), LogOrderError, "expected entry 1, found 2"),
    "end_deleted": (("DELETE FROM issuance_log WHERE sequence = 4",), LogCutError, "found 3"),
    "end_deleted_with_its_head": (
        (
            "DELETE FROM issuance_log WHERE sequence = 4",
            "UPDATE issuance_head SET sequence = 3",
            "UPDATE issuance_head SET entry_sha256 = (SELECT entry_sha256 FROM issuance_log WHERE sequence = 3)",
        ),
        LogCutError,
        "expected at least the 4 entries of the last verification, found 3",
    ),
    "everything_deleted": (("DELETE FROM issuance_log",), LogCutError, "found 0"),
    "head_moved": (("UPDATE issuance_head SET sequence = 5",), LogCutError, "expected to end with entry 5"),
}


async def test_tampering_with_the_log_is_found(scene: Scene) -> None:
    """One thing at a time; what was remembered stays, so that it is found again."""
    remembered = (scene.operator / HEAD_FILE).read_bytes()
    await scene.tamper(*(f"CREATE TABLE {table}_copy AS SELECT * FROM {table}" for table in TABLES))  # noqa: S608
    for case, (statements, error, message) in TAMPERING.items():
        await scene.tamper(*statements)
        with pytest.raises(error, match=rf"service: .*{message}"):
            await scene.verify()
        assert (scene.operator / HEAD_FILE).read_bytes() == remembered, case
        for table in TABLES:
            await scene.tamper(f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM {table}_copy")  # noqa: S608
    assert (await scene.verify()).sequence == DEVICES


async def test_rewritten_history_is_found(scene: Scene) -> None:
    """Every hash is right, from the changed entry to the head; but the operator remembers another one."""
    await scene.rewrite(beyond=2)
    with pytest.raises(LogRewrittenError, match=r"service: .*entry 4"):
        await scene.verify()
    (scene.operator / HEAD_FILE).unlink()  # who remembers nothing sees nothing
    assert (await scene.verify()).sequence == DEVICES


async def test_lost_head_stops_issuing(scene: Scene) -> None:
    """Without the row that says where the log ends nothing is certified, and verification says why."""
    await scene.tamper("DELETE FROM issuance_head")
    device = await scene.live.claimed()
    answer = await scene.live.ask_to_attest(device, SoftwareSigner.generate())
    assert answer.status_code == 409
    with pytest.raises(RefusedError, match="expected the row that says where it ends"):
        await scene.verify()


async def test_operators_own_log_is_verified_as_well(scene: Scene) -> None:
    """A line that somebody cut out of issuance.jsonl."""
    log = scene.operator / OPERATOR_LOG_FILE
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(LogOrderError, match=r"operator: .*expected entry 2, found 3"):
        await scene.verify()
    log.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(LogCutError, match=f"operator: .*the {len(lines)} entries"):
        await scene.verify()


async def test_honest_log_grows(scene: Scene) -> None:
    """What comes after the last verification is verified with it."""
    await scene.live.attest(await scene.live.claimed())
    assert (await scene.verify()).sequence == DEVICES + 1
