"""Whole rollouts over virtual devices: healthy ones end, bad ones stop, and whatever happens meanwhile is survived."""

from datetime import datetime

import pytest

from protocol.messages import ActionState
from service.domain.rollout import RolloutState
from simulation.errors import VirtualScenarioError
from simulation.run import check_run
from tests.integration.simulation.virtual_scenarios import Told, run, scenario

LOSSY = {"latency": "200ms", "jitter": "50ms", "loss": 0.05, "bytes_per_second": 50_000}


def test_healthy_rollout_ends_with_every_device_confirmed() -> None:
    """In stages, one after the other, each watched for its time."""
    told = run(scenario(40))
    assert told.rollout.state is RolloutState.FINISHED
    assert [stage.counts.succeeded for stage in told.rollout.stages] == [4, 36]
    assert told.running() == 40
    confirmed = told.named("update", state=ActionState.CONFIRMED.value)
    assert len({event["device"] for event in confirmed}) == 40
    first, second = (stage.soak_ends_at for stage in told.rollout.stages)
    assert first is not None
    assert second is not None
    assert all(event["time"] >= first.isoformat() for event in confirmed[4:])
    assert (second - first).total_seconds() >= 600
    assert not told.named("crashed")


@pytest.mark.parametrize("kind", ["golden-vectors", "boot", "verify", "flash", "download"])
def test_bad_release_stops_itself_within_its_first_stage(kind: str) -> None:
    """The failure's own cause is reported, and no more devices than the stage holds were given the release."""
    faults = [{"release": "r1", "kind": kind, "share": 0.5}]
    told = run(scenario(200, release_faults=faults))
    assert told.rollout.state is RolloutState.HALTED
    assert told.rollout.stages[0].counts.exposed <= 20
    assert told.rollout.stages[1].counts.size == 0
    failed = told.named("update", state="failed") + told.named("reverted")
    assert {event["cause"] for event in failed} == {kind}
    assert told.running() <= 20


def test_release_that_bricks_is_stopped_by_silence() -> None:
    """Nobody hears of the devices again, so the deadline decides; the cap of the stage holds."""
    faults = [{"release": "r1", "kind": "brick", "share": 0.5}]
    told = run(scenario(100, release_faults=faults))
    assert told.rollout.state is RolloutState.HALTED
    counts = told.rollout.stages[0].counts
    assert counts.exposed <= 10
    assert counts.failed > 0
    bricked = [device for device in told.world.devices.values() if device.machine.is_bricked]
    assert len(bricked) == counts.failed
    assert told.named("power", on=False)
    assert not any(device.is_on for device in bricked)


def test_release_that_goes_back_without_saying_so_is_refused_by_every_device() -> None:
    """The protocol's own rule, on devices that run the newer image."""
    releases = [
        {"name": "r1", "images": {"m4-0/model": {"name": "person@2.0", "bytes": 1000}}},
        {"name": "r2", "images": {"m4-0/model": {"name": "person@1.0", "bytes": 1000}}},
    ]
    stages = [{"percent": 100}]
    rollouts = [{"release": "r1", "at": "5m", "stages": stages}, {"release": "r2", "at": "30m", "stages": stages}]
    told = run(scenario(20, releases=releases, rollouts=rollouts))
    states = [stored.rollout.state for stored in told.operator.rollouts().values()]
    assert states == [RolloutState.FINISHED, RolloutState.HALTED]
    assert told.running("person@2.0") == 20


def test_outage_of_a_region_delays_its_devices_and_halts_nothing() -> None:
    """They take the release by their own polls once the region is back."""
    regions = {"north": {"network": {"outages": [{"start": "4m", "lasts": "40m"}]}}}
    fleets = [{"name": "cameras", "devices": 40, "fidelity": "virtual", "regions": {"north": 0.5}}]
    told = run(scenario(regions=regions, fleets=fleets))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 40
    away = {event["device"] for event in told.named("disconnected")}
    assert 5 < len(away) < 35
    end = told.world.clock.at(44 * 60).isoformat()
    confirmed = told.named("update", state="confirmed")
    assert all(event["time"] >= end for event in confirmed if event["device"] in away)


