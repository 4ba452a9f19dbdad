"""The examples of full and light fleets do what their first lines say; with fewer devices, and sooner."""

import json
import signal
import statistics
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from device_sim.fleets.scenario_file import read_scenario
from protocol.scenario.fleets import Fidelity
from tests.integration.fleets.fleet_run import Run, claimed
from tests.integration.fleets.gate_model import inferences, roll_out_gate_model

pytestmark = pytest.mark.timeout(900)

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "scenarios"
KNOWN = {"clone", "drift-in-the-dark", "thief"}  # each has a test here
NIGHT_SECONDS = 15  # dark and light in turns
EDGE_SECONDS = 3  # at both ends of a night in which records are not judged
ENOUGH = 8  # records in the dark, and as many in the light


def example(name: str, *, devices: int, **changes: Any) -> dict[str, Any]:
    """An example with so many devices in each fleet, and parts of it replaced; it runs until it is stopped."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    fleets = [{**fleet, "devices": devices, "inference_period": "1s"} for fleet in found["fleets"]]
    return {key: value for key, value in {**found, "fleets": fleets, **changes}.items() if key != "length"}


def at(name: str, seconds: int, **changes: Any) -> list[Mapping[str, Any]]:
    """The happenings of an example, at another time."""
    found = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["happenings"]
    return [{**happening, "at": f"{seconds}s", **changes} for happening in found]


def test_every_example_of_full_and_light_devices_is_run_here() -> None:
    """A new one needs a test of its outcome."""
    names = {
        path.stem
        for path in FOLDER.glob("*.yaml")
        if any(fleet.fidelity is not Fidelity.VIRTUAL for fleet in read_scenario(path).fleets)
    }
    assert names == KNOWN


def test_clone_is_suspected_while_both_live_on(tmp_path: Path) -> None:
    """Two devices with one identity take the connection from each other; one identity is told, and it is theirs."""
    with claimed(tmp_path, example("clone", devices=3, happenings=at("clone", 5))) as run:
        run.start()
        run.wait_for(lambda: suspected(run) == 1, "a suspected clone")
        (copy,) = (path.name for path in (run.devices / ".clones").iterdir())
        assert run.party.run("device", "show", copied(run, copy), "--json")["clone_suspected_at"] is not None
        assert run.end(signal.SIGTERM) == 0


def copied(run: Run, folder: str) -> str:
    return str(json.loads((run.devices / folder / "device.json").read_bytes())["device_id"])


def suspected(run: Run) -> int:
    return int(run.party.run("fleet", "summary", "--json")["suspected_clones"])


def test_stolen_device_comes_back_and_is_not_let_in(tmp_path: Path) -> None:
    """It was blocked while it was away; the others stay."""
    with claimed(tmp_path, example("thief", devices=3, happenings=at("thief", 20, lasts="20s"))) as run:
        run.start()
        run.wait_for(lambda: len(run.who(event="connected")) == 3, "every device connected")
        run.wait_for(lambda: bool(run.who(event="power", on=False)), "a stolen device")
        (stolen,) = run.who(event="power", on=False)
        run.party.run("device", "block", stolen, "--reason", "stolen")
        run.wait_for(lambda: run.who(event="power", on=True) == {stolen}, "its return")
        run.wait_for(lambda: run.who(event="refused") == {stolen}, "its refusal")
        assert run.end(signal.SIGTERM) == 0
        assert json.loads(run.record.read_bytes())["fleets"][0]["states"]["refused"] == 1


def test_scores_of_the_drifting_model_lie_closer_in_the_dark(tmp_path: Path) -> None:
    """The rollout goes through; what the devices that run the release answer is sure in the light alone."""
    nights = [
        at("drift-in-the-dark", start, lasts=f"{NIGHT_SECONDS}s")[0] for start in range(0, 600, 2 * NIGHT_SECONDS)
    ]
    with claimed(tmp_path, example("drift-in-the-dark", devices=3, happenings=nights)) as run:
        run.start()
        run.wait_for(lambda: len(run.who(event="connected")) == 3, "every device connected")
        roll_out_gate_model(run, tmp_path)
        run.wait_for(lambda: len(run.who(event="update", state="confirmed")) == 3, "every confirmation")
        run.wait_for(lambda: min(map(len, scores(run))) >= ENOUGH, "inferences in the dark and in the light")
        assert run.end(signal.SIGTERM) == 0
        dark, light = scores(run)
        assert statistics.median(dark) < statistics.median(light)


def scores(run: Run) -> tuple[list[float], list[float]]:
    """The distances from even odds of the released model's scores, in the dark and in the light."""
    began = datetime.fromisoformat(run.events[0]["time"])
    found: tuple[list[float], list[float]] = ([], [])
    for record in inferences(run):
        seconds = (datetime.fromisoformat(record["at"]) - began).total_seconds()
        into = seconds % NIGHT_SECONDS
        if record["model"].startswith("gate@") and EDGE_SECONDS < into < NIGHT_SECONDS - EDGE_SECONDS:
            found[int(seconds // NIGHT_SECONDS) % 2].append(abs(record["score"] - 0.5))
    return found
