"""kill -9 of the service in the middle of the demo's rollout: it restarts, and the rollout finishes."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli import demo_releases, demo_steps
from service.cli.demo import STEPS, environment_of
from service.cli.demo_events import link_counts
from service.cli.demo_folder import open_folder
from service.cli.demo_processes import Processes, StopRequest
from service.cli.demo_run import DemoRun
from service.cli.live import DemoView, SilentScreen
from tests.e2e.demo_process import DEVICES

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[DemoRun]:
    """A demo whose release is signed and whose devices are attested."""
    stop = StopRequest()
    with open_folder(tmp_path / "data", devices=DEVICES) as (folder, record):
        processes = Processes(folder.logs, environment_of(folder), stop=stop)
        demo = DemoRun(folder, record, processes, stop=stop, view=DemoView([]), screen=SilentScreen())
        try:
            for step in STEPS:
                if step.name == "rollout":
                    break
                step.act(demo)
            yield demo
        finally:
            demo.close()


def test_killed_service_loses_nothing_and_finishes_its_rollout(run: DemoRun) -> None:
    """Devices keep what was not acknowledged, the service knows what it decided."""
    rollout = demo_releases.start_rollout(run, demo_releases.GOOD_RELEASE)
    run.wait_until(
        lambda: (
            run.client.get(f"/rollouts/{rollout}")["totals"]["succeeded"] > 0
            and run.client.get("/telemetry/count", stream="inference")["count"] > 0
        ),
        what="a first device that succeeds and infers",
        timeout_seconds=120,
    )
    assert run.client.get(f"/rollouts/{rollout}")["state"] == "running"

    _kill_service(run)
    demo_steps.serve(run)

    assert demo_releases.watch_rollout(run, rollout)["state"] == "finished"
    demo_steps.stop_devices(run)
    sent, acknowledged = link_counts(run.events.all())
    stored = run.client.get("/telemetry/count")["count"]
    assert 0 < acknowledged <= stored
    assert acknowledged <= sent


def _kill_service(run: DemoRun) -> None:
    assert run.service is not None
    os.kill(run.service.process.pid, signal.SIGKILL)
    run.processes.stop(run.service)
    run.service = None
