"""Which builds of a component releases have brought: by an index, also in a database from before there was one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import service.adapters.database.migration as migration_module
from protocol.geometry import Slot
from service.adapters.database.migration import migrate
from tests.integration.service_updates.update_world import COMPONENT, UpdateWorld

MIGRATIONS = Path(migration_module.__file__).parent / "migrations"
OTHER = "22222222-2222-4222-8222-222222222222"
PLAN = (
    "EXPLAIN QUERY PLAN SELECT path FROM image_targets WHERE component_id = 'c' AND EXISTS (SELECT 1 FROM "
    "release_images WHERE release_images.sha256 = image_targets.sha256 AND release_images.target = image_targets.path "
    "AND release_images.slot = 's')"
)


async def _builds(world: UpdateWorld, slot: Slot, component: str = COMPONENT) -> list[str]:
    async with world.unit_of_work(read_only=True) as work:
        return sorted(build.name for build in await work.metadata.released_builds(slot, component))


def _downgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.downgrade(config, "0005")


async def test_builds_of_a_component_are_found_before_and_after_the_migration(world: UpdateWorld) -> None:
    """Of the slot and the component alone, each once."""
    await world.release("first", [Slot.A7_APPLICATION, Slot.M4_0_FIRMWARE])
    await world.release("second")
    for _ in range(2):
        assert await _builds(world, Slot.A7_APPLICATION) == ["a7-first@1.0.0", "a7-second@1.0.0"]
        assert await _builds(world, Slot.M4_0_FIRMWARE) == ["m4-0-first@1.0.0"]
        assert await _builds(world, Slot.A7_APPLICATION, OTHER) == []
        async with world.database.engine.begin() as connection:
            await connection.run_sync(_downgrade)
        await migrate(world.database)


async def test_builds_are_looked_up_by_indexes_alone(world: UpdateWorld) -> None:
    """No table is scanned, however many images and releases there are."""
    if not world.database.is_sqlite:
        return
    async with world.database.engine.connect() as connection:
        steps = [row.detail for row in await connection.execute(text(PLAN))]
    assert [step for step in steps if step.startswith("SCAN")] == []
    assert any("ix_image_targets_component_id" in step for step in steps)
