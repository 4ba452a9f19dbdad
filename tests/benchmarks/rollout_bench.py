"""What a rollout costs the service, at 1,000 and 100,000 devices: an idle tick, a report, opening stages.

The update half in this process on SQLite, with synchronous=FULL as in production. A tick with nothing due and a report
must not depend on the number of devices; opening a stage reads the group's ids once. No peer: hawkBit, Mender and the
others are no Python packages, and gooseBit has no staged rollouts.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tests' builder

from protocol.messages import ActionState  # noqa: E402
from service.adapters.database import device_tables as tables  # noqa: E402
from service.application.rollouts import RolloutView  # noqa: E402
from service.domain.membership import StagePlan  # noqa: E402
from tests.integration.service_updates.update_world import UpdateWorld, open_world  # noqa: E402
from tests.service_folder import make_folders  # noqa: E402

FLEETS = (1_000, 100_000)
TICKS = 200
REPORTS = 200
STAGES = (StagePlan(count=1), StagePlan(count=1_000), StagePlan(percent=100))
Rows = list[dict[str, Any]]


def row(name: str, value: float, unit: str, note: str) -> dict[str, Any]:
    """Return one row of the table."""
    return {"name": f"rollout: {name}", "ours": value, "peer": None, "ratio": None, "unit": unit, "note": note}


async def seconds_of(step: Callable[[], Awaitable[object]]) -> float:
    """Return how long a step takes."""
    begun = time.perf_counter()
    await step()
    return time.perf_counter() - begun


async def add_fleet(world: UpdateWorld, count: int) -> None:
    """Write active devices into the group, without their events."""
    async with world.unit_of_work(read_only=True) as work:
        group = await work.products.get_group("Production")
    shared = {"group_id": group.group_id, "state": "active", "claimed_at": world.clock.now(), "claimed_by": "bench"}
    shared |= {"identity_key": b"", "idevid_chain": "", "blocked_reason": "", "version": 1}
    rows = [{**shared, "device_id": os.urandom(64).hex()} for _ in range(count)]
    async with world.database.transaction(read_only=False) as connection:
        await connection.execute(tables.devices.insert(), rows)
        await connection.commit()


async def idle_tick(world: UpdateWorld) -> float:
    """Return the seconds of a tick that finds nothing due."""
    lease = await world.lease("worker")
    if lease is None or await world.ticks.tick(lease) is not None:
        raise RuntimeError("tick: expected nothing due")

    async def ticks() -> None:
        for _ in range(TICKS):
            await world.ticks.tick(lease)

    return await seconds_of(ticks) / TICKS


async def confirm(world: UpdateWorld, rollout: RolloutView, limit: int) -> tuple[float, int]:
    """Let devices confirm, one after the other; return seconds per report and their number."""
    page = await world.rollouts.actions(rollout.stored.rollout.rollout_id, after_number=0, limit=limit + 1)
    waiting = [numbered.action for numbered in page if not numbered.action.state.is_final][:limit]

    async def reports() -> None:
        for action in waiting:
            digests = rollout.release.digests
            await world.report(action.device_id, action.action_id, ActionState.CONFIRMED, digests=digests)

    return await seconds_of(reports) / len(waiting), len(waiting)


async def measure(folder: Path, devices: int) -> Rows:
    """Run one rollout far enough to see what each step costs."""
    async with open_world(make_folders(folder / "init"), f"sqlite:///{folder / 'control.db'}") as world:
        await add_fleet(world, devices)
        await world.release("bench")
        size = f"{devices:,} devices"
        started: list[RolloutView] = []

        async def start() -> None:
            started.append(await world.roll_out("bench", STAGES, action_timeout=timedelta(days=30)))

        rows = [row(f"start, {size}", 1e3 * await seconds_of(start), "ms", "reads the group's ids once")]
        rows.append(row(f"open a canary of one, {size}", 1e3 * await seconds_of(world.tick), "ms", "worker"))
        await confirm(world, started[0], 1)
        opening = await seconds_of(world.tick)
        rows.append(row(f"open a stage of {min(1_000, devices) - 1}, {size}", 1e3 * opening, "ms", "worker"))
        rows.append(row(f"tick with nothing due, {size}", 1e3 * await idle_tick(world), "ms", "mean of 200"))
        per_report, count = await confirm(world, started[0], REPORTS)
        rows.append(row(f"report, {size}", 1 / per_report, "1/s", f"{count} reports, one commit each"))
        return rows


async def main() -> None:
    """Measure every fleet and print the rows."""
    rows: Rows = []
    for devices in FLEETS:
        with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder:
            rows += await measure(Path(folder), devices)
    print(json.dumps(rows))


if __name__ == "__main__":
    asyncio.run(main())
