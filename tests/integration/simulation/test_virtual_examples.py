"""The examples of virtual fleets do what their first lines say; with fewer devices."""

from datetime import timedelta
from pathlib import Path

from device_sim.fleets.scenario_file import read_scenario
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity
from service.domain.rollout import RolloutState
from tests.integration.simulation.virtual_scenarios import Told

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "scenarios"
KNOWN = {"canary-gone-wrong", "flaky-region", "reboot-storm"}  # each has a test here
IN_AN_UPDATE = {"downloading", "installing", "trial"}


def example(name: str, *, devices: int, length: timedelta | None = None) -> Told:
    """Run an example with so many devices in each fleet, and not for longer than is asked."""
    found = read_scenario(FOLDER / f"{name}.yaml")
    fleets = tuple(fleet.model_copy(update={"devices": devices}) for fleet in found.fleets)
    return Told(found.model_copy(update={"fleets": fleets, "length": length or found.length})).run()


def cut_in_updates(told: Told, at_seconds: float) -> int:
    """Return how many devices lost power at a moment while they updated."""
    moment = told.world.clock.at(at_seconds).isoformat()
    state: dict[str, str] = {}
    hit = 0
    for event in told.events:
        if event["event"] in {"update", "reverted"}:
            state[event["device"]] = event["state"]
        elif event["event"] == "power" and not event["on"] and event["time"] == moment:
            hit += state.get(event["device"]) in IN_AN_UPDATE
    return hit


def is_virtual(scenario: Scenario) -> bool:
    return any(fleet.fidelity is Fidelity.VIRTUAL for fleet in scenario.fleets)


def test_every_virtual_example_is_run_here() -> None:
    """A new one needs a test of its outcome."""
    assert {path.stem for path in FOLDER.glob("*.yaml") if is_virtual(read_scenario(path))} == KNOWN


def test_canary_halts_in_its_first_stage() -> None:
    """By the golden vectors of the second revision alone; nobody beyond the stage was given the release."""
    told = example("canary-gone-wrong", devices=400)
    assert told.rollout.state is RolloutState.HALTED
    assert told.rollout.stages[0].counts.exposed <= 20
    assert told.rollout.stages[1].counts.size == 0
    reverted = told.named("reverted")
    assert {event["cause"] for event in reverted} == {"golden-vectors"}
    assert {told.world.plans[event["device"]].hardware for event in reverted} == {"rev-b"}


def test_flaky_region_confirms_all_in_the_end() -> None:
    """Exchanges are lost and repeated; its outage delays whom it hits."""
    told = example("flaky-region", devices=20, length=timedelta(hours=6))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running("keyword-spotting@1.1.0") == 20
    outage_ends = told.world.clock.at(4 * 3600).isoformat()
    coast = {device for device, plan in told.world.plans.items() if plan.region == "coast"}
    late = {e["device"] for e in told.named("update", state="confirmed") if e["time"] >= outage_ends}
    assert late
    assert late <= coast


def test_reboot_storm_hits_the_middle_of_updates_and_all_end_confirmed() -> None:
    """Both times; trials that were cut revert and begin anew."""
    told = example("reboot-storm", devices=100)
    first, second = (happening.at.total_seconds() for happening in told.scenario.happenings)
    assert cut_in_updates(told, first) > 80
    assert cut_in_updates(told, second) > 30
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running("meter-reader@1.1.0") == 100