def test_poor_networks_slow_a_rollout_down_and_let_it_end() -> None:
    """Latency, jitter, loss and a narrow link, and a NAT that forgets silent links."""
    regions = {"far": {"utc_offset": 2, "network": {**LOSSY, "nat_timeout": "20s"}}}
    fleets = [{"name": "cameras", "devices": 20, "fidelity": "virtual", "regions": {"far": 1.0}}]
    told = run(scenario(regions=regions, fleets=fleets))
    quick = run(scenario(20))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 20
    assert told.world.clock.seconds >= quick.world.clock.seconds

    def longest(one: Told) -> float:
        begun = {event["device"]: event["time"] for event in reversed(one.named("update", state="downloading"))}
        ended = {event["device"]: event["time"] for event in one.named("update", state="confirmed")}
        return max(_seconds(ended[device]) - _seconds(begun[device]) for device in begun)

    assert longest(told) > max(200_000 / 50_000, longest(quick))


def test_devices_that_are_offline_at_night_update_in_the_morning() -> None:
    """The hours are those of their region."""
    regions = {"east": {"utc_offset": 2, "network": {"offline_hours": ["10:02-14:00"]}}}
    fleets = [{"name": "cameras", "devices": 10, "fidelity": "virtual", "regions": {"east": 1.0}}]
    patient = [{"release": "r1", "at": "5m", "stages": [{"percent": 100}], "action_timeout": "6h"}]
    told = run(scenario(regions=regions, fleets=fleets, rollouts=patient))
    assert told.rollout.state is RolloutState.FINISHED
    assert {event["time"][11:13] for event in told.named("update", state="confirmed")} <= {"12", "13"}


def test_device_that_dozes_polls_as_often_as_one_that_does_not() -> None:
    """What is made up for is what each poll would have come to: a metered device makes every one of its own."""
    budget = {"metered_bytes_per_day": 10**12}
    fleets = [
        {"name": name, "devices": 30, "fidelity": "virtual", "regions": {"metered": share}}
        for name, share in (("dozing", 0.0), ("awake", 1.0))
    ]
    told = run(scenario(fleets=fleets, regions={"metered": {"network": budget}}))
    assert told.rollout.state is RolloutState.FINISHED
    requests = {
        name: sum(event["requests"] for event in told.named("wire", fleet=name)) for name in ("dozing", "awake")
    }
    assert requests["dozing"] == pytest.approx(requests["awake"], rel=0.03)
    assert requests["dozing"] > 30 * 200
    assert told.running() == 60


def test_reboot_storm_in_mid_rollout_ends_with_every_device_confirmed() -> None:
    """Everybody boots, attests and reports again; updates that were cut begin anew."""
    happenings = [{"at": "301s", "kind": "reboot"}, {"at": "16m", "kind": "reboot", "lasts": "30s"}]
    regions = {"slow": {"network": {"bytes_per_second": 2_000}}}
    fleets = [{"name": "cameras", "devices": 30, "fidelity": "virtual", "regions": {"slow": 1.0}}]
    told = run(scenario(happenings=happenings, regions=regions, fleets=fleets))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 30
    assert len(told.named("booted")) == 90
    assert [event["devices"] for event in told.named("happening")] == [30, 30]


def test_power_cuts_in_mid_update_revert_what_was_unconfirmed_and_lose_nothing() -> None:
    """Brown-outs strike in flash operations, cycles at any time; every update ends or is tried again."""
    fleets = [
        {
            "name": "cameras",
            "devices": 30,
            "fidelity": "virtual",
            "hardware": {"weak": 1.0},
            "power": {"per_day": 40, "lasts": ["5s", "60s"]},
        }
    ]
    hardware = {"weak": {"defects": [{"kind": "brown-out", "every": 300}]}}
    told = run(scenario(fleets=fleets, hardware=hardware))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 30
    assert len(told.named("booted")) > 30
    assert not told.named("crashed")


