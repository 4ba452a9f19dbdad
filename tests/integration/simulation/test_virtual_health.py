"""Virtual devices tell how their models do, so that rollouts halt by what happens after the update."""

from typing import Any

import pytest

from protocol.geometry import Core
from service.domain.model_health import CoreHealth
from service.domain.rollout import Rollout, RolloutState
from simulation.driving import drive
from simulation.errors import VirtualScenarioError
from tests.integration.simulation.virtual_scenarios import Told, run, scenario

DEVICES, CANARIES = 160, 30  # a gate on a mean uses up 100 of the others for its variance
DRIFT = {"name": "drift", "events": ["crash", "drift"]}
SLOW = {"name": "slow", "events": ["slow"], "slow_ms": 500}
SILENCE = {"name": "silence", "events": ["offline"]}
LATENCY = {"name": "latency", "metric": "latency", "core": "m4-0", "margin": 50}
ARENA = {"name": "arena", "metric": "arena", "core": "m4-0", "margin": 50}
NIGHT = {"at": "11h", "kind": "lighting", "level": 0.1, "lasts": "100h"}


def rollout(**gates: Any) -> dict[str, Any]:
    """A rollout over devices that have a past of eight hours."""
    stages = [{"count": CANARIES, "soak": "4h"}, {"percent": 100}]
    plan = {
        "stages": stages,
        "hold_out": {"percent": 10, "soak": "2h"},
        "gates": {"kind": "evidence", **gates},
        "device_timeout": "2h",
    }
    return {"release": "r1", "at": "8h", "plan": plan}


def end_of(gate: dict[str, Any], *, kind: str = "control", length: str = "22h", **changes: Any) -> Rollout:
    """How a rollout with one gate more stands in the end."""
    return run(scenario(DEVICES, rollouts=[rollout(**{kind: [gate]})], length=length, **changes)).rollout


def bad(kind: str, **changes: Any) -> list[dict[str, Any]]:
    return [{"release": "r1", "kind": kind, **changes}]


def test_release_whose_answers_drift_is_halted_by_control() -> None:
    """Its devices confirmed; what they tell is far from their own past, and control's is not."""
    found = end_of(DRIFT, release_faults=bad("drift"))
    assert found.state is RolloutState.HALTED
    assert "gate drift" in found.halted_reason
    assert [stage.counts.succeeded for stage in found.stages] == [CANARIES, 0, 0]
    assert found.figures["drift.control.events"] == 0


@pytest.mark.parametrize(("kind", "gate"), [("control", DRIFT), ("control", SLOW), ("means", LATENCY)])
def test_same_rollout_without_the_fault_finishes(kind: str, gate: dict[str, Any]) -> None:
    """The gates looked, and found nothing."""
    found = end_of(gate, kind=kind)
    assert found.state is RolloutState.FINISHED
    assert sum(stage.counts.succeeded for stage in found.stages) == DEVICES
    looked = "latency.pairs" if kind == "means" else f"{gate['name']}.canary.at_risk"
    assert int(found.figures[looked]) > CANARIES / 2


def test_night_that_falls_on_everybody_halts_nothing() -> None:
    """Canaries and control drift alike, in the same minutes; the release does nothing to it."""
    found = end_of(DRIFT, happenings=[NIGHT], length="16h")
    assert found.state is not RolloutState.HALTED
    assert int(found.figures["drift.canary.events"]) > CANARIES / 4
    assert int(found.figures["drift.control.events"]) > CANARIES
    assert float(found.figures["drift.ln_halt"]) < 0


def test_drift_that_waits_for_the_dark_is_halted_in_the_light_by_nothing() -> None:
    """It strikes only where a model is unsure already: without a night nothing is seen of it."""
    faults = bad("drift", only_in_the_dark=True)
    assert end_of(DRIFT, release_faults=faults).state is RolloutState.FINISHED


@pytest.mark.parametrize(("kind", "gate"), [("control", SLOW), ("means", LATENCY)])
def test_slow_release_is_halted_by_what_its_devices_tell(kind: str, gate: dict[str, Any]) -> None:
    """As an event beyond the plan's limit, or by the mean of pairs."""
    found = end_of(gate, kind=kind, release_faults=bad("slow", after="30m"))
    assert found.state is RolloutState.HALTED
    assert f"gate {gate['name']}" in found.halted_reason


def test_release_that_silences_its_devices_later_is_halted() -> None:
    """Devices of control doze meanwhile, and were heard of all the same."""
    found = end_of(SILENCE, release_faults=bad("brick", after="1h"))
    assert found.state is RolloutState.HALTED
    assert "gate silence" in found.halted_reason
    assert found.figures["silence.control.events"] == 0


def test_reports_wait_while_a_device_is_cut_off_and_come_once() -> None:
    """After an outage of hours the service has one window of each hour and core."""
    cut = {"at": "150m", "kind": "offline", "lasts": "3h"}
    told = Told(scenario(4, rollouts=[rollout(control=[DRIFT])], happenings=[cut], length="450m"))
    seen: list[int] = []
    told.at(5.4 * 3600, lambda: seen.extend(each.last.sequence for each in _health(told)))
    told.run()
    assert max(seen) <= 2 * 3
    assert {each.last.core for each in _health(told)} == {Core.M4_0, Core.M4_1}
    assert all(each.past.windows in {7, 8} for each in _health(told))


def test_devices_that_no_rollout_looks_at_tell_nothing() -> None:
    """Their reports would cost, and change nothing."""
    assert not _health(run(scenario(4, length="3h")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"release_faults": bad("drift")}, "release_faults.0: expected models that infer, and a plan .* drift alone"),
        ({"rollouts": [rollout(means=[ARENA])]}, "rollouts.0.plan, gate arena: expected latency .* found arena"),
    ],
)
def test_what_no_virtual_device_would_show_is_refused(changes: dict[str, Any], message: str) -> None:
    """A drift that nobody looks at, and the memory of models that are not there."""
    with pytest.raises(VirtualScenarioError, match=message):
        Told(scenario(**changes))


def _health(told: Told) -> list[CoreHealth]:
    async def find() -> list[CoreHealth]:
        async with told.world.database(read_only=True) as work:
            return list((await work.health.of(told.world.devices)).values())

    return drive(find())
