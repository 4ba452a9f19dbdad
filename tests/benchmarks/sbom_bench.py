"""Which devices run a component: seconds for the answer at 100 k devices of five slots, on both databases.

Each slot has 40 images; each image lists 25 components. `common` is in every image, so every device runs it in every
slot; `rare` is in one image of one slot. The answer is what `tinyfleet sbom find` asks for: the images with their
counts, how many devices there are, and the first page of them. The peer column counts the same devices by one join,
as a planner likes it. With SQLite the whole command is measured too, Python's start included.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert, text

from protocol.geometry import HOME_BYTES, Slot
from service.adapters.database import device_tables
from service.adapters.database.documents import installed_query
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.supply_chain_tables import bom_components
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.adapters.database.update_tables import image_targets, installed_images
from service.application.document_repository import ComponentQuery
from service.application.documents import Documents
from tests.benchmarks.bench_service import PASSPHRASE, data_directory, now, service
from tests.postgresql import fresh_database, postgresql_server

IMAGES = 40  # per slot
COMPONENTS = 25  # per image
SIZES = (100_000,)  # devices; more by TINYFLEET_SBOM_DEVICES=200000, which takes minutes
ROUNDS = 3
BATCH = 5_000
BARE = """
    SELECT count(DISTINCT device_id) FROM installed_images
    WHERE sha256 IN (SELECT sha256 FROM bom_components WHERE name_key = :name)
