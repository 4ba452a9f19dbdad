"""A fleet that runs one version gets the next one by patch: made by a service that was killed meanwhile."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service.cli import demo_releases, demo_steps
from service.cli.client import JsonObject
from service.cli.demo import environment_of
from service.cli.demo_folder import open_folder
from service.cli.demo_processes import Processes, StopRequest
from service.cli.demo_run import DemoRun
from service.cli.live import DemoView, SilentScreen
from tests.e2e.demo_process import DEVICES, Interrupted

pytestmark = pytest.mark.timeout(600)

VERSION = "1.2.0"
RELEASE = "vision-1.2"
PATIENCE_SECONDS = 240.0


@pytest.fixture
def run(interrupted: Interrupted, tmp_path: Path) -> Iterator[DemoRun]:
    """A demo whose release is signed and whose service and devices run."""
    stop = StopRequest()
    with open_folder(interrupted.copy_to(tmp_path / "data"), devices=DEVICES) as (folder, record):
        environment = {**environment_of(folder), "TINYFLEET_POLL_SECONDS": "2"}
        processes = Processes(folder.logs, environment, stop=stop)
        demo = DemoRun(folder, record, processes, stop=stop, view=DemoView([]), screen=SilentScreen())
        try:
            demo_steps.serve(demo)
            demo_steps.boot(demo)
            demo_steps.attest(demo)
            yield demo
        finally:
            demo.close()


def test_next_version_comes_by_patch_in_fewer_bytes(run: DemoRun) -> None:
    """Release, kill -9, patch, rollout: every device confirms the new digest and fetched a fraction of it."""
    first = demo_releases.start_rollout(run, demo_releases.GOOD_RELEASE)
    assert demo_releases.watch_rollout(run, first)["state"] == "finished"
    run.perform([demo_releases.pack_model(run, demo_releases.PERSON, _card(run), version=VERSION)])
    demo_releases.create_release(run, RELEASE, demo_releases.PERSON.package(run, VERSION))
    (image,) = next(each for each in run.client.items("/releases") if each["name"] == RELEASE)["images"]
    _kill_service(run)
    demo_steps.serve(run)

    run.wait_until(lambda: _is_offered(run, image), what="a patch", timeout_seconds=PATIENCE_SECONDS)
    (delta,) = _deltas(run, image)
    assert delta["percent"] < 10
    shown = run.client.get(f"/deltas/{delta['from_sha256']}/{delta['to_sha256']}")
    assert shown["target"] == f"deltas/{delta['from_sha256']}/{delta['to_sha256']}.delta"

    rollout = demo_releases.watch_rollout(run, demo_releases.start_rollout(run, RELEASE))
    assert (rollout["state"], rollout["totals"]["failed"]) == ("finished", 0)
    demo_steps.stop_devices(run)
    fetched = [event["detail"] for event in run.events.of_this_run() if _tells_bytes(event)]
    assert len(fetched) == rollout["totals"]["succeeded"] > 0
    wanted = f"{demo_releases.PERSON.name}@{VERSION}: {delta['patch_length']} bytes received of {delta['full_length']}"
    assert set(fetched) == {wanted}


def _card(run: DemoRun) -> Path:
    card = run.folder.work / f"{demo_releases.PERSON.name}-{VERSION}.yaml"
    content = yaml.safe_load(demo_releases.PERSON.card(run).read_text())
    card.write_text(yaml.safe_dump({**content, "version": VERSION}))
    return card


def _deltas(run: DemoRun, image: JsonObject) -> list[JsonObject]:
    return [delta for delta in run.client.items("/deltas") if delta["to_sha256"] == image["sha256"]]


def _is_offered(run: DemoRun, image: JsonObject) -> bool:
    return any(delta["state"] == "offered" for delta in _deltas(run, image))


def _tells_bytes(event: JsonObject) -> bool:
    return VERSION in str(event.get("detail")) and "bytes received" in str(event.get("detail"))


def _kill_service(run: DemoRun) -> None:
    assert run.service is not None
    os.kill(run.service.process.pid, signal.SIGKILL)
    run.processes.stop(run.service)
    run.service = None
