"""What a rollout costs the service at 10,000 and 100,000 devices, on SQLite and on PostgreSQL.

The update half in this process; SQLite with synchronous=FULL as in production, PostgreSQL as the tests start it. Every
device of the group has an action of an older rollout. Flat is to be every step: creating and starting a rollout,
opening a stage of ten, a tick with nothing due, a report, a device that joins. No peer: hawkBit, Mender and the others
are no Python packages, and gooseBit has no staged rollouts.

Each figure is a median over several rollouts, by the clock; beside it stands the CPU time, of this process and of the
database server's, by which the verdict goes: other work on the machine moves it little. Device ids are even over their
range but written in their order, which a million of them need to be there in minutes.

`python -m tests.benchmarks.rollout_bench 10000 100000 1000000` measures these sizes.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
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
ROLLOUTS = 5  # one after the other
TICKS = 20  # with nothing due, of each
REPORTS = 50  # of each, after those of its first stage
FLAT = 2.0  # the largest fleet costs at most so many times what the smallest does
FIRST = 10
JOINING = 5
BATCH = 50_000  # devices of one transaction
IDS = 1 << 32  # beginnings of device ids
PLAN = Plan(
    stages=(PlanStage(count=FIRST), PlanStage(count=1000), PlanStage(percent=100)),
    pace=Pace(concurrency=400),
    gates=EvidenceGates(),
)
_SERIES = {
    True: "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :end) {insert} FROM n",
    False: "{insert} FROM generate_series(CAST(:first AS bigint), :end - 1) AS n(i)",
}
_ID = {
    True: "printf('%08x', i * :step) || lower(hex(randomblob(60)))",
    False: "lpad(to_hex(i * :step), 8, '0') || substr(" + " || ".join(["md5(random()::text)"] * 4) + ", 1, 120)",
}
_DEVICES = """INSERT INTO devices (device_id, group_id, state, claimed_at, claimed_by, identity_key, idevid_chain,
 blocked_reason, version) SELECT {id}, :group, 'active', {now}, 'bench', {empty}, '', '', 1"""
_ACTIONS = """INSERT INTO actions (action_id, rollout_id, device_id, stage_index, state, sequence, detail, offered,
 heals, created_at, progressed_at) SELECT substr(device_id, 1, 36), :rollout, device_id, 0, 'confirmed', 9, '', {true},
 {false}, claimed_at, claimed_at FROM devices WHERE device_id >= :low AND device_id < :high ORDER BY device_id"""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step, in seconds: by the clock, and of CPU time."""

    wall: float
    cpu: float


Costs = Mapping[str, Sequence[Cost]]


