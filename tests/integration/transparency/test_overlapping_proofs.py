"""Proofs that are made while the log goes on."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from protocol.geometry import Slot
from protocol.notes import parse_note
from protocol.tlog import parse_checkpoint, parse_proof
from protocol.transparency import ImageEntry, entry_hash, parse_entry
from service.adapters.database.transparency import SqlLog
from tests.integration.service_updates.update_world import UpdateWorld, open_world
from tests.log_witnesses import Witnesses, cosigner, require_witnesses
from tests.service_folder import make_folders

SLOT = Slot.M4_0_FIRMWARE


async def release(world: UpdateWorld, version: str) -> bytes:
    """Release an image, have its checkpoint cosigned, and return the leaf hash of its entry."""
    package = world.package(f"firmware@{version}", SLOT.kind)
    await world.hand_over(await world.prepare(f"r{version}", {SLOT: package}))
    assert await world.checkpoints.work()
    async with world.unit_of_work(read_only=True) as work:
        entries = [parse_entry(entry) for entry in await work.log.entries(0, 1000)]
    return entry_hash([entry for entry in entries if isinstance(entry, ImageEntry)][-1])


async def size_of_proof(world: UpdateWorld, leaf: bytes) -> int:
    proof = parse_proof(await world.transparency.proof(leaf))
    return parse_checkpoint(parse_note(proof.checkpoint).text).size


async def test_slow_request_brings_no_older_proof_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that began before a checkpoint does not leave its proof among those of the next one."""
    folders = make_folders(tmp_path / "init")
    require_witnesses(folders, (str(cosigner(1).key),), quorum=1)
    async with open_world(folders, f"sqlite:///{tmp_path / 'control.db'}") as world:
        world.checkpoints = Witnesses(world, tmp_path / "witnesses").checkpoints()
        first = await release(world, "1.0.0")
        asked, go_on = asyncio.Event(), asyncio.Event()
        numbers = SqlLog.numbers

        async def wait_once(log: SqlLog, leaves: Sequence[bytes]) -> Mapping[bytes, int]:
            found = await numbers(log, leaves)
            monkeypatch.setattr(SqlLog, "numbers", numbers)
            asked.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(SqlLog, "numbers", wait_once)
        async with asyncio.TaskGroup() as tasks:
            slow = tasks.create_task(size_of_proof(world, first))
            await asked.wait()
            second = await release(world, "2.0.0")
            newest = await size_of_proof(world, second)
            go_on.set()
        assert slow.result() < newest
        assert await size_of_proof(world, first) == newest
