"""Rollouts with maintenance windows: who begins when, by whose clock, and how long it takes."""

from datetime import UTC, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from protocol.plan import Window
from service.application.plans import timing_of
from service.domain.rollout import RolloutState
from simulation.what_if.course import FINE, Ended
from simulation.what_if.limits import not_simulated
from simulation.what_if.windows import ALWAYS, open_times
from tests.unit.what_if.what_if_parts import START, preset, run, scenario_of

NIGHT = (Window.model_validate({"from": "01:00", "to": "04:00"}),)
EVERYBODY = [{"percent": 100}]
REGIONS = {"east": {"utc_offset": 9}, "west": {"utc_offset": -5.5}}
BOTH = {"regions": {"east": 0.6, "west": 0.4}}
TOLERANCE = 0.03  # of the completion time


def hours_of_exposure(ended: Ended, *, offset: float = 0.0) -> set[int]:
    """Return the hours of the day in which devices were given the release, by a clock."""
    moved = [after for before, after in pairwise(ended.timeline) if after.exposed > before.exposed]
    return {int(START.hour + moment.seconds / 3600 + offset) % 24 for moment in moved}


@pytest.mark.parametrize("each", [True, False])
def test_rate_and_windows_decide_together_how_many_nights_it_takes(*, each: bool) -> None:
    """Two a minute for three hours are 360 a night: 2,000 devices take until the sixth, by the plan's clock."""
    plan = preset("standard", maintenance=NIGHT, time_zone="Europe/Berlin", stages=EVERYBODY, pace={"per_minute": 2})
    ended = run(plan, scenario_of(2000), each=each)
    assert (ended.state, ended.exposed) == (RolloutState.FINISHED, 2000)
    sixth = 16 + 5 * 24
    assert sixth + 0.5 < ended.seconds / 3600 < sixth + 3
    assert hours_of_exposure(ended, offset=1) <= {1, 2, 3, 4}  # those that begin last are seen a moment later


@pytest.mark.parametrize("each", [True, False])
def test_regions_go_by_their_own_clocks(*, each: bool) -> None:
    """The night of the west is open when it begins, that of the east eight hours later: nobody waits for the other."""
    ended = run(
        preset("standard", maintenance=NIGHT, stages=EVERYBODY),
        scenario_of(regions=REGIONS, fleet=BOTH),
        each=each,
        precision=FINE,
    )
    assert (ended.state, ended.exposed) == (RolloutState.FINISHED, 20_000)
    before_the_east = [moment.exposed for moment in ended.timeline if moment.seconds < 8 * 3600]
    assert max(before_the_east) == pytest.approx(8000, abs=300)
    assert ended.seconds < 11 * 3600


@pytest.mark.parametrize("pace", [{}, {"concurrency": 50}])
@pytest.mark.parametrize("each", [True, False])
def test_windows_hold_without_a_rate(*, each: bool, pace: dict[str, int]) -> None:
    """All that wait begin within half an hour of the opening, or as many at once as may."""
    plan = preset("standard", maintenance=NIGHT, stages=EVERYBODY, pace=pace)
    ended = run(plan, scenario_of(1000, regions=REGIONS, fleet=BOTH), each=each)
    assert (ended.state, ended.exposed) == (RolloutState.FINISHED, 1000)
    assert max(m.exposed - m.confirmed - m.failed for m in ended.timeline) <= pace.get("concurrency", 1000)
    assert ended.seconds < 11 * 3600


def test_canary_behind_closed_windows_waits_for_them() -> None:
    """Ten devices, none of which may begin for hours: they are held, and the stage passes after their night."""
    stages = [{"count": 10, "soak": "1h", "resolved": 1.0}, {"percent": 100}]
    ended = run(preset("standard", maintenance=NIGHT, stages=stages), scenario_of(2000), base_failure=0.0)
    assert ended.state is RolloutState.FINISHED
    assert not any(moment.exposed for moment in ended.timeline if moment.seconds < 17 * 3600)
    assert max(moment.exposed for moment in ended.timeline if moment.seconds < 18 * 3600) == 10


def test_device_whose_network_is_away_at_every_window_is_never_given_it() -> None:
    """It falls silent at its time-out and counts as failed, though never as exposed."""
    network = {"offline_hours": ["00:00-06:00"]}
    scenario = scenario_of(1000, regions={"far": {"network": network}}, fleet={"regions": {"far": 0.5}})
    ended = run(preset("standard", maintenance=NIGHT, stages=EVERYBODY, device_timeout="3d"), scenario)
    assert ended.exposed == pytest.approx(500, abs=60)
    assert ended.confirmed <= ended.exposed


def test_forced_plan_knows_no_windows() -> None:
    """And nothing is said to be left out."""
    plan = preset("emergency", maintenance=NIGHT, forced=True, roll_back=False)
    assert run(plan, scenario_of(2000)).seconds < 3600 * 12
    assert not [line for line in not_simulated(plan) if line.startswith(("maintenance", "time_zone"))]


def test_quick_and_exact_runs_with_windows_agree() -> None:
    """How long it takes, in the median."""
    plan = preset("standard", maintenance=NIGHT, stages=EVERYBODY, pace={"per_minute": 2})
    quick = np.median([run(plan, scenario_of(2000), seed=seed).seconds for seed in range(10)])
    exact = np.median([run(plan, scenario_of(2000), seed=seed, each=True, precision=FINE).seconds for seed in range(5)])
    assert quick == pytest.approx(exact, rel=TOLERANCE)


def test_windows_that_overlap_are_one_and_summer_time_moves_them() -> None:
    """Late in March the clock of Berlin is one hour from UTC, and two from the last Sunday on."""
    windows = [{"from": "01:00", "to": "04:00"}, {"days": ["mon"], "from": "03:00", "to": "05:00"}]
    plan = preset("standard", maintenance=windows)
    times = open_times(timing_of(plan).maintenance, ZoneInfo("Europe/Berlin"), START.replace(month=3, day=27))
    origin = START.replace(month=3, day=27)
    opens = [(origin + timedelta(seconds=at)).astimezone(UTC) for at in times.opens[2:7]]
    assert [moment.hour for moment in opens] == [0, 0, 23, 23, 23]
    lengths = [(end - begin) / 3600 for begin, end in zip(times.opens[2:7], times.closes[2:7], strict=True)]
    assert lengths == [3, 2, 4, 3, 3]
    assert not times.is_open(times.closes[1])
    assert times.is_open(times.opens[1])
    assert times.next_opening(times.closes[1]) == times.opens[2]


def test_no_windows_are_always_open() -> None:
    """Nothing is moved."""
    at = np.array([0.0, 5.0])
    assert open_times(timing_of(preset("standard")).maintenance, UTC, START) is ALWAYS
    assert ALWAYS.open_from(at) is at
    assert ALWAYS.is_open(0.0)
