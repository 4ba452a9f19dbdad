"""Storage that keeps the promises of a unit of work: SQLite, PostgreSQL, and the simulation's in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from protocol.geometry import Slot
from protocol.identity import DeviceId
from protocol.messages import ActionState
from protocol.updates import ReleaseImage
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.device import Device
from service.domain.membership import StagePlan
from service.domain.product import DeviceGroup, GroupPolicy, Product
from service.domain.release import Release
from service.domain.rollout import Rollout
from service.domain.stage import Stage
from simulation.images import VirtualImage
from simulation.storage.database import MemoryDatabase
from tests.databases import postgresql
from tests.postgresql import fresh_database
from tests.rollout_conditions import threshold_plan, thresholds

__all__ = ["postgresql", "storage"]

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
PRODUCT, GROUP, OTHER_GROUP = (f"{n}0000000-0000-4000-8000-000000000000" for n in "123")
ROLLOUT, RELEASE = (f"{n}0000000-0000-4000-8000-000000000000" for n in "45")
IMAGE = VirtualImage(Slot.OS, "os@2.0", 10, NOW)


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UnitOfWorkFactory]:
    """Storage with a product, two groups, a release and a rollout."""
    if request.param == "memory":
        factory: UnitOfWorkFactory = MemoryDatabase()
        await fill(factory)
        yield factory
        return
    if request.param == "sqlite":
        async with _opened(f"sqlite:///{tmp_path / 'control.db'}") as opened:
            yield opened
        return
    async with fresh_database(request.getfixturevalue("postgresql")) as url, _opened(url) as opened:
        yield opened


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[UnitOfWorkFactory]:
    database = Database(database_url(url))
    try:
        await migrate(database)
        factory = SqlUnitOfWorkFactory(database)
        await fill(factory)
        yield factory
    finally:
        await database.close()


async def fill(factory: UnitOfWorkFactory) -> None:
    product = Product(PRODUCT, "Camera", "", created_at=NOW)
    groups = [
        DeviceGroup(group_id, PRODUCT, "Camera", name, "", GroupPolicy(), NOW)
        for group_id, name in ((GROUP, "Production"), (OTHER_GROUP, "Field Test"))
    ]
    image = ReleaseImage(target=IMAGE.path, sha256=IMAGE.sha256, length=IMAGE.length)
    release = Release(RELEASE, "r1", 2, "releases/2-r1.json", False, {Slot.OS: image}, NOW, "me")  # noqa: FBT003
    plan = threshold_plan([StagePlan(percent=10), StagePlan(percent=100)])
    rollout = Rollout(ROLLOUT, RELEASE, GROUP, thresholds(), (Stage(0), Stage(1)))
    async with factory() as work:
        await work.products.add(product, groups)
        await work.metadata.add_images([IMAGE.listed])
        await work.releases.add(release)
        await work.rollouts.add(StoredRollout(rollout, plan, created_at=NOW, created_by="me"))
        await work.commit()


def device(number: int, *, group: str = GROUP) -> Device:
    return Device(device_id_of(number), group, b"key", "", claimed_at=NOW, claimed_by="me")


def device_id_of(number: int) -> DeviceId:
    return DeviceId(f"{number:0128x}")


def attested(claimed: Device) -> Device:
    return claimed.certify("01", evidence=b"", key_sha256="00", not_after=NOW + timedelta(days=1), at=NOW)


def action(number: int, *, due: int = 60, state: ActionState = ActionState.SCHEDULED) -> Action:
    due_at = None if state.is_final else NOW + timedelta(seconds=due)
    return Action(f"{number:08}-0000-4000-8000-000000000000", ROLLOUT, device_id_of(number), 0, state, NOW, due_at)


async def add_devices(work: UnitOfWork, *devices: Device) -> None:
    for each in devices:
        await work.devices.add(each)
