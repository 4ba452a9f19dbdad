"""A device with a signed but unlisted model: refused, let in to update alone, healed by a rollout, let in whole.

An unlisted model that is older is healed by what its group gets anyhow, one that is newer by a release that goes back
from it.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.cli import demo_releases, demo_steps
from service.cli.demo import environment_of
from service.cli.demo_folder import open_folder
from service.cli.demo_processes import Processes, StopRequest
from service.cli.demo_run import ATTACKED_DEVICES, GROUP, PRODUCT, DemoRun, device_sim, tinyfleet
from service.cli.live import DemoView, SilentScreen
from tests.e2e.demo_process import DEVICES, Interrupted

pytestmark = pytest.mark.timeout(900)

MODEL_SLOT = "m4-0/model"
OLDER_VERSION = "0.9.0"
WAIT_SECONDS = 240.0
_STEPS = frozenset({"refused", "quarantined", "attested", "connected"})


@pytest.fixture
def run(interrupted: Interrupted, tmp_path: Path) -> Iterator[DemoRun]:
    """A demo whose release is signed and whose devices are attested; nothing of it runs."""
    stop = StopRequest()
    with open_folder(interrupted.copy_to(tmp_path / "data"), devices=DEVICES) as (folder, record):
        environment = {**environment_of(folder), "TINYFLEET_POLL_SECONDS": "2"}
        processes = Processes(folder.logs, environment, stop=stop)
        demo = DemoRun(folder, record, processes, stop=stop, view=DemoView([]), screen=SilentScreen())
        try:
            yield demo
        finally:
            demo.close()


def test_quarantined_device_heals_by_updating(run: DemoRun) -> None:
    """Refused, then update-only by the operator's word, then updated, then let in: as the API and the device say."""
    folder = run.device_folders()[ATTACKED_DEVICES]
    _quarantine(run, folder, _older_package(run))
    _heals_by(run, folder, demo_releases.GOOD_RELEASE)


def test_quarantined_device_with_a_newer_image_heals_by_a_release_that_goes_back(run: DemoRun) -> None:
    """The operator names the digest of an image that no release lists, and signs that the older one may replace it."""
    folder = run.device_folders()[ATTACKED_DEVICES]
    unlisted = demo_releases.PERSON.package(run, demo_releases.BAD_VERSION)
    _quarantine(run, folder, unlisted)
    newer = f"{MODEL_SLOT}={hashlib.sha256(unlisted.read_bytes()).hexdigest()}"
    good = demo_releases.PERSON.package(run, demo_releases.VERSION)
    run.perform([tinyfleet("release", "create", "vision-heal", good, "--goes-back", newer, "--yes", "--json")])
    _heals_by(run, folder, "vision-heal")


def _older_package(run: DemoRun) -> Path:
    """Sign a model that is older than the release's, and that no release lists."""
    model, card = demo_releases.PERSON, run.folder.work / "older.yaml"
    card.write_text(yaml.safe_dump({**yaml.safe_load(model.card(run).read_text()), "version": OLDER_VERSION}))
    run.perform([demo_releases.pack_model(run, model, card, version=OLDER_VERSION)])
    return model.package(run, OLDER_VERSION)


def _quarantine(run: DemoRun, folder: Path, unlisted: Path) -> None:
    """Flash an unlisted model over the cable, boot, and let the device in to update alone."""
    run.perform([device_sim("flash", folder, "--slot", MODEL_SLOT, "--package", unlisted)])
    demo_steps.serve(run)
    demo_steps.boot(run)
    _wait(run, folder, "refused", lambda device: _result(device) == "refused")
    refused = _show(run, folder)
    assert [part["component"] for part in refused["attestation"]["findings"] if not part["accepted"]] == [MODEL_SLOT]
    assert any("attestation refused it" in reason for reason in refused["admission"]["reasons"])

    run.perform([tinyfleet("group", "set", GROUP, "--product", PRODUCT, "--unknown", "quarantine")])
    _wait(run, folder, "quarantined", lambda device: device["state"] == "quarantined")
    quarantined = _show(run, folder)
    assert (_result(quarantined), quarantined["certificate"]["access"]) == ("quarantined", "update-only")
    assert quarantined["admission"]["access"] == "update-only"
    assert not quarantined["connected"]


def _heals_by(run: DemoRun, folder: Path, release: str) -> None:
    """Roll a release out, and see the quarantined device come back whole."""
    heard_before = _telemetry(run, _show(run, folder))
    rollout = demo_releases.start_rollout(run, release)
    assert demo_releases.watch_rollout(run, rollout)["state"] == "finished"
    _wait(run, folder, "active", lambda device: device["state"] == "active" and device["connected"])
    healed = _show(run, folder)
    assert (_result(healed), healed["certificate"]["access"]) == ("accepted", "full")
    assert healed["installed"][MODEL_SLOT]["name"] == f"{demo_releases.PERSON.name}@{demo_releases.VERSION}"
    _wait(run, folder, "heard by telemetry", lambda device: _telemetry(run, device) > heard_before)
    demo_steps.stop_devices(run)
    assert _way(run, folder) == ["refused", "quarantined", "attested", "connected"]


def _show(run: DemoRun, folder: Path) -> dict[str, Any]:
    return dict(run.client.get(f"/devices/{folder.name}"))


def _result(device: dict[str, Any]) -> str:
    return str(device["attestation"]["result"])


def _telemetry(run: DemoRun, device: dict[str, Any]) -> int:
    return int(run.client.get("/telemetry/count", device=device["id"])["count"])


def _wait(run: DemoRun, folder: Path, what: str, condition: Any) -> None:
    run.wait_until(lambda: condition(_show(run, folder)), what=f"device {what}", timeout_seconds=WAIT_SECONDS)


def _way(run: DemoRun, folder: Path) -> list[str]:
    """Return what the device went through, repetitions left out."""
    way: list[str] = []
    for event in run.events.of_this_run():
        kind = event["event"]
        if kind in _STEPS and event["device"].startswith(folder.name) and kind not in way:
            way.append(kind)
    return way
