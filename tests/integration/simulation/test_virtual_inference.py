"""What virtual cores compute is reckoned: how often, how long, and how much longer where a release is slow."""

import math
from datetime import datetime
from typing import Any

import pytest

from device_sim.cores.kernels import RESET_MS, WATCHDOG_MS
from device_sim.reporting.energy import EnergyModel
from device_sim.reporting.tally import RunTally
from protocol.geometry import Core
from simulation.devices.inference import Load, Strike, VirtualInference
from tests.integration.simulation.virtual_scenarios import Told, run, scenario

M4_0, M4_1 = Core.M4_0.value, Core.M4_1.value
MODEL = {"m4-0/model": {"name": "person@2.0", "bytes": 200_000, "latency": "400ms"}}
RELEASES = [{"name": "r1", "images": MODEL}]


class HandClock:
    """A clock that a test sets."""

    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def slow(factor: float, *, begins: float = 0.0, only_in_the_dark: bool = False) -> Strike:
    return Strike(begins, factor, only_in_the_dark)


def night(begin: float, end: float) -> float:
    """It is dark from 100 s to 200 s."""
    return max(0.0, min(end, 200.0) - max(begin, 100.0))


def reckon(seconds: float, period: float, load: Load) -> tuple[int, float]:
    """Inferences and core seconds of a device that was on for a time."""
    clock = HandClock()
    inference = VirtualInference(period, clock=clock, dark_seconds=night)  # type: ignore[arg-type]  # only monotonic
    inference.switch_on()
    clock.seconds = seconds
    figures = inference.figures([load])[load.core]
    return figures.events, figures.core_ms / 1000


@pytest.mark.parametrize(
    ("period", "latency", "slowed", "events", "core_seconds"),
    [
        (1.0, 0.3, (), 300, 90.0),
        (0.2, 0.3, (), 1000, 300.0),  # as often as it can
        (1.0, 0.3, (slow(2.0, begins=150.0),), 300, 135.0),
        (1.0, 0.3, (slow(3.0, only_in_the_dark=True),), 300, 150.0),  # a third of the time is dark
        (1.0, 0.3, (slow(3.0, begins=150.0, only_in_the_dark=True),), 300, 120.0),
        (1.0, 0.3, (slow(2.0), slow(1.5)), 300, 270.0),
        (1.0, 0.3, (slow(2.0), slow(2.0, only_in_the_dark=True)), 283, 220.0),
    ],
)
def test_cores_compute_for_as_long_as_their_models_take(
    period: float, latency: float, slowed: tuple[Strike, ...], events: int, core_seconds: float
) -> None:
    """In five minutes, of which it is dark from the second minute on for a hundred seconds."""
    found = reckon(300.0, period, Load(Core.M4_0, "m@1", latency, slowed))
    assert found[0] == pytest.approx(events, abs=1)
    assert found[1] == pytest.approx(core_seconds)


def test_core_that_hangs_computes_until_the_watchdog_bites() -> None:
    """Again and again, with a reset in between."""
    events, core_seconds = reckon(300.0, 1.0, Load(Core.M4_0, "m@1", 5.0))
    assert events == math.floor(300_000 / (WATCHDOG_MS + RESET_MS))
    assert core_seconds == pytest.approx(300_000 / (WATCHDOG_MS + RESET_MS) * WATCHDOG_MS / 1000)


def counts(told: Told) -> dict[str, dict[str, Any]]:
    """The figures of each device's cores, by its id."""
    return {str(event["device"]): dict(event["cores"]) for event in told.named("counts")}


def test_slow_release_costs_the_defective_devices_latency_and_energy() -> None:
    """By its factor from its time on; the others, and the other core, go on as they are."""
    faults = [{"release": "r1", "kind": "slow", "share": 0.5, "after": "30m", "factor": 3}]
    told = run(scenario(releases=RELEASES, release_faults=faults, length="2h"))
    assert told.running() == 40
    by_latency: dict[int, list[float]] = {}
    for cores in counts(told).values():
        assert cores[M4_1]["p50_ms_m4"] == 300
        by_latency.setdefault(round(cores[M4_0]["p50_ms_m4"]), []).append(cores[M4_0]["core_ms"])
    assert {latency: len(found) > 5 for latency, found in by_latency.items()} == {400: True, 1200: True}
    assert min(by_latency[1200]) > 1.8 * max(by_latency[400])


def test_energy_of_a_fleet_has_what_its_slow_cores_take() -> None:
    """The record of the run, as `--json` writes it."""

    def energy(**changes: Any) -> float:
        fleet = [{"name": "cameras", "devices": 10, "fidelity": "virtual", "inference_period": "2s"}]
        told = run(scenario(fleets=fleet, releases=RELEASES, length="3h", **changes))
        tally = RunTally(told.scenario, started_at=told.scenario.start)
        for event in told.events:
            tally.hear(event)
        (record,) = tally.report().fleets
        assert record.inferences == pytest.approx(2 * 10 * 3 * 3600 / 2, rel=0.01)
        return record.energy.inference

    usual, slow = energy(), energy(release_faults=[{"release": "r1", "kind": "slow", "factor": 2}])
    assert usual == pytest.approx(10 * 3 * 3600 / 2 * (0.3 + 0.4) * EnergyModel().m4_watts, rel=0.05)
    assert 1.45 < slow / usual < 1.6


def test_only_the_sample_infers_and_nobody_without_inference() -> None:
    """As in the other fidelities."""
    fleets = [
        {"name": "some", "devices": 10, "fidelity": "virtual", "inference_sample": 3},
        {"name": "none", "devices": 10, "fidelity": "virtual", "inference": "none"},
    ]
    told = run(scenario(fleets=fleets, rollouts=[], length="1h"))
    assert len(counts(told)) == 3


def test_device_without_power_computes_nothing() -> None:
    """Half of an hour off is half of the inferences."""
    happenings = [{"at": "30m", "kind": "reboot", "lasts": "30m"}]
    told = run(scenario(4, rollouts=[], length="1h", happenings=happenings))
    assert {cores[M4_0]["events"] for cores in counts(told).values()} == {1800}


def test_golden_vectors_take_as_long_as_the_model() -> None:
    """Eight of them and three frames; a slower model's trial takes longer by eleven times the difference."""

    def seconds(latency: str) -> float:
        images = {"m4-0/model": {**MODEL["m4-0/model"], "latency": latency}}
        told = run(scenario(1, releases=[{"name": "r1", "images": images}]))
        trial, confirmed = (told.named("update", state=state)[0]["time"] for state in ("trial", "confirmed"))
        return (datetime.fromisoformat(confirmed) - datetime.fromisoformat(trial)).total_seconds()

    assert seconds("1300ms") - seconds("300ms") == pytest.approx(11.0)
