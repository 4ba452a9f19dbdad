"""The record is what the events said: each device in one state, each result counted once, nothing lost at a restart."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from device_sim.reporting.energy import EnergyModel
from device_sim.reporting.record import DeviceState, RunReport
from device_sim.reporting.tally import UNNAMED, RunTally
from device_sim.reporting.timeline import MAX_POINTS, Timeline
from protocol.scenario import Scenario

START = datetime(2026, 1, 5, 8, tzinfo=UTC)


class Events:
    """Builds events and folds them."""

    def __init__(self, scenario: Scenario | None = None) -> None:
        self.tally = RunTally(scenario or Scenario(), started_at=START)

    def at(self, seconds: float, event: str, device: str | None = "d1", **fields: Any) -> "Events":
        line: dict[str, Any] = {"event": event, "time": (START + timedelta(seconds=seconds)).isoformat(), **fields}
        if device is not None:
            line["device"] = device
        self.tally.hear(line)
        return self

    @property
    def report(self) -> RunReport:
        return self.tally.report()


def test_device_moves_from_boot_to_online() -> None:
    """Each device is in one state; the last event decides."""
    events = Events().at(0, "booted").at(1, "attested").at(2, "connected").at(0, "booted", device="d2")
    (fleet,) = events.report.fleets
    assert (fleet.name, fleet.devices, fleet.boots) == (UNNAMED, 2, 2)
    assert fleet.states == {DeviceState.ONLINE: 1, DeviceState.BOOTED: 1}


def test_update_returns_to_where_the_link_is() -> None:
    """A link that breaks during an update does not end it; afterwards the device is what its link is."""
    events = Events().at(0, "booted").at(1, "connected")
    events.at(2, "update", state="downloading", action_id="a").at(3, "disconnected", code=7)
    assert events.report.fleets[0].states == {DeviceState.UPDATING: 1}
    events.at(4, "update", state="confirmed", action_id="a")
    assert events.report.fleets[0].states == {DeviceState.OFFLINE: 1}
    assert events.report.fleets[0].updates == {"confirmed": 1}


def test_repeated_result_counts_once() -> None:
    """A result that a device tells twice, as after a restart, is one failure of one cause."""
    events = Events()
    for second in (1, 2):
        events.at(second, "reverted", state="reverted", action_id="a", cause="golden-vectors", attack="rollback")
    (fleet,) = events.report.fleets
    assert (fleet.failures, fleet.attacks, fleet.updates) == ({"golden-vectors": 1}, {"rollback": 1}, {"reverted": 1})


def test_counter_that_falls_goes_on() -> None:
    """A device that was restarted counts from 0; the fleet's sum keeps what it did before."""
    events = Events()
    for sent in (100, 250, 40):
        events.at(1, "wire", bytes_sent=sent, bytes_received=0, requests=1)
    assert events.report.fleets[0].wire.bytes_sent == 290


def test_bytes_of_single_devices_are_told_beside_their_sum() -> None:
    """Both ways together; the one with the most is found among many, and a restart takes nothing from it."""
    events = Events()
    for number in range(1, 101):
        events.at(1, "wire", device=f"d{number}", bytes_sent=number, bytes_received=10 * number, requests=9)
    events.at(2, "wire", device="d7", bytes_sent=5000, bytes_received=70, requests=1)
    events.at(3, "wire", device="d7", bytes_sent=1, bytes_received=2, requests=1)
    (fleet,) = events.report.fleets
    found = fleet.wire_of_one
    assert (found.median, found.p95, found.most) == (51 * 11, 96 * 11, 5073)
    assert fleet.wire.bytes_sent + fleet.wire.bytes_received == 5050 * 11 - 77 + 5073


def test_fleet_of_which_nothing_was_heard_has_no_bytes() -> None:
    """No device, no median."""
    fleets = [{"name": "roof", "devices": 1}]
    (fleet,) = Events(Scenario.model_validate({"fleets": fleets})).report.fleets
    assert (fleet.wire_of_one.median, fleet.wire_of_one.most) == (0, 0)


def test_inferences_and_core_time_are_summed_over_cores() -> None:
    """Counts of both cores; their time is what models took on the M4."""
    cores = {"m4-0": {"events": 10, "core_ms": 3000.0}, "m4-1": {"events": 5, "core_ms": 0.0}}
    events = Events().at(0, "booted").at(10, "counts", sent=15, acknowledged=14, dropped=1, cores=cores)
    (fleet,) = events.report.fleets
    assert (fleet.inferences, fleet.messages_sent, fleet.messages_acknowledged, fleet.dropped) == (15, 15, 14, 1)
    assert fleet.energy.inference == pytest.approx(EnergyModel().m4_watts * 3.0)
    assert fleet.energy.standby == pytest.approx(EnergyModel().standby_watts * 10.0)


def test_model_that_is_swapped_leaves_the_energy_of_the_earlier_one() -> None:
    """A faster model adds what it took, and nothing is counted twice."""
    events = Events()
    for at, count, core_ms in ((1, 1000, 313_000.0), (2, 1001, 313_062.0)):
        cores = {"m4-0": {"events": count, "core_ms": core_ms, "p50_ms_m4": core_ms / count}}
        events.at(at, "counts", cores=cores, flash_operations=count)
    energy = events.report.fleets[0].energy
    assert energy.inference == pytest.approx(EnergyModel().m4_watts * 313.062)
    assert energy.flash == pytest.approx(EnergyModel().flash_joules * 1001)


def test_device_without_power_uses_none() -> None:
    """Standby energy runs only while there is power."""
    events = Events().at(0, "booted").at(10, "power", on=False).at(100, "power", on=True).at(101, "booted")
    events.at(105, "counts", cores={})
    (fleet,) = events.report.fleets
    assert fleet.energy.standby == pytest.approx(EnergyModel().standby_watts * 15.0)
    assert fleet.states == {DeviceState.BOOTED: 1}


def test_declared_fleets_come_in_their_order() -> None:
    """Fleets are those of the scenario, also the ones of which nothing was heard."""
    fleets = [{"name": "roof", "devices": 1}, {"name": "cellar", "devices": 1}]
    events = Events(Scenario.model_validate({"fleets": fleets})).at(0, "booted", fleet="cellar")
    assert [(fleet.name, fleet.devices) for fleet in events.report.fleets] == [("roof", 0), ("cellar", 1)]


def test_moments_of_rollouts_and_happenings_are_kept() -> None:
    """What concerns no single device is a moment on the time line."""
    events = Events().at(5, "rollout", device=None, rollout="r1", state="halted", detail="3 of 10 failed")
    events.at(9, "happening", device=None, kind="reboot", devices=4)
    report = events.report
    assert [(each.at, each.state) for each in report.rollouts] == [(5.0, "halted")]
    assert [(each.at, each.kind, each.devices) for each in report.happenings] == [(9.0, "reboot", 4)]


def test_crashed_device_is_counted() -> None:
    """A fault of the simulator is not hidden among the devices' own."""
    report = Events().at(1, "crashed", reason="KeyError").report
    assert (report.crashed, report.fleets[0].states) == (1, {DeviceState.CRASHED: 1})


def test_time_line_keeps_its_length() -> None:
    """Ten days of events are as many points as ten minutes; the counts of each point held then."""
    line = Timeline()
    line.advance(0.0, {"off": 1})
    line.advance(864_000.0, {"off": 0, "online": 1})
    assert MAX_POINTS / 2 <= len(line.points) <= MAX_POINTS
    assert line.points[0] == (0.0, {"off": 1})
    assert line.points[-1][1] == {"off": 0, "online": 1}