class Meter:
    """Keeps what steps cost, by name.

    Args:
        server: process id of the database server, whose children work for this process alone; None without one.
    """

    def __init__(self, server: int | None) -> None:
        self.costs: defaultdict[str, list[Cost]] = defaultdict(list)
        self._server = server

    async def measure(self, name: str, step: Callable[[], Awaitable[object]], *, parts: int = 1) -> None:
        """Do a step and keep what each of its parts has cost on average."""
        before = self._server_seconds()
        begun, used = time.perf_counter(), time.process_time()
        await step()
        wall, cpu = time.perf_counter() - begun, time.process_time() - used
        served = {pid: seconds - before.get(pid, 0.0) for pid, seconds in self._server_seconds().items()}
        self.costs[name].append(Cost(wall / parts, (cpu + sum(served.values())) / parts))

    def _server_seconds(self) -> dict[str, float]:
        """Return the CPU seconds of each process of the server."""
        if self._server is None:
            return {}
        found: dict[str, float] = {}
        for pid in Path(f"/proc/{self._server}/task/{self._server}/children").read_text().split():
            with suppress(OSError):  # it has ended since
                found[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
        return found


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
    step = IDS // count
    values = {"group": group.group_id, "now": str(now.replace(tzinfo=None)) if is_sqlite else now, "step": step}
    for first in range(0, count, BATCH):
        end = min(first + BATCH, count)
        bounds = {"low": f"{first * step:08x}", "high": f"{end * step:08x}" if end < count else "g"}
        async with world.database.transaction(read_only=False) as connection:
            await connection.execute(text(insert), values | {"first": first, "end": end})
            rollout = {"rollout": old.stored.rollout.rollout_id}
            await connection.execute(text(_ACTIONS.format(**words)), rollout | bounds)
            await connection.commit()
        async with world.unit_of_work() as work:
            await work.devices.sum_up_counts(limit=BATCH)
            await work.commit()
    async with world.database.transaction(read_only=False) as connection:
        await connection.execute(text("ANALYZE"))
        await connection.commit()
    await world.tick()


async def confirm(world: UpdateWorld, meter: Meter, rollout: RolloutView, limit: int) -> None:
    """Let devices confirm, one after the other."""
    page = await world.rollouts.actions(rollout.stored.rollout.rollout_id, after_number=0, limit=1000)
    waiting = [numbered.action for numbered in page if not numbered.action.state.is_final][:limit]
    digests = rollout.release.digests
    for action in waiting:
        report = partial(world.report, action.device_id, action.action_id, ActionState.CONFIRMED, digests=digests)
        await meter.measure("report", report)


async def roll_out(world: UpdateWorld, meter: Meter, name: str) -> None:
    """Run one rollout far enough to see what each step costs, and end it."""
    await world.release(name)
    new = NewRollout(name, "Production", None, PLAN)
    await meter.measure("create", lambda: world.rollouts.create(RELEASER, new, start_now=False))
    (view, *_) = await world.rollouts.page(before_number=None, limit=1)
    rollout_id = view.stored.rollout.rollout_id
    await meter.measure("start", lambda: world.rollouts.start(RELEASER, rollout_id))
    await meter.measure("open a stage of 10", world.tick)
    await confirm(world, meter, view, FIRST)
    await meter.measure("open the next, 400 of 1,000", world.tick)
    lease = await world.lease("worker")
    if lease is None or await world.ticks.tick(lease) is not None:
        raise RuntimeError("tick: expected nothing due")
    for _ in range(TICKS):
        await meter.measure("tick, nothing due", lambda: world.ticks.tick(lease))
    await confirm(world, meter, view, REPORTS)
    await meter.measure(f"let {REPORTS} more in", world.tick)
    await world.add_devices(JOINING)
    await meter.measure("join", world.tick, parts=JOINING)
    await world.rollouts.abort(RELEASER, rollout_id)
    await world.tick()


async def measure(world: UpdateWorld, devices: int) -> Costs:
    """Run rollouts in a fleet, one after the other, and return what each step cost."""
    begun = time.perf_counter()
    await add_fleet(world, devices)
    print(f"{devices:,} devices written in {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    meter = Meter(await server_of(world))
    for number in range(ROLLOUTS):
        await roll_out(world, meter, f"bench-{number}")
    return meter.costs


async def server_of(world: UpdateWorld) -> int | None:
    """Return the process id of the database server; None for SQLite."""
    if world.database.is_sqlite:
        return None
    async with world.database.transaction(read_only=True) as connection:
        backend = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    return parent_of(backend)


def parent_of(pid: int) -> int:
    """Return the process that started another one; see proc(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


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


def rows(kind: str, found: dict[int, Costs]) -> list[dict[str, Any]]:
    """Return a row for each step and fleet, and what the largest fleet costs beside the smallest."""
    smallest, largest = min(found), max(found)
    written = []
    for step in found[smallest]:
        cpu = {devices: median(cost.cpu for cost in costs[step]) for devices, costs in found.items()}
        growth = cpu[largest] / cpu[smallest]
        flat = "flat" if growth <= FLAT else "not flat"
        verdict = f"; {largest:,} devices cost {growth:.1f} times {smallest:,}: {flat}"
        for devices, costs in found.items():
            wall = median(cost.wall for cost in costs[step])
            name = f"rollout: {step}, {devices:,} devices, {kind}"
            note = f"{1e3 * cpu[devices]:.2f} ms of CPU{verdict if devices == largest else ''}"
            written.append({"name": name, "ours": 1e3 * wall, "peer": None, "ratio": None, "unit": "ms", "note": note})
            print(f"{name}: {1e3 * wall:.2f} ms, {note}", file=sys.stderr, flush=True)
    return written


async def main(fleets: list[int]) -> None:
    """Measure every fleet on both databases and print the rows."""
    written: list[dict[str, Any]] = []
    with postgresql_server() as server:
        for kind in ("SQLite", "PostgreSQL"):
            found: dict[int, Costs] = {}
            for devices in fleets:
                with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder:
                    async with worlds(Path(folder), server, kind) as world:
                        found[devices] = await measure(world, devices)
            written += rows(kind, found)
    print(json.dumps(written))


if __name__ == "__main__":
    asyncio.run(main([int(size) for size in sys.argv[1:]] or list(FLEETS)))
