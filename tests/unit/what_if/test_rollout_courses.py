"""Rollouts run by the engine: counters, caps, halts, silence, and how exact the quick runs are."""

from itertools import pairwise

import numpy as np
import pytest

from service.domain.rollout import RolloutState
from simulation.what_if.course import FINE
from simulation.what_if.limits import not_simulated
from tests.unit.what_if.what_if_parts import fault, preset, run, scenario_of

BAD = fault("boot", 0.1)
TOLERANCE = 0.15  # of medians of quick runs beside exact ones


@pytest.mark.parametrize("each", [True, False])
def test_healthy_release_reaches_everybody(*, each: bool) -> None:
    """Every device ends once, and time and counters only rise."""
    ended = run(preset("standard"), scenario_of(), each=each)
    assert ended.state is RolloutState.FINISHED
    assert ended.exposed == ended.confirmed + ended.failed == 20_000
    assert ended.harmed == 0
    assert ended.failed == pytest.approx(200, abs=60)
    for before, after in pairwise(ended.timeline):
        assert after.confirmed + after.failed <= after.exposed
        assert after.seconds >= before.seconds
        assert after.exposed >= before.exposed
        assert after.confirmed >= before.confirmed
        assert after.failed >= before.failed


@pytest.mark.parametrize("each", [True, False])
def test_exposure_never_passes_the_stages_that_are_open(*, each: bool) -> None:
    """A percent is 200 of 20,000, a tenth 2,000; each stage soaks for hours before the next one opens."""
    timeline = run(preset("standard"), scenario_of(), each=each).timeline
    assert {moment.exposed for moment in timeline if moment.seconds < 2 * 3600} <= set(range(201))
    assert {moment.exposed for moment in timeline if moment.seconds < 6 * 3600} <= set(range(2001))
    assert max(moment.exposed for moment in timeline) == 20_000


@pytest.mark.parametrize("each", [True, False])
def test_concurrency_limits_who_is_at_it(*, each: bool) -> None:
    """Never more than fifty without a result."""
    plan = preset("standard", pace={"concurrency": 50}, stages=[{"percent": 100}])
    ended = run(plan, scenario_of(1000), each=each)
    assert ended.state is RolloutState.FINISHED
    assert max(m.exposed - m.confirmed - m.failed for m in ended.timeline) <= 50


def test_rate_limits_how_fast_devices_are_let_in() -> None:
    """Ten a minute: no more than that have it after any time, and the last about when they should."""
    plan = preset("standard", pace={"per_minute": 10}, stages=[{"percent": 100}])
    ended = run(plan, scenario_of(1000), each=True, precision=FINE)
    assert all(moment.exposed <= moment.seconds / 6 + 2 for moment in ended.timeline)
    assert 6000 <= ended.seconds <= 6800


def test_bad_release_is_halted() -> None:
    """Long before the first stage is through."""
    runs = [run(preset("standard"), scenario_of(200_000), BAD, seed=seed) for seed in range(30)]
    assert {ended.state for ended in runs} == {RolloutState.HALTED}
    assert max(ended.exposed for ended in runs) <= 1000
    assert all(0 < ended.harmed < ended.exposed for ended in runs)
    assert "gate failures" in runs[0].reason


def test_devices_that_brick_silently_are_not_promoted() -> None:
    """Silence never lets a stage pass: a person is asked, and no further stage opens."""
    ended = run(preset("standard"), scenario_of(100_000), fault("brick", 0.1))
    assert ended.state is RolloutState.PAUSED
    assert ended.exposed == 1000
    assert "neither halts nor passes" in ended.reason
    assert ended.seconds >= 24 * 3600


def test_devices_that_nobody_reaches_are_not_exposed() -> None:
    """Half of the fleet is out for longer than the time-out: they count as failed, and never had the release."""
    scenario = scenario_of(
        regions={"far": {"network": {"outages": [{"start": "0s", "lasts": "10d"}]}}}, fleet={"regions": {"far": 0.5}}
    )
    ended = run(preset("standard", stages=[{"percent": 100, "resolved": 0.4}]), scenario)
    assert ended.exposed == pytest.approx(10_000, abs=400)
    assert ended.confirmed + ended.failed == 20_000


def test_drift_after_the_confirmation_is_seen_by_nobody() -> None:
    """What this engine does not see yet: everybody is harmed."""
    ended = run(preset("standard"), scenario_of(), fault("drift", 1.0, after="1d"))
    assert ended.state is RolloutState.FINISHED
    assert ended.harmed == ended.exposed == 20_000


def test_same_seed_gives_the_same_course() -> None:
    """Another seed gives another."""
    first, again, other = (run(preset("standard"), scenario_of(), BAD, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_quick_and_exact_runs_agree() -> None:
    """Medians of completion and of exposure within the tolerance that the guide states."""
    plan, scenario = preset("standard"), scenario_of(100_000)
    exact, quick = run(plan, scenario, precision=FINE, each=True), run(plan, scenario)
    assert quick.seconds == pytest.approx(exact.seconds, rel=0.03)
    exact_ones = [run(plan, scenario, BAD, seed=n, precision=FINE, each=True).exposed for n in range(60)]
    quick_ones = [run(plan, scenario, BAD, seed=n).exposed for n in range(300)]
    assert np.median(quick_ones) == pytest.approx(np.median(exact_ones), rel=TOLERANCE)


def test_gates_by_site_see_each_device_as_a_site() -> None:
    """They halt what is bad, and let pass what is not, as the answer says of them."""
    gates = {"kind": "evidence", "failures": [{"group_by": "site"}]}
    plan = preset("standard", gates=gates)
    assert run(plan, scenario_of(200_000), BAD).state is RolloutState.HALTED
    assert run(plan, scenario_of(200_000)).state is RolloutState.FINISHED
    assert "gates.failures.group_by: every device is taken for a site of its own" in not_simulated(plan)


def test_answer_names_what_of_the_plan_it_leaves_out() -> None:
    """A key that the plan sets; none of those that are simulated."""
    assert not_simulated(preset("standard")) == ()
    assert not_simulated(preset("careful")) == ("roll_back: a rollout ends with its halt",)