"""
INDEX = "ix_installed_images_slot_sha256_device_id"


def digest(slot: Slot, image: int) -> str:
    """SHA-256 of an image that is only a number."""
    return hashlib.sha256(f"{slot} {image}".encode()).hexdigest()


def images() -> Iterator[dict[str, Any]]:
    """Rows of images in force."""
    for slot in HOME_BYTES:
        for number in range(IMAGES):
            guid = f"{list(Slot).index(slot):08x}-0000-4000-8000-{number:012x}"
            custom = {
                "slot_kind": slot.kind,
                "hardware_ids": [slot.core.hardware_id],
                "component_id": guid,
                "image_id": guid,
                "name": f"image@1.{number}",
                "security_counter": 1,
            }
            row = {"path": f"images/{slot}/{guid}.img", "sha256": digest(slot, number), "length": 1, "custom": custom}
            yield {**row, "image_id": guid, "since_version": 1}


def components() -> Iterator[dict[str, Any]]:
    """Rows of what is in the images."""
    for slot in HOME_BYTES:
        for number in range(IMAGES):
            names = ["common", *(f"library-{number}-{index}" for index in range(COMPONENTS - 1))]
            names += ["rare"] if (slot, number) == (Slot.A7_APPLICATION, 7) else []
            for name in names:
                purl = f"pkg:generic/{name}"
                row = {"sha256": digest(slot, number), "type": "library", "name": name, "version": "1.0"}
                yield {**row, "purl": f"{purl}@1.0", "name_key": name, "package": purl}


def devices(count: int) -> Iterator[dict[str, Any]]:
    """Rows of devices."""
    row = {"group_id": "group", "state": "active", "claimed_at": now(), "claimed_by": "bench", "identity_key": b""}
    row |= {"idevid_chain": "", "blocked_reason": "", "version": 1}
    for number in range(count):
        yield {**row, "device_id": hashlib.sha512(str(number).encode()).hexdigest()}


def installed(count: int) -> Iterator[dict[str, Any]]:
    """Rows of what they run."""
    at = now()
    for number in range(count):
        device_id = hashlib.sha512(str(number).encode()).hexdigest()
        for slot in HOME_BYTES:
            yield {"device_id": device_id, "slot": slot, "sha256": digest(slot, number % IMAGES), "reported_at": at}


async def fill(database: Database, count: int) -> None:
    """Write a fleet."""
    product = {"product_id": "product", "name": "bench", "description": "", "created_at": now(), "version": 1}
    group = {"group_id": "group", "product_id": "product", "name": "bench", "description": "", "created_at": now()}
    group |= {"os_feed": "Retail", "update_policy": "UpdateAll", "allow_crash_dumps": False, "data_boundary": "None"}
    tables: Sequence[tuple[Table, Iterator[dict[str, Any]]]] = (
        (device_tables.products, iter([product])),
        (device_tables.device_groups, iter([{**group, "version": 1}])),
        (device_tables.devices, devices(count)),
        (image_targets, images()),
        (bom_components, components()),
        (installed_images, installed(count)),
    )
    async with database.transaction(read_only=False) as connection:
        for table, rows in tables:
            while batch := list(islice(rows, BATCH)):
                await connection.execute(insert(table), batch)
        await connection.commit()
    async with database.transaction(read_only=False) as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    if not database.is_sqlite:  # as autovacuum does
        async with database.engine.connect() as connection:
            await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(text("VACUUM"))


async def answer(documents: Documents, query: ComponentQuery) -> int:
    """Answer as `sbom find` asks; returns how many devices run it in the slot where most do."""
    counts = Counter[Slot]()
    for each in await documents.components(query, after_number=0, limit=1001):
        counts.update(each.devices)
    await documents.devices(query, after=None, limit=21)
    return max(counts.values())


async def seconds(database: Database, name: str, expected: int) -> float:
    """Return the median of the answers' times."""
    documents, times = Documents(SqlUnitOfWorkFactory(database)), []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        count = await answer(documents, ComponentQuery.parse(name=name))
        times.append(time.perf_counter() - begin)
        if count != expected:
            raise RuntimeError(f"{name}: expected {expected} devices, found {count}")
    return sorted(times)[ROUNDS // 2]


async def bare_seconds(database: Database, name: str) -> float:
    """Return the median time of one join that reads the whole fleet."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        async with database.transaction(read_only=True) as connection:
            (await connection.execute(text(BARE), {"name": name})).all()
        times.append(time.perf_counter() - begin)
    return sorted(times)[ROUNDS // 2]


async def require_index(database: Database) -> None:
    """Refuse a plan that reads the whole fleet."""
    explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
    query = installed_query(ComponentQuery.parse(name="rare"))
    async with database.transaction(read_only=True) as connection:
        sql = str(query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
        plan = "\n".join(" ".join(map(str, row)) for row in await connection.execute(text(f"{explain} {sql}")))
    if plan.count(INDEX) != len(Slot) or "Seq Scan on installed_images" in plan:
        raise RuntimeError(f"plan: expected {INDEX}, found:\n{plan}")


async def rows_of(url: str, name: str, count: int) -> list[dict[str, Any]]:
    """Measure one database and one size."""
    database = Database(database_url(url))
    try:
        await migrate(database)
        await fill(database, count)
        await require_index(database)
        wanted = {"rare": count // IMAGES, "common": count}
        ours = {component: await seconds(database, component, wanted[component]) for component in wanted}
        async with database.transaction(read_only=False) as connection:
            await connection.execute(text(f"DROP INDEX {INDEX}"))
            await connection.commit()
        bare = {component: await bare_seconds(database, component) for component in wanted}
    finally:
        await database.close()
    return [
        {
            "name": f"devices that run a component, {name}, {count:,} devices",
            "ours": ours[component],
            "peer": bare[component],
            "ratio": bare[component] / ours[component],
            "unit": "s",
            "note": f"{component}: {wanted[component]:,} devices; {5 * count:,} rows; peer: one join without the index",
        }
        for component in wanted
    ]


async def postgresql_rows(count: int) -> list[dict[str, Any]]:
    """Measure PostgreSQL."""
    with postgresql_server() as server:
        async with fresh_database(server) as url:
            return await rows_of(url, "PostgreSQL", count)


def command_row(count: int) -> dict[str, Any]:
    """Measure `tinyfleet sbom find` against the running service."""
    with data_directory() as data_dir, tempfile.TemporaryDirectory() as folder:
        filled = Path(folder) / "tinyfleet.db"
        asyncio.run(_filled(f"sqlite:///{filled}", count))
        shutil.move(filled, data_dir / "service" / "tinyfleet.db")
        with service(data_dir) as running:
            login = data_dir / "operator" / "credential.json"
            login.write_text(json.dumps(json.loads(login.read_text()) | {"url": running["operator_url"]}))
            find = [str(Path(sys.executable).with_name("tinyfleet")), "sbom", "find"]
            times = {name: _command_seconds([*find, name], data_dir / "operator") for name in ("rare", "common")}
    note = f"service on SQLite; rare: {times['rare']:.2f} s; Python's start and TLS included"
    return {
        "name": f"tinyfleet sbom find, {count:,} devices",
        "ours": times["common"],
        "peer": None,
        "ratio": None,
        "unit": "s",
        "note": note,
    }


async def _filled(url: str, count: int) -> None:
    database = Database(database_url(url))
    try:
        await migrate(database)
        await fill(database, count)
        async with database.transaction(read_only=False) as connection:
            await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    finally:
        await database.close()


def _command_seconds(command: list[str], operator_dir: Path) -> float:
    environment = {**os.environ, "TINYFLEET_PASSPHRASE": PASSPHRASE, "TINYFLEET_OPERATOR_DIR": str(operator_dir)}
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        subprocess.run([*command, "--json"], check=True, env=environment, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return sorted(times)[ROUNDS // 2]


def main() -> None:
    """Print the rows."""
    rows = []
    more = os.environ.get("TINYFLEET_SBOM_DEVICES")
    for count in (*SIZES, int(more)) if more else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            rows += asyncio.run(rows_of(f"sqlite:///{folder}/control.db", "SQLite", count))
        rows += asyncio.run(postgresql_rows(count))
    rows.append(command_row(SIZES[0]))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
