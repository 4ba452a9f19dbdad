"""kill -9 of the service in the middle of the demo's rollout: it restarts, and the rollout finishes."""

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli import demo_releases, demo_steps
from service.cli.demo import environment_of
from service.cli.demo_events import link_counts
from service.cli.demo_folder import open_folder
from service.cli.demo_processes import Processes, StopRequest
from service.cli.demo_run import DemoRun
from service.cli.live import DemoView, SilentScreen
from tests.e2e.demo_process import DEVICES, Interrupted

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def run(interrupted: Interrupted, tmp_path: Path) -> Iterator[DemoRun]:
    """A demo whose release is signed and whose service runs."""
    stop = StopRequest()
    with open_folder(interrupted.copy_to(tmp_path / "data"), devices=DEVICES) as (folder, record):
        processes = Processes(folder.logs, environment_of(folder), stop=stop)
        demo = DemoRun(folder, record, processes, stop=stop, view=DemoView([]), screen=SilentScreen())
        try:
            demo_steps.serve(demo)
            yield demo
        finally:
            demo.close()


def test_killed_service_loses_nothing_and_finishes_its_rollout(run: DemoRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices keep what was not acknowledged, the service keeps what it acknowledged and what it decided."""
    monkeypatch.setattr(demo_releases, "SOAK_SECONDS", "10")  # a stage that is watched is there to be killed in
    before = _latest_message(run)
    demo_steps.boot(run)
    demo_steps.attest(run)
    rollout = demo_releases.start_rollout(run, demo_releases.GOOD_RELEASE)
    run.wait_until(lambda: _has_begun(run, rollout), what="a device that has succeeded", timeout_seconds=120)
    assert run.client.get(f"/rollouts/{rollout}")["state"] == "running"

    _kill_service(run)
    demo_steps.serve(run)

    assert demo_releases.watch_rollout(run, rollout)["state"] == "finished"
    demo_steps.stop_devices(run)
    sent, acknowledged = link_counts(run.events.of_this_run())
    assert sent == acknowledged
    assert _gaps(run, after=before) == {}
    assert len(list(run.client.messages("/telemetry", before))) >= acknowledged > 0


def _has_begun(run: DemoRun, rollout: str) -> bool:
    succeeded = run.client.get(f"/rollouts/{rollout}")["totals"]["succeeded"]
    return bool(succeeded > 0 and run.client.get("/telemetry/count", stream="inference")["count"] > 0)


def _kill_service(run: DemoRun) -> None:
    assert run.service is not None
    os.kill(run.service.process.pid, signal.SIGKILL)
    run.processes.stop(run.service)
    run.service = None


def _latest_message(run: DemoRun) -> int:
    return max((message["id"] for message in run.client.messages("/telemetry", 0)), default=0)


def _gaps(run: DemoRun, *, after: int) -> dict[tuple[str, str], set[int]]:
    """Return the inference results that are missing: a core numbers them from 0 since its device started."""
    stored = defaultdict[tuple[str, str], set[int]](set)
    for message in run.client.messages("/telemetry", after, stream="inference"):
        stored[message["device_id"], message["payload"]["core"]].add(message["payload"]["sequence"])
    missing = {core: set(range(max(numbers))) - numbers for core, numbers in stored.items()}
    return {core: numbers for core, numbers in missing.items() if numbers}
