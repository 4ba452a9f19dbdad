"""The salted order of a rollout's devices, and a stage's walk through it on storage in memory."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from protocol.identity import DeviceId
from service.application.rollout_members import begin, walk
from service.domain.device import Device
from service.domain.membership import StagePlan
from service.domain.order import MAX_POSITION, NO_POSITION, Order, digits_for
from service.domain.rollout import Rollout
from service.domain.stage import Stage, StageState
from simulation.storage.database import MemoryDatabase
from tests.rollout_conditions import threshold_plan, thresholds

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
GROUP = "10000000-0000-4000-8000-000000000000"
DEVICES = [DeviceId(hashlib.sha512(str(number).encode()).hexdigest()) for number in range(2000)]


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_every_device_has_a_place_in_the_order_of_buckets(digits: int) -> None:
    """Walking from bucket to bucket passes each prefix once, and each device within its bucket."""
    order, found, last = Order("rollout", digits), list[str](), NO_POSITION
    while bucket := order.bucket_after(last):
        inside = [device for device in DEVICES if device.startswith(bucket.prefix)]
        assert all(last < order.position(device) <= bucket.last for device in inside)
        found, last = [*found, *inside], bucket.last
    assert last == MAX_POSITION
    assert sorted(found) == sorted(DEVICES)
    assert len({order.position(device) for device in DEVICES}) == len(DEVICES)


def test_another_rollout_has_another_canary() -> None:
    """Of devices and of buckets."""
    canaries = {min(DEVICES, key=Order(f"rollout {number}", 1).position) for number in range(8)}
    assert len(canaries) > 4
    assert len({canary[0] for canary in canaries}) > 2


def test_buckets_hold_some_hundred_devices() -> None:
    """From ten devices to ten millions."""
    assert [digits_for(count) for count in (1, 500, 501, 8000, 100_000, 1_000_000, 10_000_000)] == [0, 0, 1, 1, 2, 3, 4]
    assert digits_for(10**9) == 4


async def fleet(count: int) -> MemoryDatabase:
    database = MemoryDatabase()
    async with database() as work:
        for device_id in DEVICES[:count]:
            device = Device(device_id, GROUP, b"key", "", claimed_at=NOW, claimed_by="me")
            await work.devices.add(device)
            until = NOW + timedelta(days=1)
            certified = device.certify("01", evidence=b"", key_sha256="00", not_after=until, at=NOW)
            await work.devices.save_attested([certified])
        await work.commit()
    return database


async def test_stage_comes_to_its_devices_by_reading_a_bucket() -> None:
    """The first ten of two thousand are in one of sixteen buckets; the next step goes on behind them."""
    database = await fleet(2000)
    plan = threshold_plan([StagePlan(count=10), StagePlan(percent=100)])
    draft = Rollout("rollout", "release", GROUP, thresholds(), (Stage(0), Stage(1)))
    async with database(read_only=True) as work:
        rollout = await begin(work, draft, plan, now=NOW)
        assert rollout.bucket_digits == 1
        first = await walk(work, rollout, rollout.stages[0], limit=10, ids_to_read=1)
        expected = sorted(DEVICES, key=rollout.order.position)
        assert first.new == expected[:10]
        assert (first.position, first.is_end) == (rollout.order.position(expected[9]), False)
        stage = replace(rollout.stages[1], state=StageState.RUNNING, walked=first.position)
        found: list[str] = []
        while not (step := await walk(work, rollout, stage, limit=300, ids_to_read=500)).is_end:
            found += step.new
            stage = replace(stage, walked=step.position)
        assert [*found, *step.new] == expected[10:]
