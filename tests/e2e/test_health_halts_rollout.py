"""A release whose model crashes once it runs: devices say so over MQTT, and the rollout halts against control."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.fleets.fleet_run import Run, claimed
from tinyml.fetch import fetch_model

pytestmark = pytest.mark.timeout(900)

CARD = Path(__file__).parents[2] / "service" / "cli" / "demo_assets" / "person-detection.yaml"
DEVICES, CANARIES = 20, 5
SLOT_SECONDS = 20.0  # in which the arms are compared; devices tell of half as much
SCENARIO = {
    "description": "a model that is confirmed, and crashes after its first answers",
    "seed": 6,
    "fleets": [
        {
            "name": "gates",
            "devices": DEVICES,
            "fidelity": "light",
            "inference_period": "1s",
            "health_window": f"{SLOT_SECONDS / 2:g}s",
        }
    ],
    "kernel_faults": [{"model": "gate@2.0.0", "kind": "crash", "after_inferences": 5}],
}
PLAN = {
    "name": "watched",
    "stages": [{"count": CANARIES, "soak": "1h"}, {"percent": 100}],
    "hold_out": {"percent": 20},
    "gates": {
        "kind": "evidence",
        "alpha": 0.05,
        "failures": [{"weight": 1}],
        "control": [{"name": "crashes", "events": ["crash", "faults"], "weight": 4}],
        "small_stage_rule": False,
    },
}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A catalog whose service compares devices every few seconds, and a fleet that is claimed."""
    with claimed(tmp_path, SCENARIO, health_slot_seconds=SLOT_SECONDS) as found:
        yield found


def test_release_that_crashes_after_its_confirmation_is_halted_by_what_its_devices_tell(run: Run) -> None:
    """Canaries confirm it, tell of resets, and the others go on as before; `explain` names figures and devices."""
    run.start()
    run.wait_for(lambda: len(run.who(event="connected")) == DEVICES, "every device connected")
    _release(run, "1.0.0")
    first = _started(run, "gate-1.0.0", "--stages", "100%", "--soak-seconds", "0", "--action-timeout-seconds", "600")
    run.wait_for(lambda: _shown(run, first)["state"] == "finished", "the model everywhere")
    _release(run, "2.0.0")
    plan = run.folder / "watched.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    watched = _started(run, "gate-2.0.0", "--plan", plan)
    run.wait_for(lambda: _shown(run, watched)["state"] != "running", "the halt")
    _check_halt(run, watched)
    assert run.end(signal.SIGTERM) == 0


def _check_halt(run: Run, rollout: str) -> None:
    shown = _shown(run, rollout)
    assert (shown["state"], shown["totals"]["succeeded"], shown["totals"]["failed"]) == ("halted", CANARIES, 0)
    told = run.party.run("rollout", "explain", rollout, "--json")
    halt = next(each for each in told["decisions"] if each["decision"] == "halted")
    assert halt["gate"] == "crashes"
    assert halt["figures"]["crashes.canary.events"] >= 3
    assert halt["figures"]["crashes.control.events"] == 0
    assert halt["figures"]["crashes.ln_halt"] >= halt["figures"]["crashes.halts_at"]
    assert {(each["arm"], each["gate"]) for each in told["counted"]} == {("canary", "crashes")}
    first = [each for kind in told["counted"] for each in kind["first"]]
    counted = {each["device_id"] for each in first}
    assert 3 <= len(counted) <= CANARIES
    assert sum(kind["devices"] for kind in told["counted"]) == len(counted)
    assert all("m4-0" in each["detail"] for each in first)
    devices = [run.party.run("device", "show", device_id, "--json") for device_id in counted]
    assert {device["installed"]["m4-0/model"]["name"] for device in devices} == {"gate@2.0.0"}


def _release(run: Run, version: str) -> None:
    model = Path(shutil.copy(fetch_model("person-detection"), run.folder / "person.tflite"))
    card, golden, package = (run.folder / name for name in ("card.yaml", "golden.json", f"gate-{version}.img"))
    content = yaml.safe_load(CARD.read_text())
    card.write_text(yaml.safe_dump({**content, "name": "gate", "version": version}))
    if not golden.exists():
        run.party.run("golden", "make", "astronaut", "cat", "--model", model, "--card", card, "--out", golden)
    run.party.run(
        "model", "pack", model, "--card", card, "--core", "m4-0", "--security-version", "1",
        "--golden", golden, "--out", package,
    )  # fmt: skip
    run.party.run("release", "create", f"gate-{version}", package, "--yes", "--json")


def _started(run: Run, release: str, *words: object) -> str:
    return str(run.party.run("rollout", "start", release, "--group", "Production", *words, "--json")["id"])


def _shown(run: Run, rollout: str) -> dict[str, Any]:
    return run.party.run("rollout", "show", rollout, "--json")