def test_clocks_that_drift_end_the_same() -> None:
    """A device learns the time at attestation; what its crystal makes of it refuses nothing."""
    fleets = [
        {
            "name": "cameras",
            "devices": 20,
            "fidelity": "virtual",
            "clocks": {"offset": "10m", "drift_ppm": 20_000},
        }
    ]
    told = run(scenario(fleets=fleets))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 20
    assert not told.named("retry")


def test_service_that_is_killed_in_mid_rollout_goes_on_from_what_it_stored() -> None:
    """Its memory of polls, standings and signatures is gone; devices come back by themselves."""
    told = Told(scenario(40))
    told.at(300.0, told.world.kill_service)
    told.at(700.0, told.world.start_service)
    told.at(1500.0, told.world.kill_service)
    told.at(1530.0, told.world.start_service)
    told.run()
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 40
    assert len(told.named("disconnected")) == 80
    confirmed = told.named("update", state="confirmed")
    assert len(confirmed) == 40


def test_clone_of_a_device_is_suspected() -> None:
    """Two boots take turns with one identity, as the service's own rule sees it."""
    happenings = [{"at": "10m", "kind": "clone", "share": 0.01}]
    told = Told(scenario(10, happenings=happenings, rollouts=[], length="3d")).run()
    ((device_id, copies),) = told.world.copies.items()
    assert len(copies) == 1
    assert len(told.named("booted", device=device_id)) == 2
    assert _suspected(told) == [device_id]


def test_dozing_device_that_is_blocked_loses_its_access_at_its_next_poll() -> None:
    """A change of its standing rouses it."""
    told = Told(scenario(3, rollouts=[], length="2h"))
    device_id = next(iter(told.world.devices))
    told.at(3600.0, lambda: told.block(device_id))
    told.run()
    (lost,) = told.named("access-lost")
    assert lost["device"] == device_id
    assert 3600 < (_seconds(lost["time"]) - told.scenario.start.timestamp()) < 3600 + 75
    assert {event["device"] for event in told.named("refused")} == {device_id}


def test_thief_is_not_let_in_again() -> None:
    """A debugger shows in the evidence."""
    happenings = [{"at": "10m", "kind": "theft", "share": 0.01, "lasts": "1h"}]
    told = Told(scenario(10, happenings=happenings, rollouts=[], length="2h")).run()
    refused = {event["device"] for event in told.named("refused")}
    assert len(refused) == 1
    assert "life-cycle" in told.named("refused")[0]["reason"]


def test_confirmed_release_that_crashes_in_the_dark_waits_for_it() -> None:
    """Until the light goes nothing happens; then devices reset again and again."""
    faults = [{"release": "r1", "kind": "crash-loop", "after": "1m", "only_in_the_dark": True}]
    happenings = [{"at": "2h", "kind": "lighting", "level": 0.1}]
    told = run(scenario(10, release_faults=faults, happenings=happenings, length="3h"))
    dark = told.world.clock.at(2 * 3600).isoformat()
    boots = told.named("booted")
    assert len([event for event in boots if event["time"] < dark]) == 10
    assert len(boots) > 100


def test_scenario_without_virtual_devices_or_an_end_is_refused() -> None:
    """Before anything begins."""
    full = [{"name": "cameras", "devices": 2, "fidelity": "light"}]
    with pytest.raises(VirtualScenarioError, match="fidelity: virtual"):
        check_run(scenario(fleets=full, rollouts=[], length="1h"))
    with pytest.raises(VirtualScenarioError, match="expected rollouts or a length"):
        check_run(scenario(rollouts=[]))


def _suspected(told: Told) -> list[str]:
    return [
        device_id
        for device_id in told.world.devices
        if (found := told.device(device_id)) is not None and found.clone_suspected_at is not None
    ]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
