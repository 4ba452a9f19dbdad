"""`tinyfleet log` against a running service: it finds nothing wrong, and then whatever somebody has changed."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from pki.log_key import load_log_key
from protocol.merkle import range_hash
from protocol.notes import UnverifiedNote
from protocol.tiles import TILE_WIDTH, extend, keys_for, leaf_hashes_of, reader
from protocol.tlog import Checkpoint
from protocol.transparency import RootEntry, entry_bytes
from service.adapters.database.engine import Database, database_url
from service.adapters.database.supply_chain_tables import log_checkpoints, log_entries, log_tiles
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.publication import Publication
from service.application.transparency import Transparency
from service.application.update_repositories import MetadataFile, MetadataRole, RepositoryName
from service.cli.log import NotLoggedError
from service.cli.log_audit import LogContradictionError, LogEditedError, LogForkError, LogShrunkError
from tests.integration.cli.live_operator import Operator, live_operator
from tests.live_service import FIRST_ENTRIES
from tests.service_processes import until

ENTRIES = TILE_WIDTH + 44  # a full tile and a partial one
IN_FORCE = FIRST_ENTRIES
IMAGES = IN_FORCE - 2  # the roots of both repositories are there, too


class Log:
    """The log of a running service, and its database in the hands of an attacker."""

    def __init__(self, operator: Operator, database: Database) -> None:
        self.operator = operator
        self.database = database
        self.signer = load_log_key(operator.service.folders.service)

    async def grow(self, count: int, *, first: int) -> None:
        """Log roots, and wait until a checkpoint covers them."""
        clock = self.operator.service.clock
        log = Transparency(SqlUnitOfWorkFactory(self.database), key=self.signer.key, clock=clock)
        now = clock.now()
        roots = [
            MetadataFile(RepositoryName.DIRECTOR, MetadataRole.ROOT, number, str(number).encode(), now)
            for number in range(first, first + count)
        ]
        async with SqlUnitOfWorkFactory(self.database)() as work:
            await log.published(work, Publication(tuple(roots)), now=now)
            await work.commit()
            size = await work.log.size()

        async def is_covered() -> bool:
            async with SqlUnitOfWorkFactory(self.database)(read_only=True) as work:
                note = await work.log.checkpoint()
            return note is not None and f"\n{size}\n" in note.decode()

        await until(is_covered)

    async def change(self, *statements: Any) -> None:
        async with self.database.transaction(read_only=False) as connection:
            for statement in statements:
                await connection.execute(statement)
            await connection.commit()

    async def rebuild(self, entries: list[bytes]) -> None:
        """Replace the whole log by another one, signed by its stolen key."""
        tiles, leaves = extend(0, leaf_hashes_of(entries), {}), leaf_hashes_of(entries)
        size = len(entries)
        root = range_hash((0, size), reader({key: tiles[key] for key in keys_for([(0, size)])}))
        text = Checkpoint(self.signer.key.name, size, root).text()
        note = UnverifiedNote(text, (self.signer.sign(text),)).encode().decode()
        numbered = list(enumerate(zip(entries, leaves, strict=True)))
        number = log_entries.c.number
        await self.change(
            delete(log_entries).where(number >= size),
            # Leaf hashes are unique: first something else, then what they are to be.
            *(update(log_entries).where(number == each).values(leaf_hash=str(each).encode()) for each in range(size)),
            *(
                update(log_entries).where(number == each).values(entry=entry, leaf_hash=leaf)
                for each, (entry, leaf) in numbered
            ),
            *(
                update(log_tiles)
                .where(log_tiles.c.level == key.level, log_tiles.c.number == key.number)
                .values(content=content)
                for key, content in tiles.items()
            ),
            delete(log_checkpoints),
            insert(log_checkpoints).values(size=size, content=note, created_at=self.operator.service.clock.now()),
        )

    async def entries(self) -> list[bytes]:
        async with self.database.transaction(read_only=True) as connection:
            found = await connection.scalars(select(log_entries.c.entry).order_by(log_entries.c.number))
            return [bytes(entry) for entry in found]


@pytest.fixture
async def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Log]:
    """A log of three hundred entries that was verified once."""
    async with live_operator(tmp_path, monkeypatch) as operator:
        database = Database(database_url(operator.service.settings.database_location()))
        try:
            opened = Log(operator, database)
            await opened.grow(ENTRIES - IN_FORCE, first=2)
            facts = await operator.succeed("log", "verify")
            assert (facts["size"], facts["roots"], facts["verified_before"]) == (ENTRIES, ENTRIES - IMAGES, 0)
            assert facts["in_force"] == IN_FORCE
            yield opened
        finally:
            await database.close()


async def test_log_that_only_grows_is_verified_again_and_again(log: Log) -> None:
    """From the copy and what was added, and from nothing."""
    assert (await log.operator.succeed("log", "verify"))["verified_before"] == ENTRIES
    await log.grow(300, first=1000)
    facts = await log.operator.succeed("log", "verify", "--resume")
    assert (facts["size"], facts["verified_before"]) == (ENTRIES + 300, ENTRIES)
    other = log.operator.folder / "other"
    assert (await log.operator.succeed("log", "verify", "--copy", str(other)))["verified_before"] == 0
    here = {path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert all((log.operator.folder / "log" / path).read_bytes() == content for path, content in here.items())


async def test_log_is_shown_and_searched(log: Log) -> None:
    """Each entry with a proof that the command verifies."""
    shown = await log.operator.succeed("log", "show")
    assert (shown["size"], shown["policy"]["quorum"], shown["witnesses"]) == (ENTRIES, 0, [])
    root = (log.operator.service.folders.service / "genesis" / "image.root.json").read_bytes()
    [found] = await log.operator.succeed("log", "find", hashlib.sha256(root).hexdigest())
    assert found["entry"]["repository"] == "image"
    assert found["log_size"] == ENTRIES
    failure = await log.operator.failure("log", "find", "00" * 32)
    assert isinstance(failure, NotLoggedError)


async def test_edited_entry_is_found(log: Log) -> None:
    """By the copy, which has it as it was, and without one by the tree."""
    entry = entry_bytes(RootEntry(repository="director", version=7, sha256="00" * 32))
    await log.change(update(log_entries).where(log_entries.c.number == 7 + IMAGES).values(entry=entry))
    failure = await log.operator.failure("log", "verify")
    assert isinstance(failure, LogEditedError)
    assert "expected the entries that were verified before" in str(failure)
    failure = await log.operator.failure("log", "verify", "--copy", str(log.operator.folder / "other"))
    assert isinstance(failure, LogEditedError)
    assert "expected what the entries make" in str(failure)


async def test_edited_tile_is_found(log: Log) -> None:
    """Although every entry is as it was."""
    content = bytes(TILE_WIDTH * 32)
    await log.change(update(log_tiles).where(log_tiles.c.level == 0, log_tiles.c.number == 0).values(content=content))
    failure = await log.operator.failure("log", "verify")
    assert isinstance(failure, LogEditedError)
    assert "tile 0/000" in str(failure)


async def test_missing_entry_is_found(log: Log) -> None:
    """A gap."""
    await log.change(delete(log_entries).where(log_entries.c.number == 100))
    assert isinstance(await log.operator.failure("log", "verify"), LogEditedError)


async def test_log_that_was_cut_is_found(log: Log) -> None:
    """An earlier state, genuine in every signature."""
    await log.rebuild((await log.entries())[:2])
    failure = await log.operator.failure("log", "verify")
    assert isinstance(failure, LogShrunkError)


async def test_log_that_was_written_anew_is_found(log: Log) -> None:
    """Consistent in itself and signed by the stolen key: only who remembers, or a witness, can tell."""
    entries = await log.entries()
    entries[7] = entry_bytes(RootEntry(repository="director", version=7, sha256="00" * 32))
    await log.rebuild(entries)
    assert isinstance(await log.operator.failure("log", "verify"), LogForkError)


async def test_what_is_in_force_but_not_logged_is_found(log: Log) -> None:
    """A log from which the Image root is missing."""
    entries = await log.entries()
    del entries[1]
    entries.append(entry_bytes(RootEntry(repository="director", version=5000, sha256="00" * 32)))
    await log.rebuild(entries)
    failure = await log.operator.failure("log", "verify", "--copy", str(log.operator.folder / "other"))
    assert isinstance(failure, NotLoggedError)
    assert '"repository":"image"' in str(failure)


async def test_two_roots_of_one_version_are_found(log: Log) -> None:
    """Both logged, both proven: somebody signed two things."""
    entries = await log.entries()
    entries[9 + IMAGES] = entry_bytes(RootEntry(repository="director", version=3, sha256="00" * 32))
    await log.rebuild(entries)
    failure = await log.operator.failure("log", "verify", "--copy", str(log.operator.folder / "other"))
    assert isinstance(failure, LogContradictionError)


async def test_wrong_bundle_is_asked_for_again(log: Log) -> None:
    """What turned out wrong is not kept: once the log is right again, the copy is too."""
    copy = str(log.operator.folder / "other")
    [before] = [entry for number, entry in enumerate(await log.entries()) if number == 7 + IMAGES]
    entry = entry_bytes(RootEntry(repository="director", version=7, sha256="00" * 32))
    await log.change(update(log_entries).where(log_entries.c.number == 7 + IMAGES).values(entry=entry))
    assert await log.operator.failure("log", "verify", "--copy", copy, "--resume")
    await log.change(update(log_entries).where(log_entries.c.number == 7 + IMAGES).values(entry=before))
    await log.operator.succeed("log", "verify", "--copy", copy, "--resume")


async def test_public_endpoints_need_no_credential(log: Log) -> None:
    """And their headers say how long an answer lives."""
    service = log.operator.service
    url = service.addresses.operator_url
    checkpoint = await service.operator.get(f"{url}/tlog/checkpoint", headers={"Authorization": ""})
    assert checkpoint.headers["Content-Type"] == "text/plain; charset=utf-8"
    tile = await service.operator.get(f"{url}/tlog/tile/0/000", headers={"Authorization": ""})
    assert (len(tile.content), "immutable" in tile.headers["Cache-Control"]) == (8192, True)
    for path in ("0/001", "9/000", "entries/999", "0/000.p/256"):
        assert (await service.operator.get(f"{url}/tlog/tile/{path}")).status_code in {404, 422}


async def test_device_gets_a_proof_or_is_told_to_wait(log: Log) -> None:
    """By the hash that it computes; 404 for what is not logged."""
    service = log.operator.service
    device = await service.claimed()
    credential = await service.attest(device)
    leaf = leaf_hashes_of((await log.entries())[:1])[0].hex()
    async with service.https(device, credential) as https:
        answer = await https.get(f"/transparency/{leaf}")
        assert answer.text.startswith("c2sp.org/tlog-proof@v1\nindex 0\n")
        assert (await https.get(f"/transparency/{'00' * 32}")).status_code == 404
        assert (await https.get("/transparency/nothing")).status_code == 404
        await log.change(delete(log_checkpoints))
        later = await https.get(f"/transparency/{leaf}")
        assert (later.status_code, int(later.headers["Retry-After"]) > 0) == (503, True)
