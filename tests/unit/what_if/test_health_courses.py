"""What strikes devices after they have confirmed, and what gates against a control arm make of it."""

from typing import Any

import pytest

from service.domain.rollout import RolloutState
from simulation.what_if.limits import not_simulated
from tests.unit.what_if.what_if_parts import fault, preset, run, scenario_of

DRIFT, SLOW = fault("drift", 1.0, after="1d"), fault("slow", 1.0, after="1d")
STAGES: Any = [{"percent": 10, "soak": "26h"}, {"percent": 100}]


def gates(**more: Any) -> dict[str, Any]:
    """Return evidence with a gate on drift."""
    return {"kind": "evidence", "control": [{"events": ["drift"], **more}]}


@pytest.mark.parametrize("each", [True, False])
def test_drift_after_a_day_is_halted_within_the_first_stage(*, each: bool) -> None:
    """The stage is watched for longer than a day; a tenth of the fleet was exposed, nobody else."""
    ended = run(preset("standard", stages=STAGES, gates=gates()), scenario_of(), DRIFT, each=each)
    assert ended.state is RolloutState.HALTED
    assert ended.exposed == ended.harmed == 2000
    assert 24 * 3600 < ended.seconds < 28 * 3600
    assert "gate control" in ended.reason


def test_drift_reaches_everybody_where_no_gate_looks() -> None:
    """As every plan without a control arm has it."""
    ended = run(preset("standard", stages=STAGES), scenario_of(), DRIFT)
    assert (ended.state, ended.exposed) == (RolloutState.FINISHED, 20_000)


def test_gate_counts_what_it_was_told_to() -> None:
    """A release that slows down is nothing to a gate on drift."""
    assert run(preset("standard", stages=STAGES, gates=gates()), scenario_of(), SLOW).state is RolloutState.FINISHED
    slow = gates(events=["slow"], slow_ms=100)
    assert run(preset("standard", stages=STAGES, gates=slow), scenario_of(), SLOW).state is RolloutState.HALTED


def test_healthy_release_is_not_halted_by_what_strikes_devices_anyway() -> None:
    """In either arm alike."""
    runs = [run(preset("standard", stages=STAGES, gates=gates()), scenario_of(), seed=seed) for seed in range(40)]
    assert {ended.state for ended in runs} == {RolloutState.FINISHED}


def test_share_that_drifts_is_enough() -> None:
    """One device in twenty, beside one window in a thousand of all the others."""
    ended = run(preset("standard", stages=STAGES, gates=gates()), scenario_of(), fault("drift", 0.05, after="1d"))
    assert ended.state is RolloutState.HALTED
    assert ended.exposed == 2000


def test_silence_of_confirmed_devices_and_means_are_left_out() -> None:
    """The answer says so."""
    plan = preset(
        "standard",
        gates={
            **gates(events=["drift", "offline"]),
            "means": [{"name": "latency", "metric": "latency", "core": "m4-0", "margin": 5}],
        },
    )
    assert not_simulated(plan) == (
        "gates.means: nothing tells of latency, confidence or memory",
        "gates.control.offline: devices that have confirmed do not fall silent",
    )
