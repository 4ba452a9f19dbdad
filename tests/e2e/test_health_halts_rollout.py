"""Releases that are confirmed and then do badly: devices say so over MQTT, and their rollouts halt or do not promote.

One fleet runs a model that it left the factory with. The next version of it is bad in another way on each revision of
the hardware: it crashes, its answers drift, or it is slow; on the last revision nothing is wrong with it.
"""

import json
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.cli.client import ApiClient, load_credential
from service.cli.errors import RefusedError
from tests.integration.device_update.test_person_in_shadow import invert_last_weights
from tests.integration.fleets.fleet_run import Run, claimed, device_sim
from tests.integration.tinyml.tinyml_models import alter
from tinyml.fetch import fetch_model

pytestmark = pytest.mark.timeout(900)

CARD = Path(__file__).parents[2] / "service" / "cli" / "demo_assets" / "person-detection.yaml"
WINDOW_SECONDS = 15.0  # that devices sum up over
SLOT_SECONDS = 2 * WINDOW_SECONDS  # in which the arms are compared: all of control is heard in each
ENOUGH_WINDOWS = 6  # of a device's own past
DEVICES, CANARIES, PAIRS = 24, 6, 10
SHADOWED, COMPARING = 6, 4
WAYS = {"crashes": DEVICES, "drifts": DEVICES, "slows": 2 * PAIRS, "agrees": SHADOWED}


def _fleet(way: str, devices: int) -> dict[str, Any]:
    return {
        "name": way,
        "devices": devices,
        "fidelity": "light",
        "hardware": {way: 1},
        "attributes": {"way": way},
        "inference_period": "1s" if way == "crashes" else "200ms",
        "health_window": f"{WINDOW_SECONDS:g}s",
    }


