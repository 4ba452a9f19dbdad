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
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Integer, Label, MetaData, String, Table, insert, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

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
COUNTED = "ix_installed_images_slot_sha256"
LISTED = f"{COUNTED}_device_id"


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
    """Rows of what tells devices apart: an id as a device has it, and which image it runs in each slot."""
    for number in range(count):
        yield {"device_id": hashlib.sha512(str(number).encode()).hexdigest(), "image": number % IMAGES}


def layout() -> Iterator[dict[str, Any]]:
    """Rows of the images by slot and number."""
    for slot in HOME_BYTES:
        for number in range(IMAGES):
            yield {"slot": slot, "image": number, "sha256": digest(slot, number)}


def same(table: Table, **values: object) -> dict[str, Label[Any]]:
    """Return values that every row of a table has, as expressions of its columns' types."""
    return {name: literal(value, table.c[name].type).label(name) for name, value in values.items()}


async def add_fleet(connection: AsyncConnection, count: int) -> None:
    """Write devices and what they run; the database makes the rows from what differs."""
    work = MetaData()
    fleet = Table("bench_fleet", work, Column("device_id", String), Column("image", Integer))
    place = Table("bench_layout", work, Column("slot", String), Column("image", Integer), Column("sha256", String))
    await connection.run_sync(work.create_all)
    await add(connection, fleet, devices(count))
    await add(connection, place, layout())
    constant = {"group_id": "group", "state": "active", "claimed_at": now(), "claimed_by": "bench", "identity_key": b""}
    constant |= {"idevid_chain": "", "blocked_reason": "", "version": 1}
    shared = same(device_tables.devices, **constant)
    chosen = select(fleet.c.device_id, *shared.values()).order_by(fleet.c.device_id)
    await connection.execute(insert(device_tables.devices).from_select(["device_id", *shared], chosen))
    at = same(installed_images, reported_at=now())
    runs = select(fleet.c.device_id, place.c.slot, place.c.sha256, *at.values()).join_from(
        fleet, place, fleet.c.image == place.c.image
    )
    # In the order of the table's key, so that its pages are written once each.
    runs = runs.order_by(fleet.c.device_id, place.c.slot)
    names = ["device_id", "slot", "sha256", *at]
    await connection.execute(insert(installed_images).from_select(names, runs))
    await connection.run_sync(work.drop_all)


async def add(connection: AsyncConnection, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows in batches."""
    while batch := list(islice(rows, BATCH)):
        await connection.execute(insert(table), batch)


async def fill(database: Database, count: int) -> None:
    """Write a fleet."""
    product = {"product_id": "product", "name": "bench", "description": "", "created_at": now(), "version": 1}
    group = {"group_id": "group", "product_id": "product", "name": "bench", "description": "", "created_at": now()}
    group |= {"os_feed": "Retail", "update_policy": "UpdateAll", "allow_crash_dumps": False, "data_boundary": "None"}
    async with database.transaction(read_only=False) as connection:
        await add(connection, device_tables.products, iter([product]))
        await add(connection, device_tables.device_groups, iter([{**group, "version": 1}]))
        await add(connection, image_targets, images())
        await add(connection, bom_components, components())
        await add_fleet(connection, count)
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
    if plan.count(COUNTED) != len(Slot) or "Seq Scan on installed_images" in plan:
        raise RuntimeError(f"plan: expected {COUNTED} or {LISTED}, found:\n{plan}")


async def fill_new(url: str, count: int) -> None:
    """Make a database with a fleet in it."""
    database = Database(database_url(url))
    try:
        await migrate(database)
        await fill(database, count)
    finally:
        await database.close()


async def rows_of(url: str, name: str, count: int) -> list[dict[str, Any]]:
    """Measure one filled database, which loses its indexes."""
    database = Database(database_url(url))
    try:
        await require_index(database)
        wanted = {"rare": count // IMAGES, "common": count}
        ours = {component: await seconds(database, component, wanted[component]) for component in wanted}
        async with database.transaction(read_only=False) as connection:
            for index in (COUNTED, LISTED):
                await connection.execute(text(f"DROP INDEX {index}"))
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
            "note": f"{component}: {wanted[component]:,} devices; {5 * count:,} rows; peer: one join without indexes",
        }
        for component in wanted
    ]


async def postgresql_rows(count: int) -> list[dict[str, Any]]:
    """Measure PostgreSQL."""
    with postgresql_server() as server:
        async with fresh_database(server) as url:
            await fill_new(url, count)
            return await rows_of(url, "PostgreSQL", count)


def sqlite_rows(count: int, *, with_command: bool) -> list[dict[str, Any]]:
    """Measure SQLite, and the command where asked for, which needs the indexes that the other rows drop."""
    with tempfile.TemporaryDirectory() as folder:
        filled, copied = Path(folder) / "filled.db", Path(folder) / "copied.db"
        asyncio.run(fill_new(f"sqlite:///{filled}", count))  # closed, so that all of it is in one file
        shutil.copy(filled, copied)
        rows = asyncio.run(rows_of(f"sqlite:///{filled}", "SQLite", count))
        return [*rows, command_row(copied, count)] if with_command else rows


def command_row(filled: Path, count: int) -> dict[str, Any]:
    """Measure `tinyfleet sbom find` against the running service, which takes the database over."""
    with data_directory() as data_dir:
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
        rows += sqlite_rows(count, with_command=count == SIZES[0])
        rows += asyncio.run(postgresql_rows(count))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
