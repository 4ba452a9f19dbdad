"""A device learns, dies, and another one takes its place: a template rolled out, a state backed up and restored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from device_sim.sensors.accelerometer import Accelerometer
from protocol.identity import parse_device_id
from protocol.sensing import MechanicalFault
from tests.e2e.party import Party, SimulatedDevice, has
from tests.learning_template import COMPONENT

pytestmark = pytest.mark.timeout(600)

WARM_UP = 40
LAYOUT = {"window_samples": 256, "rate_hz": 3200, "bands": 16, "low_hz": 12.5, "high_hz": 1600}
CORE = ("--core", "m4-1")


@pytest.fixture
def factory(tmp_path: Path) -> Party:
    """A plant that puts devices on its pumps."""
    party = Party(tmp_path / "plant", "Plant", "Pump watch")
    party.init()
    return party


def test_replaced_device_goes_on_with_what_the_old_one_learned(factory: Party, tmp_path: Path) -> None:
    """Pack, release, roll out, learn, back up; then another device, an order, and a verdict without a warm-up."""
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("inference_period_seconds: 0.05\n")
    with factory.serving():
        factory.run("factory", "images")
        factory.run("product", "create", factory.product)
        old = _claimed(factory, tmp_path / "old")
        factory.run("release", "create", "pump-1", _package(factory, tmp_path), "--yes")
        _roll_out(factory)
        old.live(factory, has("learned-sent", windows=WARM_UP), scenario=scenario)
        shown = factory.run("device", "learned", "show", "--json")
        assert [(state["device_id"], state["windows"]) for state in shown["states"]] == [(old.device_id, WARM_UP)]

        new = _claimed(factory, tmp_path / "new")
        restore = ("device", "learned", "restore", "--from", old.device_id, "--to", new.device_id, *CORE)
        assert factory.run(*restore, "--json")["state"] == "open"
        _roll_out(factory)
        events = new.live(factory, _both(has("learned-restore", refusal=""), has("learned-sent")), scenario=scenario)
        assert has("update", state="confirmed")(events)
        orders = factory.run("device", "learned", "show", new.device_id, "--json")["orders"]
        assert [(order["state"], order["from_device"]) for order in orders] == [("done", old.device_id)]

        factory.run("device", "learned", "reset", new.device_id, *CORE, "--reason", "another pump")
        new.live(factory, has("learned-reset", refusal=""), scenario=scenario)


def _both(*conditions: Callable[[list[dict[str, Any]]], bool]) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda events: all(condition(events) for condition in conditions)


def _claimed(factory: Party, devices: Path) -> SimulatedDevice:
    device = SimulatedDevice.manufacture(devices)
    factory.run("factory", "sign", devices)
    device.flash()
    factory.run("device", "claim", devices, "--product", factory.product)
    device.live(factory, has("connected"))
    return device


def _package(factory: Party, folder: Path) -> Path:
    """A template with what is normal for pumps of this kind, and golden vectors."""
    pump = Accelerometer(parse_device_id("0" * 128), stream="bench")
    _save(folder / "healthy.npy", pump, {})
    _save(folder / "faulty.npy", pump, {MechanicalFault.BEARING: 1.0})
    file = folder / "template.yaml"
    words = {"name": "pump", "version": "1.0.0", "component_id": COMPONENT, "layout": LAYOUT, "prior": "healthy.npy"}
    file.write_text(yaml.safe_dump({**words, "warm_up_windows": WARM_UP}))
    golden, package = folder / "golden.json", folder / "pump.img"
    windows = ("--normal", folder / "healthy.npy", "--anomaly", folder / "faulty.npy")
    factory.run("template", "golden", file, *windows, "--out", golden)
    factory.run("template", "pack", file, *CORE, "--golden", golden, "--out", package)
    return package


def _save(path: Path, pump: Accelerometer, faults: dict[MechanicalFault, float]) -> None:
    samples = pump.feel(0, 256 * 100, 3200, faults=faults)[:, 0]
    np.save(path, samples.reshape(100, 256))


def _roll_out(factory: Party) -> None:
    words = ("--product", factory.product, "--group", "Production", "--json")
    started = factory.run("rollout", "start", "pump-1", *words)
    assert started["state"] == "running", json.dumps(started)
