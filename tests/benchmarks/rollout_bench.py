"""What a rollout costs the service at 10,000 and 100,000 devices, on SQLite and on PostgreSQL.

The update half in this process; SQLite with synchronous=FULL as in production, PostgreSQL as the tests start it. Every
device of the group has an action of an older rollout. Flat is to be: creating a rollout, a tick with nothing due, a
report, a device that joins, opening a stage of ten. Starting a rollout counts the group by an index. No peer: hawkBit,
Mender and the others are no Python packages, and gooseBit has no staged rollouts.

`python -m tests.benchmarks.rollout_bench 10000 1000000` measures these sizes; a million takes longer than `make bench`
gives a script.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tests' builder

from protocol.messages import ActionState  # noqa: E402
from protocol.plan import EvidenceGates, Pace, Plan, PlanStage  # noqa: E402
from service.application.rollouts import NewRollout, RolloutView  # noqa: E402
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld, open_world  # noqa: E402
from tests.postgresql import fresh_database, postgresql_server  # noqa: E402
from tests.service_folder import make_folders  # noqa: E402

FLEETS = (10_000, 100_000)
TIMES = 100  # of each step that is to be flat
FLAT = 2.0  # the largest fleet costs at most so many times what the smallest does
FIRST = 10
PLAN = Plan(
    stages=(PlanStage(count=FIRST), PlanStage(count=1000), PlanStage(percent=100)),
    pace=Pace(concurrency=400),
    gates=EvidenceGates(),
)
_SERIES = {
    True: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) {insert} FROM n",
    False: "{insert} FROM generate_series(1, :count) AS n(i)",
}
_ID = {
    True: "lower(hex(randomblob(64)))",
    False: "md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text)",
}
_DEVICES = """INSERT INTO devices (device_id, group_id, state, claimed_at, claimed_by, identity_key, idevid_chain,
 blocked_reason, version) SELECT {id}, :group, 'active', {now}, 'bench', {empty}, '', '', 1"""
_ACTIONS = """INSERT INTO actions (action_id, rollout_id, device_id, stage_index, state, sequence, detail, offered,
 heals, created_at, progressed_at) SELECT substr(device_id, 1, 36), :rollout, device_id, 0, 'confirmed', 9, '', {true},
 {false}, claimed_at, claimed_at FROM devices"""
Seconds = dict[str, float]


async def seconds_of(step: Callable[[], Awaitable[object]], times: int = 1) -> float:
    """Return how long a step takes, on average."""
    begun = time.perf_counter()
    for _ in range(times):
        await step()
    return (time.perf_counter() - begun) / times


async def add_fleet(world: UpdateWorld, count: int) -> None:
    """Write active devices into the group and their part in an older rollout, by the database itself."""
    async with world.unit_of_work(read_only=True) as work:
        group = await work.products.get_group("Production")
    await world.release("old")
    old = await world.rollouts.create(RELEASER, NewRollout("old", "Production", None, PLAN), start_now=False)
    is_sqlite = world.database.is_sqlite
    words = {"empty": "x''", "true": "1", "false": "0"}
    words = words if is_sqlite else {"empty": "''::bytea", "true": "true", "false": "false"}
    words |= {"id": _ID[is_sqlite], "now": ":now"}
    insert = _SERIES[is_sqlite].format(insert=_DEVICES.format(**words))
    now: Any = world.clock.now()
    values = {"count": count, "group": group.group_id, "now": str(now.replace(tzinfo=None)) if is_sqlite else now}
    async with world.database.transaction(read_only=False) as connection:
        await connection.execute(text(insert), values)
        rollout = {"rollout": old.stored.rollout.rollout_id}
        await connection.execute(text(_ACTIONS.format(**words)), rollout)
        await connection.commit()
    async with world.database.transaction(read_only=False) as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    await world.tick()


async def confirm(world: UpdateWorld, rollout: RolloutView, limit: int) -> float:
    """Let devices confirm, one after the other; return seconds per report."""
    page = await world.rollouts.actions(rollout.stored.rollout.rollout_id, after_number=0, limit=1000)
    waiting = [numbered.action for numbered in page if not numbered.action.state.is_final][:limit]
    begun = time.perf_counter()
    for action in waiting:
        digests = rollout.release.digests
        await world.report(action.device_id, action.action_id, ActionState.CONFIRMED, digests=digests)
    return (time.perf_counter() - begun) / len(waiting)


async def measure(world: UpdateWorld, devices: int) -> Seconds:
    """Run one rollout far enough to see what each step costs, in seconds."""
    await add_fleet(world, devices)
    await world.release("bench")
    new = NewRollout("bench", "Production", None, PLAN)
    found: Seconds = {"create": await seconds_of(lambda: world.rollouts.create(RELEASER, new, start_now=False), 5)}
    (view, *_) = await world.rollouts.page(before_number=None, limit=1)
    rollout_id = view.stored.rollout.rollout_id
    found["start (counts the group)"] = await seconds_of(lambda: world.rollouts.start(RELEASER, rollout_id))
    found["open a stage of 10"] = await seconds_of(world.tick)
    await confirm(world, view, FIRST)
    found["open the next, 400 of 1,000"] = await seconds_of(world.tick)
    lease = await world.lease("worker")
    if lease is None or await world.ticks.tick(lease) is not None:
        raise RuntimeError("tick: expected nothing due")
    found["tick, nothing due"] = await seconds_of(lambda: world.ticks.tick(lease), TIMES)
    found["report"] = await confirm(world, view, TIMES)
    found["let 100 more in"] = await seconds_of(world.tick)
    joined = [await world.add_device() for _ in range(10)]
    found["join"] = await seconds_of(world.tick) / len(joined)
    return found


@asynccontextmanager
async def worlds(folder: Path, server: str, kind: str) -> AsyncIterator[UpdateWorld]:
    """Open the update half on an empty database."""
    folders = make_folders(folder / "init")
    if kind == "SQLite":
        async with open_world(folders, f"sqlite:///{folder / 'control.db'}") as world:
            yield world
        return
    async with fresh_database(server) as url, open_world(folders, url) as world:
        yield world


def rows(kind: str, found: dict[int, Seconds]) -> list[dict[str, Any]]:
    """Return a row for each step and fleet, and what the largest fleet costs beside the smallest."""
    smallest, largest = min(found), max(found)
    written = []
    for step in found[smallest]:
        growth = found[largest][step] / found[smallest][step]
        flat = "flat" if growth <= FLAT else "not flat"
        verdict = f"{largest:,} devices cost {growth:.1f} times {smallest:,}: {flat}"
        for devices, seconds in found.items():
            name = f"rollout: {step}, {devices:,} devices, {kind}"
            note = verdict if devices == largest else ""
            written.append(
                {"name": name, "ours": 1e3 * seconds[step], "peer": None, "ratio": None, "unit": "ms", "note": note}
            )
            print(f"{name}: {1e3 * seconds[step]:.2f} ms {note}", file=sys.stderr, flush=True)
    return written


async def main(fleets: list[int]) -> None:
    """Measure every fleet on both databases and print the rows."""
    written: list[dict[str, Any]] = []
    with postgresql_server() as server:
        for kind in ("SQLite", "PostgreSQL"):
            found: dict[int, Seconds] = {}
            for devices in fleets:
                with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder:
                    async with worlds(Path(folder), server, kind) as world:
                        found[devices] = await measure(world, devices)
            written += rows(kind, found)
    print(json.dumps(written))


if __name__ == "__main__":
    asyncio.run(main([int(size) for size in sys.argv[1:]] or list(FLEETS)))
