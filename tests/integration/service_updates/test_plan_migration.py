"""Rollouts between versions: begun before there were plans, or places of updates under way, or left to an older one."""

from datetime import timedelta
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import service.adapters.database.migration as migration_module
from protocol.messages import ActionState
from protocol.plan import Disruption, ThresholdGates
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.rollouts import SqlRollouts
from service.domain.action import Hold
from service.domain.membership import StagePlan
from service.domain.rollout import RolloutState
from service.domain.verdict import Decision
from tests.integration.service_updates.test_passages import ahead_of_its_stage
from tests.integration.service_updates.timing_world import begun, give, part_of, plan
from tests.integration.service_updates.update_world import open_world
from tests.service_folder import make_folders

MIGRATIONS = Path(migration_module.__file__).parent / "migrations"
STAGES = (StagePlan(count=1), StagePlan(percent=100))
CONDITIONS = text(
    "UPDATE rollouts SET success_percent = 80, error_percent = 7.5, min_reports = 3, soak_seconds = 5400,"
    " action_timeout_seconds = 7200"
)
ENDED_EMPTY = text(
    "INSERT INTO rollout_verdicts (rollout_id, decided_at, decision, gate, reason, figures)"
    " SELECT rollout_id, created_at, 'ended-empty', '', '', '{}' FROM rollouts WHERE rollout_id = :rollout_id"
)


def downgrade_to(connection: Connection, revision: str) -> None:
    """Bring the tables back to an older version."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


async def test_conditions_become_a_plan(database: str, tmp_path: Path) -> None:
    """Stages, thresholds, soak and time-out say the same as before; the rollout runs on."""
    async with open_world(make_folders(tmp_path / "init"), database) as world:
        await world.add_devices(3)
        await world.release("first")
        rollout_id = (await world.roll_out("first", STAGES)).stored.rollout.rollout_id
    opened = Database(database_url(database))
    try:
        async with opened.engine.begin() as connection:
            await connection.run_sync(downgrade_to, "0006")
            await connection.execute(CONDITIONS)
        await migrate(opened)
        async with opened.engine.connect() as connection:
            stored = await SqlRollouts(connection).get(rollout_id)
    finally:
        await opened.close()
    gates = stored.plan.gates
    assert isinstance(gates, ThresholdGates)
    assert (gates.success_percent, gates.error_percent, gates.min_reports) == (80, 7.5, 3)
    assert [(stage.count, stage.percent, stage.soak) for stage in stored.plan.stages] == [
        (1, None, timedelta(minutes=90)),
        (None, 100, timedelta(minutes=90)),
    ]
    assert stored.rollout.conditions.action_timeout == timedelta(hours=2)
    assert stored.rollout.state is RolloutState.RUNNING
    assert (stored.rollout.bucket_digits, [stage.walked for stage in stored.rollout.stages]) == (0, [-1, -1])


async def test_updates_under_way_are_at_work_in_their_places(database: str, tmp_path: Path) -> None:
    """What devices had begun before places were kept with it counts for the budgets of their places."""
    async with open_world(make_folders(tmp_path / "init"), database) as world:
        busy, waiting = await world.add_devices(2)
        for device_id in (busy, waiting):
            await give(world, device_id, {"site": "harbour"})
        view = await begun(world, plan(disruption=Disruption(group_by="site")))
        await world.director.timestamp(busy)
        async with world.database.engine.begin() as connection:
            await connection.run_sync(downgrade_to, "0021")
        await migrate(world.database)
        await world.director.timestamp(waiting)
        assert (await part_of(world, view, waiting)).hold is Hold.BUDGET


async def test_older_version_finds_nothing_that_it_cannot_read(database: str, tmp_path: Path) -> None:
    """Who waits to pass through a release waits no more, and is counted so; a rollout without anybody has finished."""
    async with open_world(make_folders(tmp_path / "init"), database) as world:
        _, beyond, _, device = await ahead_of_its_stage(world)
        await world.director.timestamp(device)
        assert (await part_of(world, beyond, device)).hold is Hold.PASSAGE
        async with world.database.engine.begin() as connection:
            await connection.execute(ENDED_EMPTY, {"rollout_id": beyond.stored.rollout.rollout_id})
            await connection.run_sync(downgrade_to, "0021")
        await migrate(world.database)
        action = await part_of(world, beyond, device)
        assert (action.state, action.hold, action.not_before) == (ActionState.SCHEDULED, None, None)
        rollout = (await world.rollouts.get(beyond.stored.rollout.rollout_id)).stored.rollout
        assert (rollout.held, rollout.stages[0].counts.scheduled) == (0, 2)
        verdicts = await world.rollouts.verdicts(rollout.rollout_id, after_number=0, limit=50)
        assert verdicts[-1].verdict.decision is Decision.FINISHED
