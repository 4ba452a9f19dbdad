"""The transparency log at a million entries: appending, proving, verifying, and what a proof weighs.

The log is on SQLite as the service keeps it; three witnesses in this process cosign. Verification is what a device does
for one image: four Ed25519 signatures and twenty hashes.
"""

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert
from tuf.api.metadata import Metadata, Root

from protocol.merkle import leaf_hash
from protocol.notes import Cosigner, Ed25519Signer
from protocol.tiles import TileKey, edge_keys, extend
from protocol.transparency import LogPolicy, RootEntry, entry_hash, policy_field, verify_logged
from service.adapters.clock import SystemClock
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.supply_chain_tables import log_entries, log_tiles
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.checkpoints import Checkpoints, Witness, WitnessAnswer
from service.application.publication import Publication
from service.application.transparency import Transparency
from service.application.update_repositories import MetadataFile, MetadataRole, RepositoryName
from tests.benchmarks.director_bench import row

ENTRIES = 1_000_000
CHUNK = 20_000
ROUNDS = 50
NOW = datetime(2026, 11, 23, tzinfo=UTC)
LOG = Ed25519Signer("tinyfleet/bench", Ed25519PrivateKey.generate())
WITNESSES = {f"memory:{n}": Cosigner(f"witness.example/{n}", Ed25519PrivateKey.generate()) for n in (1, 2, 3)}
POLICY = LogPolicy(
    origin=LOG.key.name, log=str(LOG.key), witnesses=tuple(str(each.key) for each in WITNESSES.values()), quorum=3
)


class Cosigning:
    """Witnesses that cosign whatever they see; implements `WitnessClient`."""

    async def add_checkpoint(self, url: str, body: bytes) -> WitnessAnswer:
        """Cosign."""
        text = body.partition(b"\n\n")[2].partition(b"\n\n")[0].decode() + "\n"
        return WitnessAnswer(cosignatures=WITNESSES[url].sign(text, at=1).line())

    async def close(self) -> None:
        """Nothing is open."""


def entry(number: int) -> RootEntry:
    """Return an entry like no other."""
    return RootEntry(repository="director", version=number + 1, sha256=hashlib.sha256(str(number).encode()).hexdigest())


def rows_of(first: int, count: int) -> Iterator[dict[str, Any]]:
    """Return rows of the table of entries, written without a model each, which would take longest."""
    for number in range(first, first + count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        written = f'{{"kind":"root","repository":"director","sha256":"{digest}","version":{number + 1}}}'.encode()
        yield {
            "number": number,
            "kind": "root",
            "name": f"director/{number + 1}",
            "subject": digest,
            "entry": written,
            "leaf_hash": leaf_hash(written),
            "created_at": NOW,
        }


async def fill(database: Database, entries: int) -> None:
    """Write a log as long as that, a chunk at a time."""
    edge = dict[TileKey, bytes]()
    for first in range(0, entries, CHUNK):
        rows = list(rows_of(first, CHUNK))
        tiles = edge | extend(first, [each["leaf_hash"] for each in rows], edge)
        edge = {key: tiles[key] for key in edge_keys(first + CHUNK)}
        full = [key for key in tiles if len(tiles[key]) == 8192 or first + CHUNK == entries]
        async with database.transaction(read_only=False) as connection:
            await connection.execute(insert(log_entries), rows)
            await connection.execute(
                insert(log_tiles),
                [{"level": key.level, "number": key.number, "content": tiles[key]} for key in full],
            )
            await connection.commit()


async def measured(folder: Path, entries: int) -> dict[str, Any]:
    """Measure one log."""
    database = Database(database_url(f"sqlite:///{folder / f'{entries}.db'}"))
    await migrate(database)
    await fill(database, entries)
    factory, clock = SqlUnitOfWorkFactory(database), SystemClock()
    log = Transparency(factory, key=LOG.key, clock=clock)
    witnesses = [Witness(each.key, url) for url, each in WITNESSES.items()]
    checkpoints = Checkpoints(factory, signer=LOG, witnesses=witnesses, client=Cosigning(), clock=clock)
    root = Metadata(Root(1, expires=NOW, unrecognized_fields=policy_field(POLICY))).to_bytes()
    async with factory() as work:
        await work.metadata.put(MetadataFile(RepositoryName.IMAGE, MetadataRole.ROOT, 1, root, NOW), at=NOW)
        await work.commit()
    appended = [await _append(factory, log, number) for number in range(entries, entries + ROUNDS)]
    begin = time.perf_counter()
    if not await checkpoints.work():
        raise RuntimeError("checkpoint: expected the quorum, found none")
    signed = time.perf_counter() - begin
    proofs, verified, proof = list[float](), list[float](), b""
    for number in range(0, entries, entries // ROUNDS):
        begin = time.perf_counter()
        proof = await log.proof(entry_hash(entry(number)))
        proofs.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        verify_logged(entry(number), proof, POLICY)
        verified.append(time.perf_counter() - begin)
    await database.close()
    size = {"proof": len(proof), "hashes": proof.partition(b"\n\n")[0].count(b"\n") - 1}
    return {"append": median(appended), "sign": signed, "prove": median(proofs), "verify": median(verified), **size}


async def _append(factory: SqlUnitOfWorkFactory, log: Transparency, number: int) -> float:
    file = MetadataFile(RepositoryName.DIRECTOR, MetadataRole.ROOT, number + 1, str(number).encode(), NOW)
    begin = time.perf_counter()
    async with factory() as work:
        await log.published(work, Publication((file,)), now=NOW)
        await work.commit()
    return time.perf_counter() - begin


async def rows() -> list[dict[str, Any]]:
    """Return the rows of the table; the peer is the same log with a thousandth of the entries."""
    with tempfile.TemporaryDirectory() as folder:
        small = await measured(Path(folder), CHUNK)
        large = await measured(Path(folder), ENTRIES)
    note = f"peer: a log of {CHUNK:,}"
    milliseconds = (
        ("log appends one entry and commits, at 1 M entries", "append"),
        ("log signs a checkpoint and three witnesses cosign it, at 1 M entries", "sign"),
        ("log makes a proof, at 1 M entries", "prove"),
        ("device verifies a proof with three witnesses, at 1 M entries", "verify"),
    )
    table = [row(name, 1000 * large[key], 1000 * small[key], "ms", note) for name, key in milliseconds]
    weight = f"{large['hashes']} hashes, {32 * large['hashes']} B of them; {note}"
    return [*table, row("proof with three witnesses, at 1 M entries", large["proof"], small["proof"], "B", weight)]


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    print(json.dumps(asyncio.run(rows())))
