"""What a rollout asks of the database, by its rows and statements: nothing that grows with the fleet."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, func, select

from protocol.attributes import AttributeRow
from protocol.plan import EvidenceGates, Pace, Plan
from service.adapters.database.schema import metadata
from service.application.device_attributes import DeviceAttributes
from service.application.rollouts import NewRollout, RolloutView
from tests.integration.service_updates.test_targets import say_what_runs
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

FEW, MANY = 3, 30
OF_DEVICES = ("devices", "actions", "device_attributes", "installed_images", "places_at_work")  # grow with the fleet
AT_PLACES = "SCAN actions USING INDEX ix_actions_place"  # of those alone that wait there, and to the first that does
EVERYBODY = ({"percent": 100},)
EU = {"attribute": "region", "is": "eu"}
Heard = list[tuple[str, Any]]


def plan(*stages: object, target: object = None) -> Plan:
    gates = EvidenceGates(small_stage_rule=False)
    return Plan.model_validate({"stages": stages, "target": target, "pace": Pace(concurrency=2), "gates": gates})


@contextmanager
def heard(world: UpdateWorld) -> Iterator[Heard]:
    """Listen to what the database is told, with its parameters."""
    found: Heard = []

    def hear(*said: Any) -> None:
        found.append((said[2], said[3]))

    engine = world.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", hear)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", hear)


async def rows(world: UpdateWorld) -> Mapping[str, int]:
    async with world.database.transaction(read_only=True) as connection:
        return {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in metadata.sorted_tables
        }


async def scans(world: UpdateWorld, said: Heard) -> list[str]:
    """Return where SQLite goes through a whole table that grows with the fleet."""
    found: list[str] = []
    async with world.database.engine.connect() as connection:
        for statement, parameters in said:
            if statement.split()[0] in {"BEGIN", "COMMIT", "ROLLBACK"}:
                continue
            one = parameters[0] if isinstance(parameters, list) else parameters
            steps = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", one)
            scanned = [row.detail for row in steps if row.detail.startswith("SCAN") and row.detail != AT_PLACES]
            found += [f"{step}: {statement}" for step in scanned if step.split()[1] in OF_DEVICES]
    return found


async def started(world: UpdateWorld, name: str, wanted: Plan) -> RolloutView:
    return await world.rollouts.create(RELEASER, NewRollout(name, "Production", None, wanted), start_now=True)


async def test_rollout_that_is_made_and_started_writes_no_row_for_a_device(world: UpdateWorld) -> None:
    """As many rows and statements with ten times the devices; they get theirs when the worker lets them in."""
    grown: list[Mapping[str, int]] = []
    said: list[int] = []
    for name, devices in (("few", FEW), ("many", MANY - FEW)):
        await world.add_devices(devices)
        await world.release(name)
        await world.tick()
        before = await rows(world)
        with heard(world) as statements:
            view = await started(world, name, plan(*EVERYBODY))
        after = await rows(world)
        grown.append({table: after[table] - before[table] for table in after})
        said.append(len(statements))
        assert await world.actions(view) == []
        await world.tick()
        assert len(await world.actions(view)) == 2
    assert grown[0] == grown[1]
    assert grown[0]["rollouts"] == 1
    assert said[0] == said[1]


async def test_tick_with_nothing_due_asks_the_same_of_any_fleet(world: UpdateWorld) -> None:
    """A few reads by indexes, while a rollout runs and its next devices wait for their turn."""
    said: list[list[str]] = []
    for name, devices in (("few", FEW), ("many", MANY - FEW)):
        await world.add_devices(devices)
        await world.release(name)
        await started(world, name, plan(*EVERYBODY))
        await world.tick()
        lease = await world.lease("worker")
        assert lease is not None
        with heard(world) as statements:
            assert await world.ticks.tick(lease) is None
        said.append([statement for statement, _ in statements])
        if world.database.is_sqlite:
            assert await scans(world, statements) == []
    assert said[0] == said[1]
    assert all(statement.startswith(("BEGIN", "SELECT")) for statement in said[0])


@pytest.mark.parametrize("target", [None, EU, {"installed": "a7/application", "name": "a7-first", "at_least": "1"}])
async def test_nothing_that_happens_scans_the_fleet(world: UpdateWorld, target: object) -> None:
    """A stage that opens, a device that joins, one whose attribute changes, each with filters: all by indexes."""
    if not world.database.is_sqlite:
        return
    device_ids = await world.add_devices(FEW)
    first = await world.release("first")
    await world.release("second")
    attributes = DeviceAttributes(world.unit_of_work, clock=world.clock)
    await attributes.take(RELEASER, [AttributeRow(device=each, attributes={"region": "eu"}) for each in device_ids])
    for device_id in device_ids:
        await say_what_runs(world, device_id, first.digests)
    await world.tick()
    wanted = plan({"percent": 100, "where": {"attribute": "ring", "is": "lab"}}, *EVERYBODY, target=target)
    with heard(world) as said:
        view = await started(world, "second", wanted)
        await world.tick()
        await world.add_device()
        await attributes.take(RELEASER, [AttributeRow(device=device_ids[0], attributes={"ring": "lab"})])
        await world.tick()
    assert len(await world.actions(view)) > 0
    assert await scans(world, said) == []
