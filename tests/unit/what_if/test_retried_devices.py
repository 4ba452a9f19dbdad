"""Devices that are given the release again: what becomes of them, and what the engine's counters say of it."""

from typing import Any

import pytest

from protocol.messages import ActionState, Cause
from protocol.plan import Retries
from service.domain.rollout import RolloutState
from simulation.what_if.fleet import Ending, model_of
from simulation.what_if.limits import not_simulated
from simulation.what_if.retrying import tried_again
from tests.unit.what_if.what_if_parts import fault, preset, run, scenario_of

HALF = 0.5  # of the attempts fail
TWICE = Retries(most=2, causes=(Cause.DOWNLOAD,))
CANARY: Any = [{"count": 10, "soak": "1h", "resolved": 1.0}, {"percent": 100}]


def shares(*, retries: Retries | None, kind: str = "drift") -> dict[Ending, float]:
    model = model_of(scenario_of(100), base_failure=HALF, faults=[fault(kind, 0.2)])
    (found,) = tried_again(model, retries).kinds
    return dict(found.endings)


def test_base_failures_fail_each_attempt_anew() -> None:
    """Of the devices that it strikes at first, half confirm at the second attempt, a quarter at the third."""
    every = shares(retries=TWICE)
    assert sum(every.values()) == pytest.approx(1.0)
    found = {(ending.state, ending.earlier): share for ending, share in every.items() if not ending.is_harmed}
    assert found[ActionState.CONFIRMED, 1] == pytest.approx(0.8 * HALF * HALF)
    assert found[ActionState.CONFIRMED, 2] == pytest.approx(0.8 * HALF**3)
    assert found[ActionState.FAILED, 2] == pytest.approx(0.8 * HALF**3)


def test_release_that_cannot_be_downloaded_fails_every_attempt() -> None:
    """What is wrong with it is wrong the next time."""
    found = [(ending, share) for ending, share in shares(retries=TWICE, kind="download").items() if ending.is_harmed]
    assert found == [
        (Ending(ActionState.FAILED, Cause.DOWNLOAD, is_harmed=True, earlier=2, blamed=Cause.DOWNLOAD), 0.2)
    ]


def test_nothing_is_tried_again_without_retries() -> None:
    """Nor for another cause."""
    assert shares(retries=None) == shares(retries=Retries(causes=(Cause.FLASH,)))


@pytest.mark.parametrize("each", [True, False])
def test_counters_add_up_while_devices_try_again(*, each: bool) -> None:
    """Every device ends once; those that are waiting to try again have no result."""
    plan = preset("standard", retries={"most": 2, "pause": "1h", "causes": ["download"]}, stages=[{"percent": 100}])
    ended = run(plan, scenario_of(5000), base_failure=0.019, each=each)
    assert ended.state is RolloutState.FINISHED
    assert ended.exposed == ended.confirmed + ended.failed == 5000
    assert ended.failed <= 3
    assert ended.seconds >= 3600
    assert all(moment.confirmed + moment.failed <= moment.exposed for moment in ended.timeline)


def test_canary_of_ten_waits_for_a_retry_instead_of_asking() -> None:
    """At 2 % one in six canaries of ten has a failure: it confirms later, and the rollout goes on."""
    retries = {"most": 2, "pause": "1h", "causes": ["download"]}
    alone = [
        run(preset("careful", stages=CANARY, retries=None), scenario_of(3000), base_failure=0.02, seed=seed)
        for seed in range(40)
    ]
    again = [
        run(preset("careful", stages=CANARY, retries=retries), scenario_of(3000), base_failure=0.02, seed=seed)
        for seed in range(40)
    ]
    assert sum(ended.state is RolloutState.PAUSED and ended.exposed == 10 for ended in alone) >= 2
    assert not [ended for ended in again if ended.exposed == 10]


def test_silence_is_not_tried_again_here_and_the_answer_says_so() -> None:
    """Whatever the plan says of it."""
    plan = preset("standard", retries={"causes": ["download", "silent"]})
    assert not_simulated(plan) == ("retries.causes: a device that fell silent is not tried again",)
