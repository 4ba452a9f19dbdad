"""One scenario of full, light and virtual devices; the simulator is killed on the way.

Full and light ones take a release from a real service, virtual ones one of the scenario beside them.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.scenario import Scenario
from service.cli.factory_images import FACTORY_IMAGES, simulated_payload
from tests.integration.fleets.fleet_run import Run, claimed

pytestmark = pytest.mark.timeout(900)

FULL, LIGHT, VIRTUAL = 2, 48, 10
REAL = {"benches", "doors"}
FACTORY_OS, NEWER_OS = "os@1.0.0", "os@1.1.0"
SCENARIO = {
    "description": "a rollout over two networks",
    "seed": 4,
    "regions": {
        "near": {"network": {"latency": "5ms", "jitter": "5ms", "loss": 0.01}},
        "far": {"network": {"latency": "80ms", "bytes_per_second": 200_000}},
    },
    "hardware": {
        "rev-b": {"profile": "x-cube-ai", "defects": [{"kind": "slow-clock", "factor": 0.5}]},
        "rev-c": {"os_version": NEWER_OS.removeprefix("os@")},
    },
    "fleets": [
        {"name": "benches", "devices": FULL, "regions": {"far": 1}, "hardware": {"rev-b": 1}},
        {
            "name": "doors",
            "devices": LIGHT,
            "fidelity": "light",
            "regions": {"near": 0.7, "far": 0.3},
            "hardware": {"rev-c": 0.5},
        },
        {"name": "towers", "devices": VIRTUAL, "fidelity": "virtual", "hardware": {"rev-c": 0.5}},
    ],
    "releases": [{"name": "tower-model", "images": {"m4-0/model": {"name": "tower@1.0", "bytes": 100_000}}}],
    "rollouts": [{"release": "tower-model", "at": "5m", "stages": [{"percent": 100}]}],
    "happenings": [{"at": "2s", "kind": "reboot", "fleet": "doors", "share": 0.1}],
}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A catalog whose service runs, and the scenario's devices, claimed."""
    with claimed(tmp_path, SCENARIO, systems=[NEWER_OS.removeprefix("os@")]) as found:
        yield found


def test_mixed_fleet_survives_a_kill_and_confirms_the_release(run: Run) -> None:
    """Everybody connects with the declared OS, updates, is killed, goes on, and runs the new application."""
    run.start()
    run.wait_for(lambda: len(real(run, event="connected")) == FULL + LIGHT, "every device connected")
    run.wait_for(lambda: bool(run.who(event="booted", fleet="towers")), "a virtual device")
    assert {event["fleet"] for event in run.events if "device" in event} == {*REAL, "towers"}
    assert systems(run) == declared_systems(run)
    assert set(systems(run).values()) == {FACTORY_OS, NEWER_OS}
    run.wait_for(lambda: bool(run.who(event="power", on=True)), "a device of the reboot storm")
    rollout = _roll_out(run)
    run.wait_for(lambda: len(real(run, event="update", state="installing")) > LIGHT // 3, "devices in mid update")
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    before = real(run, event="update", state="confirmed")
    run.start()
    done = lambda: len(before | real(run, event="update", state="confirmed")) == FULL + LIGHT  # noqa: E731
    run.wait_for(done, "every device's confirmation")
    towers = lambda: len(run.who(event="update", state="confirmed", fleet="towers")) == VIRTUAL  # noqa: E731
    run.wait_for(towers, "every virtual device's confirmation")
    run.wait_for(lambda: _state(run, rollout) == "finished", "the rollout's end")
    shown = run.party.run("rollout", "show", rollout, "--json")
    assert (shown["state"], shown["totals"]["succeeded"]) == ("finished", FULL + LIGHT)
    assert run.end(signal.SIGTERM) == 0
    _check_record(run)


def real(run: Run, **wanted: object) -> set[str]:
    """Return the full and light devices of which an event with these fields has come."""
    return {device for fleet in REAL for device in run.who(fleet=fleet, **wanted)}


def systems(run: Run) -> dict[str, str]:
    """Return the operating systems that the full and light devices have booted."""
    booted = [event for event in run.events if event["event"] == "booted" and event["fleet"] in REAL]
    return {event["device"]: name for event in booted for name in event["components"] if name.startswith("os@")}


def declared_systems(run: Run) -> dict[str, str]:
    """Return the operating systems that their revisions are declared with."""
    facts = [json.loads(path.read_bytes()) for path in run.devices.glob("*/device.json")]
    return {each["device_id"]: NEWER_OS if each["hardware"] == "rev-c" else FACTORY_OS for each in facts}


def _check_record(run: Run) -> None:
    """The record of the second start says what its events say."""
    scenario = Scenario.model_validate_json(json.dumps(SCENARIO))
    record = json.loads(run.record.read_bytes())
    assert {fleet["name"]: fleet["devices"] for fleet in record["fleets"]} == {
        fleet.name: fleet.devices for fleet in scenario.fleets
    }
    assert record["crashed"] == 0
    assert all(fleet["wire"]["bytes_received"] > 0 for fleet in record["fleets"])
    assert all(fleet["updates"]["confirmed"] for fleet in record["fleets"] if fleet["name"] == "towers")
    assert not run.who(event="crashed")


def _roll_out(run: Run) -> str:
    application = FACTORY_IMAGES[3]
    payload, package = run.folder / "application.bin", run.folder / "application.img"
    payload.write_bytes(simulated_payload(application.name, "1.1.0", payload_bytes=48 * 1024))
    names = ("--name", application.name, "--component-id", application.component_id)
    run.party.run("image", "create", payload, "--version", "1.1.0", *names, "--out", package)
    run.party.run("release", "create", "application-1.1", package, "--yes", "--json")
    stages = ("--stages", "2,100%", "--soak-seconds", "0", "--action-timeout-seconds", "600", "--json")
    started = run.party.run("rollout", "start", "application-1.1", "--group", "Production", *stages)
    return str(started["id"])


def _state(run: Run, rollout: str) -> str:
    return str(run.party.run("rollout", "show", rollout, "--json")["state"])
