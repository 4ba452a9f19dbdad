"""What virtual devices do not simulate is refused; darkness, theft and clones are each device's own."""

from pathlib import Path
from typing import Any

import pytest

from device_sim.errors import PowerCutError
from protocol.geometry import Slot
from service.domain.errors import NameTakenError
from simulation import __main__ as command
from simulation.darkness import dark_from
from simulation.errors import VirtualScenarioError
from tests.integration.simulation.virtual_scenarios import Told, run, scenario

CAMERAS: dict[str, Any] = {"name": "cameras", "devices": 20, "fidelity": "virtual"}
HALVES = {"north": 0.5, "south": 0.5}
DARK_BRICK = {"release": "r1", "kind": "brick", "after": "1s", "only_in_the_dark": True}


def fleet(**changes: object) -> list[dict[str, object]]:
    return [{**CAMERAS, **changes}]


BY_CARD = {"all": [{"release": "factory"}, {"model": "m4-0", "kind": "tflite"}]}


def revision(**parts: object) -> dict[str, object]:
    return {"fleets": fleet(hardware={"h": 1.0}), "hardware": {"h": parts}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (revision(profile="nonsense"), r"hardware\.h\.profile: expected one of .* found 'nonsense'"),
        (revision(profile="onnc"), r"hardware\.h\.profile: expected reference, found onnc"),
        (revision(defects=[{"kind": "weak-flash"}]), "expected brown-out, found weak-flash"),
        (revision(defects=[{"kind": "flaky-core"}]), "expected brown-out, found flaky-core"),
        (revision(defects=[{"kind": "slow-clock"}]), "expected brown-out, found slow-clock"),
        ({"fleets": fleet(inference="tflm")}, r"fleet cameras\.inference: expected none, found tflm"),
        ({"fleets": fleet(sensors=[{"sensor": "microphone", "replay": "no.wav"}])}, "sensors: expected none"),
        ({"fleets": fleet(conditions=[{"noise": 0.1}])}, "expected lighting of a camera alone"),
        ({"release_faults": [{"release": "r1", "kind": "drift"}]}, "release_faults.0: .* found drift"),
        ({"kernel_faults": [{"model": "person@*", "kind": "hang", "after_inferences": 3}]}, "expected 0, found 3"),
        (
            {"kernel_faults": [{"model": "cat@1", "kind": "hang"}]},
            r"0\.model: expected person@2\.0 of the releases, found cat@1$",
        ),
        (
            {"rollouts": [{"release": "r1", "plan": {"target": BY_CARD, "stages": [{"percent": 100}]}}]},
            r"rollouts\.0\.plan: expected no filter by what a model's card says, found one",
        ),
        ({"happenings": [{"at": "1m", "kind": "load", "level": 4}]}, "happenings.0: .* found load"),
        ({"happenings": [{"at": "1m", "kind": "vibration"}]}, "happenings.0: .* found vibration"),
    ],
)
def test_what_no_virtual_device_simulates_is_refused(changes: dict[str, Any], message: str) -> None:
    """With where it is, before anything begins."""
    with pytest.raises(VirtualScenarioError, match=message):
        Told(scenario(**changes))


def test_what_is_for_the_other_fleets_of_a_scenario_is_left_to_them() -> None:
    """A load on light devices, a drift on a revision that no virtual device has."""
    light = {"name": "real", "devices": 1, "fidelity": "light", "hardware": {"h": 1.0}}
    happenings = [{"at": "1m", "kind": "load", "level": 4, "fleet": "real"}]
    faults = [{"release": "r1", "kind": "drift", "hardware": "h"}]
    parts: dict[str, Any] = {"happenings": happenings, "release_faults": faults, "hardware": {"h": {"profile": "onnc"}}}
    assert Told(scenario(fleets=[CAMERAS, light], **parts)).world.devices


def test_darkness_of_another_region_breaks_nothing() -> None:
    """It is dark in the north alone, and the fault waits in the south."""
    parts: dict[str, Any] = {"fleets": fleet(regions=HALVES), "regions": {"north": {}, "south": {}}}
    faults = [DARK_BRICK]
    happenings = [{"at": "1h", "kind": "lighting", "level": 0.1, "region": "north", "lasts": "10m"}]
    told = run(scenario(length="2h", happenings=happenings, release_faults=faults, **parts))
    off = {told.world.plans[device].region for device, it in told.world.devices.items() if not it.is_on}
    on = {told.world.plans[device].region for device, it in told.world.devices.items() if it.is_on}
    assert (off, on) == ({"north"}, {"south"})


def test_darkness_that_overlaps_another_lasts_until_both_are_over() -> None:
    """Neither ends the other, and a fleet's own nights count, too."""
    happenings = [
        {"at": "10m", "kind": "lighting", "level": 0.1, "lasts": "10m"},
        {"at": "15m", "kind": "lighting", "level": 0.1, "lasts": "30m"},
    ]
    nights = [{"lighting": 0.0, "starts_seconds": 10_000, "ends_seconds": 20_000, "every_seconds": 86_400}]
    told = Told(scenario(1, happenings=happenings, fleets=fleet(devices=1, conditions=nights)))
    ((device, it),) = told.world.devices.items()
    plan = told.world.plans[device]
    found = {at: dark_from(told.scenario, plan, it.device_id, at) for at in (0.0, 1300.0, 2800.0, 12_000.0, 30_000.0)}
    assert found == {0.0: 600.0, 1300.0: 1300.0, 2800.0: 10_000.0, 12_000.0: 12_000.0, 30_000.0: 96_400.0}


def test_thief_of_a_device_without_power_has_it_for_his_time() -> None:
    """It does not come back, open, as if nothing had happened."""
    happenings = [
        {"at": "10m", "kind": "reboot", "lasts": "5m"},
        {"at": "11m", "kind": "theft", "lasts": "1h"},
    ]
    told = run(scenario(1, happenings=happenings, rollouts=[], length="2h"))
    assert [event["time"][11:16] for event in told.named("power", on=True)] == ["09:11"]
    assert "life-cycle" in told.named("refused")[0]["reason"]


def test_clone_that_bricks_leaves_the_original_alone() -> None:
    """Their faults are alike, and not the same."""
    told = Told(scenario(1, release_faults=[{"release": "r1", "kind": "brick"}], rollouts=[], length="1h"))
    (device,) = told.world.devices.values()
    clone = told.world.copy(device)
    slot, digest = Slot.M4_0_MODEL, told.world.catalogue.releases[1].images[Slot.M4_0_MODEL].sha256
    clone.machine.spare_begin(slot, digest, 1000)
    clone.machine.spare_write(0, bytes(1000))
    with pytest.raises(PowerCutError, match="silent"):
        clone.machine.start_trial(slot)
    assert clone.machine.is_bricked
    assert not device.machine.is_bricked


def test_error_of_the_service_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a traceback, whichever rule a scenario breaks there."""

    def refuse(_scenario: object, **_options: object) -> None:
        raise NameTakenError("release: expected a name that is free, found 'r1'")

    path = tmp_path / "scenario.yaml"
    path.write_text("length: 1h\nfleets: [{name: a, devices: 1, fidelity: virtual}]")
    monkeypatch.setattr(command, "Run", refuse)
    assert command.main(["run", str(path)]) == 1
    assert capfd.readouterr().err == "simulation: release: expected a name that is free, found 'r1'\n"
