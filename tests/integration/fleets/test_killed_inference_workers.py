"""`device-sim run` whose inference workers are killed: each kill costs the inference under way, and nothing else."""

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from tests.integration.fleets.fleet_run import Run, claimed
from tests.integration.fleets.gate_model import inferences, roll_out_gate_model

pytestmark = pytest.mark.timeout(900)

DEVICES, KILLS = 4, 4
SCENARIO = {
    "description": "devices that share the inference workers of their host",
    "seed": 9,
    "fleets": [{"name": "gates", "devices": DEVICES, "inference_period": "500ms"}],
}


def test_killed_worker_costs_the_inference_under_way_alone(tmp_path: Path) -> None:
    """Every device goes on after every kill; at most one record of each kill is a failure, and none is missing."""
    with claimed(tmp_path, SCENARIO) as run:
        run.start()
        run.wait_for(lambda: len(run.who(event="connected")) == DEVICES, "every device connected")
        roll_out_gate_model(run, tmp_path)
        run.wait_for(lambda: len(run.who(event="update", state="confirmed")) == DEVICES, "every confirmation")
        connections = len([event for event in run.events if event["event"] == "connected"])
        for _ in range(KILLS):
            kill_one_and_go_on(run)
        told = [event["event"] for event in run.events]
        assert not {"crashed", "disconnected", "reverted", "refused", "power"} & set(told)
        assert told.count("connected") == connections
        assert run.end(signal.SIGTERM) == 0
        failed = [record["error"] for record in inferences(run) if record["error"]]
        assert 0 < len(failed) <= KILLS
        assert all("SIGKILL" in error for error in failed)
        for numbers in sequences(run).values():
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def kill_one_and_go_on(run: Run) -> None:
    before = answered(run)
    run.wait_for(lambda: kill_one_at_work(run), "a worker at work")
    run.wait_for(lambda: goes_on(before, answered(run)), "an answer of every device")


def kill_one_at_work(run: Run) -> bool:
    """Kill a worker process that runs at this moment; False if none does."""
    assert run.process is not None
    for pid in workers(run.process.pid):
        if state(pid) == "R":
            os.kill(pid, signal.SIGKILL)
            return True
    return False


def workers(pid: int) -> list[int]:
    """The inference workers: children of the fork server, which is a child of the simulator."""
    return [worker for child in children(pid) for worker in children(child)]


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def state(pid: int) -> str:
    path = Path(f"/proc/{pid}/stat")
    return path.read_text().rpartition(")")[2].split()[0] if path.exists() else ""


def answered(run: Run) -> dict[str, int]:
    """How many inferences of each device have answered."""
    found: dict[str, int] = defaultdict(int)
    for record in inferences(run):
        found[record["device_id"]] += not record["error"]
    return found


def goes_on(before: dict[str, int], now: dict[str, int]) -> bool:
    return len(now) == DEVICES and all(count > before.get(device, 0) for device, count in now.items())


def sequences(run: Run) -> dict[tuple[str, str], list[int]]:
    """The numbers that the records of each core carry."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in inferences(run):
        found[record["device_id"], record["core"]].append(record["sequence"])
    return {core: sorted(numbers) for core, numbers in found.items()}
