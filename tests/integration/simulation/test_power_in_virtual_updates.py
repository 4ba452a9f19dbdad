"""Virtual updates take time, so the power can fail in the middle of one; then the device's own recovery goes on."""

import random

import pytest

from device_sim.cores.device_time import DeviceTime
from device_sim.errors import PowerCutError
from device_sim.hardware.spare import Spare
from protocol.flash_geometry import FlashLayout
from protocol.geometry import HOME_BYTES, Slot
from service.domain.rollout import RolloutState
from simulation.clock import VirtualClock
from simulation.devices.flash import VirtualFlash
from tests.integration.simulation.virtual_scenarios import Told, run, scenario

IN_AN_UPDATE = {"downloading", "installing", "trial"}
SECTORS, PAGES = 49, 782  # of 200,000 bytes


def hit_in_updates(told: Told) -> set[str]:
    """Return the devices whose power failed in the middle of an update."""
    state: dict[str, str] = {}
    hit = set()
    for event in told.events:
        if event["event"] in {"update", "reverted"}:
            state[event["device"]] = event["state"]
        elif event["event"] == "power" and not event["on"] and state.get(event["device"]) in IN_AN_UPDATE:
            hit.add(event["device"])
    return hit


def fleet(**changes: object) -> list[dict[str, object]]:
    return [{"name": "cameras", "devices": 200, "fidelity": "virtual", **changes}]


def virtual_flash(every: int = 0) -> VirtualFlash:
    clock = VirtualClock(scenario().start)
    rng = random.Random(3)  # noqa: S311 - repeatable
    return VirtualFlash(FlashLayout(), clock=clock, idle=DeviceTime(clock), brown_out_every=every, rng=rng)


def test_power_cuts_hit_updates_and_every_device_takes_them_up_again() -> None:
    """An image on trial reverts at the next boot and is tried again; a half written one goes on."""
    rollouts = [{"release": "r1", "at": "5m", "stages": [{"percent": 100}], "error_percent": 20}]
    told = run(scenario(fleets=fleet(power={"per_day": 700, "lasts": ["5s", "30s"]}), rollouts=rollouts))
    hit = hit_in_updates(told)
    assert len(hit) > 5
    cut_trials = {event["device"] for event in told.named("trial-cut")}
    assert cut_trials
    assert cut_trials <= hit
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 200


def test_storm_in_the_middle_of_updates_ends_with_every_device_confirmed() -> None:
    """All begin at once, and two seconds later nobody has power."""
    happenings = [{"at": "302s", "kind": "reboot", "lasts": "10s"}]
    rollouts = [{"release": "r1", "at": "5m", "stages": [{"percent": 100}]}]
    told = run(scenario(fleets=fleet(), happenings=happenings, rollouts=rollouts))
    assert len(hit_in_updates(told)) == 200
    assert told.running() == 200


def test_update_takes_the_time_of_its_flash_work() -> None:
    """Erases and programs of the spare, the trial's start and its golden vectors; the copy home follows."""
    told = run(scenario(1))
    (device,) = told.world.devices.values()
    begun, ended = (told.named("update", state=state)[0]["time"] for state in ("downloading", "confirmed"))
    spare = SECTORS * 0.045 + PAGES * 0.0004
    assert begun < told.world.clock.at(300 + spare).isoformat() < ended
    assert device.machine.flash.operations == 2 * (SECTORS + PAGES)


def test_update_does_not_wait_for_its_flash_where_the_scenario_says_so() -> None:
    """As with devices that are not virtual."""
    told = run(scenario(1, waits_for_flash=False))
    assert told.named("update", state="downloading")[0]["time"] == told.named("update", state="confirmed")[0]["time"]


def test_slots_are_as_large_as_the_revision_says() -> None:
    """An image that does not fit is refused by the device; one with two places is not copied home."""
    sizes = {slot.value: 64 * 1024 for slot in HOME_BYTES}
    small = {"size_bytes": 512 * 1024, "spare_bytes": 64 * 1024, "slot_bytes": sizes}
    both = {"size_bytes": 1024 * 1024 * 2, "two_places": [Slot.M4_0_MODEL.value]}
    hardware = {"small": {"geometry": small}, "both": {"geometry": both}}
    told = run(scenario(fleets=fleet(hardware={"small": 0.5, "both": 0.5}), hardware=hardware))
    assert told.rollout.state is RolloutState.HALTED
    (detail,) = {event["detail"] for event in told.named("update", state="failed")}
    assert "expected 1 to 65536 bytes, found 200000" in detail
    operations = {event["flash_operations"] for event in told.named("counts")}
    assert operations == {0, SECTORS + PAGES}


def test_brown_out_strikes_at_an_erase_or_a_program() -> None:
    """Once the operations until then are used up; what was programmed before stays."""
    flash = virtual_flash(every=500)
    flash.switch_on()
    with pytest.raises(PowerCutError, match="brown-out"):
        flash.erase(1 << 40)
    assert flash.operations > 0
    assert flash.program(4096) == 0
    healthy = virtual_flash()
    healthy.switch_on()
    assert healthy.program(5000) == 5000
    assert healthy.operations == 20


def test_power_cut_takes_what_the_flash_was_still_doing() -> None:
    """By the time that is left of it; an idle chip loses nothing."""
    flash = virtual_flash()
    assert flash.switch_off() == 0
    flash.program(2560)
    assert flash.switch_off() == 2560
    assert flash.time.flash_busy_seconds == 0


def test_cut_leaves_in_the_spare_what_was_programmed_by_then() -> None:
    """Nothing while the spare is being erased; later whole sectors, and the one that was begun is erased again."""
    told = Told(scenario(1, rollouts=[], length="1h"))
    (device,) = told.world.devices.values()
    machine, digest = device.machine, told.world.catalogue.releases[1].images[Slot.M4_0_MODEL].sha256
    machine.boot()
    machine.spare_begin(Slot.M4_0_MODEL, digest, 200_000)
    machine.spare_write(0, bytes(65_536))
    machine.lose_power()
    assert machine.spare == Spare()
    machine.spare_begin(Slot.M4_0_MODEL, digest, 200_000)
    machine.spare_write(0, bytes(65_536))
    told.world.clock.seconds += SECTORS * 0.045 + 100.5 * 0.0004
    machine.lose_power()
    before = machine.flash.operations
    assert machine.spare_begin(Slot.M4_0_MODEL, digest, 200_000) == 6 * 4096
    assert machine.flash.operations == before + 1


def test_brown_out_in_the_copy_home_leaves_a_confirmed_image_to_the_next_boots() -> None:
    """Each goes on where the last one ended; the image counts as confirmed all the while."""
    hardware = {"weak": {"defects": [{"kind": "brown-out", "every": 150}]}}
    rollouts = [{"release": "r1", "at": "5m", "stages": [{"percent": 100}], "error_percent": 99}]
    told = run(scenario(fleets=fleet(devices=10, hardware={"weak": 1.0}), hardware=hardware, rollouts=rollouts))
    cut = told.named("power", on=False)
    assert len(cut) > 50
    assert told.running() == 10
    assert not told.named("crashed")