SCENARIO = {
    "description": "a model that is confirmed, and then does badly in a way of each revision",
    "seed": 6,
    "hardware": {way: {"profile": "x-cube-ai"} for way in WAYS},
    "fleets": [_fleet(way, devices) for way, devices in WAYS.items()],
    "kernel_faults": [{"model": "gate@2.0.0", "kind": "crash", "after_inferences": 5, "hardware": "crashes"}],
    "release_faults": [
        {"release": "gate-2.0.0", "kind": "drift", "hardware": "drifts", "factor": 0.3},
        {"release": "gate-2.0.0", "kind": "slow", "hardware": "slows", "factor": 2},
    ],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A catalog whose service compares devices every few seconds, and its fleet, connected, with three releases."""
    folder = tmp_path_factory.mktemp("health")
    with claimed(folder, SCENARIO, health_slot_seconds=SLOT_SECONDS) as found:
        model = Path(shutil.copy(fetch_model("person-detection"), folder / "person.tflite"))
        damaged = folder / "damaged.tflite"
        damaged.write_bytes(alter(model.read_bytes(), invert_last_weights))
        package = _release(found, "1.0.0", model)
        _release(found, "2.0.0", model)
        _release(found, "3.0.0", damaged)
        device_sim("flash", found.devices, "--slot", "m4-0/model", "--package", package)
        found.start()
        found.wait_for(lambda: len(found.who(event="connected")) == sum(WAYS.values()), "every device connected")
        yield found
        assert found.end(signal.SIGTERM) == 0


def test_release_that_crashes_after_its_confirmation_is_halted_by_what_its_devices_tell(run: Run) -> None:
    """Canaries confirm it, tell of resets, and the others go on as before; `explain` names figures and devices."""
    told = _halted(run, "crashes", {"control": [{"name": "crashes", "events": ["crash", "faults"], "weight": 4}]})
    _check_events(run, told, gate="crashes", says="m4-0")


def test_model_that_agrees_in_shadow_is_promoted_and_one_that_does_not_is_not(run: Run) -> None:
    """By what devices counted over real frames: the one runs nowhere, the other everywhere in the end."""
    plan = {"stages": [{"count": COMPARING}, {"percent": 100}], "shadow": {"frames": 30, "longest": "10m"}}
    damaged = _start(run, "gate-3.0.0", "agrees", plan)
    _wait_until_still(run, damaged)
    told = run.party.run("rollout", "explain", damaged, "--json")
    halt = _decision(told, "halted")
    assert (halt["gate"], halt["figures"]["shadow.agreed"]) == ("shadow", 0)
    assert halt["figures"]["shadow.disagreed"] >= COMPARING - 1
    assert halt["figures"]["shadow.ln_halt"] >= halt["figures"]["shadow.halts_at"]
    assert {each["model"] for each in _installed(run, "agrees")} == {"gate@1.0.0"}

    same = _start(run, "gate-2.0.0", "agrees", plan)
    _wait_until_still(run, same)
    assert _shown(run, same)["state"] == "finished"
    told = run.party.run("rollout", "explain", same, "--json")
    assert _decision(told, "promoted")["figures"]["shadow.agreed"] == COMPARING
    assert {each["model"] for each in _installed(run, "agrees")} == {"gate@2.0.0"}


def test_release_whose_answers_drift_is_halted_against_control(run: Run) -> None:
    """Canaries are less sure than in their own past, control is not; `explain` names both figures and the devices."""
    _wait_for_a_past(run, "drifts")
    told = _halted(run, "drifts", {"control": [{"name": "drift", "events": ["drift"], "weight": 4}]})
    _check_events(run, told, gate="drift", says="expected a confidence within 0.15 of its own past's")


def test_release_that_is_slow_is_halted_by_the_mean_of_its_devices(run: Run) -> None:
    """Pairs of canaries and control, each against its own past; `explain` names how far the mean moved and may."""
    _wait_for_a_past(run, "slows")
    gate = {"name": "latency", "metric": "latency", "core": "m4-0", "margin": 10, "weight": 4}
    told = _halted(run, "slows", {"means": [gate]}, canaries=PAIRS)
    halt = _decision(told, "halted")
    assert halt["gate"] == "latency"
    assert "expected latency on m4-0 to move no more than 10 above +0" in halt["reason"]
    figures = halt["figures"]
    assert (figures["latency.margin"], figures["latency.pairs"] <= PAIRS) == (10, True)
    assert figures["latency.change"] > figures["latency.margin"]
    assert figures["latency.ln_halt"] >= figures["latency.halts_at"]
    (moved,) = [kind for kind in told["counted"] if kind["arm"] == "canary"]
    canaries = {each["device_id"] for each in moved["first"]}
    assert canaries <= {each["id"] for each in _installed(run, "slows") if each["model"] == "gate@2.0.0"}
    assert len(canaries) == figures["latency.pairs"]


def _halted(run: Run, way: str, gates: Mapping[str, Any], *, canaries: int = CANARIES) -> dict[str, Any]:
    """Roll version 2 out to a revision until the rollout is not running any more; return what `explain` says."""
    evidence = {"kind": "evidence", "alpha": 0.05, "failures": [{"weight": 1}], "small_stage_rule": False, **gates}
    stages = [{"count": canaries, "soak": "1h"}, {"percent": 100}]
    rollout = _start(run, "gate-2.0.0", way, {"stages": stages, "gates": evidence})
    _wait_until_still(run, rollout)
    shown = _shown(run, rollout)
    assert (shown["state"], shown["totals"]["succeeded"], shown["totals"]["failed"]) == ("halted", canaries, 0)
    return run.party.run("rollout", "explain", rollout, "--json")


def _check_events(run: Run, told: Mapping[str, Any], *, gate: str, says: str) -> None:
    """Canaries alone were counted, enough of them, and the evidence is what halted."""
    halt = _decision(told, "halted")
    assert halt["gate"] == gate
    assert halt["figures"][f"{gate}.canary.events"] >= 3
    assert halt["figures"][f"{gate}.control.events"] == 0
    assert halt["figures"][f"{gate}.ln_halt"] >= halt["figures"][f"{gate}.halts_at"]
    assert {(each["arm"], each["gate"]) for each in told["counted"]} == {("canary", gate)}
    first = [each for kind in told["counted"] for each in kind["first"]]
    assert all(says in each["detail"] for each in first)
    counted = {each["device_id"] for each in first}
    assert 3 <= len(counted) <= CANARIES
    assert sum(kind["devices"] for kind in told["counted"]) == len(counted)
    with _client(run) as client:
        devices = [client.get(f"/devices/{device_id}") for device_id in counted]
    assert {device["installed"]["m4-0/model"]["name"] for device in devices} == {"gate@2.0.0"}


def _decision(told: Mapping[str, Any], wanted: str) -> dict[str, Any]:
    return next(each for each in told["decisions"] if each["decision"] == wanted)


def _wait_until_still(run: Run, rollout: str) -> None:
    with _client(run) as client:
        run.wait_for(lambda: client.get(f"/rollouts/{rollout}")["state"] != "running", f"{rollout} not to run any more")


def _wait_for_a_past(run: Run, way: str) -> None:
    """Wait until each device has told enough windows of the model that it left the factory with."""
    with _client(run) as client:
        waiting = {device["id"] for device in _installed(run, way)}

        def have_one() -> bool:
            waiting.difference_update({each for each in waiting if _windows(client, each) >= ENOUGH_WINDOWS})
            return not waiting

        run.wait_for(have_one, f"a past of {ENOUGH_WINDOWS} windows")


def _windows(client: ApiClient, device_id: str) -> int:
    """How many windows a device has told of."""
    try:
        return int(client.get(f"/devices/{device_id}/health")["cores"][0]["past"]["windows"])
    except RefusedError:
        return 0  # it has told nothing yet


def _installed(run: Run, way: str) -> Sequence[dict[str, str]]:
    """The devices of a revision, and which model each runs as the service knows it."""
    with _client(run) as client:
        devices = [client.get(f"/devices/{folder.name}") for folder in _folders(run, way)]
    return [{"id": each["id"], "model": each["installed"]["m4-0/model"]["name"]} for each in devices]


def _folders(run: Run, way: str) -> list[Path]:
    facts = {file.parent: json.loads(file.read_bytes()) for file in run.devices.glob("*/device.json")}
    return [folder for folder, each in facts.items() if each["hardware"] == way]


@contextmanager
def _client(run: Run) -> Iterator[ApiClient]:
    url = json.loads((run.party.service / "service.json").read_bytes())["operator_url"]
    client = ApiClient.open(replace(load_credential(run.party.operator), url=url))
    try:
        yield client
    finally:
        client.close()


def _release(run: Run, version: str, model: Path) -> Path:
    """Pack a version of the detector with golden vectors of its own, and sign a release of it."""
    card, golden, package = (run.folder / f"gate-{version}.{kind}" for kind in ("yaml", "json", "img"))
    card.write_text(yaml.safe_dump({**yaml.safe_load(CARD.read_text()), "name": "gate", "version": version}))
    run.party.run("golden", "make", "astronaut", "cat", "--model", model, "--card", card, "--out", golden)
    run.party.run(
        "model", "pack", model, "--card", card, "--core", "m4-0", "--security-version", "1",
        "--golden", golden, "--out", package,
    )  # fmt: skip
    run.party.run("release", "create", f"gate-{version}", package, "--yes", "--json")
    return package


def _start(run: Run, release: str, way: str, plan: Mapping[str, Any]) -> str:
    """Start a rollout of a release to the devices of a revision."""
    file = run.folder / f"{way}.yaml"
    file.write_text(yaml.safe_dump({"name": way, "target": {"attribute": "way", "is": way}, **plan}))
    started = run.party.run("rollout", "start", release, "--group", "Production", "--plan", file, "--json")
    return str(started["id"])


def _shown(run: Run, rollout: str) -> dict[str, Any]:
    return run.party.run("rollout", "show", rollout, "--json")
