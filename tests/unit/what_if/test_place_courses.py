"""Rollouts with a disruption budget: how many of a site are at it at once, and how long that takes."""

import numpy as np
import pytest

from protocol.scenario import Scenario
from service.domain.rollout import RolloutState
from service.domain.timing import Budget
from simulation.what_if.course import FINE
from simulation.what_if.fleet import FleetModel, model_of
from simulation.what_if.limits import left_out_of_places, not_simulated
from simulation.what_if.places import Places, Turns
from simulation.what_if.planned import by_places, under
from tests.unit.what_if.what_if_parts import START, fault, preset, run, scenario_of

EVERYBODY = [{"percent": 100}]
ONE = {"group_by": "site", "max_unavailable": 1}


def sites(number: int, **more: object) -> dict[str, object]:
    """Return keys of a fleet that is spread over sites."""
    return {"attributes": {"site": "shop-{n}"}, "sites": number, **more}


def fleet_at(devices: int, places: dict[str, object]) -> FleetModel:
    """Return a fleet whose updates all succeed."""
    return model_of(scenario_of(devices, fleet=places), base_failure=0.0)


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("most", [1, 4])
def test_site_takes_its_devices_one_after_another(*, most: int, each: bool) -> None:
    """50 of each of 20 sites, about 74 s each with its call: no more than the budget are at it at any time."""
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption={**ONE, "max_unavailable": most})
    ended = run(plan, scenario_of(1000, fleet=sites(20)), each=each, precision=FINE, base_failure=0.0)
    assert (ended.state, ended.confirmed) == (RolloutState.FINISHED, 1000)
    assert max(moment.exposed - moment.confirmed for moment in ended.timeline) <= 20 * most * (1.0 if each else 2.0)
    assert ended.seconds == pytest.approx(50 * 76 / most, rel=0.25)


def test_devices_of_no_site_wait_for_nobody() -> None:
    """And those of the plan's attribute alone are bound."""
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption={**ONE, "group_by": "shelf"})
    bound, free = (run(plan, scenario_of(1000, fleet=fleet), each=True) for fleet in (sites(5), {}))
    assert bound.seconds == free.seconds < 3600


def test_device_that_falls_silent_keeps_its_place_until_its_time_out() -> None:
    """One site, ten devices, all of which brick: a day each."""
    plan = preset(
        "standard", stages=EVERYBODY, pace={}, disruption=ONE, gates={"kind": "thresholds", "error_percent": 99}
    )
    ended = run(plan, scenario_of(10, fleet=sites(1)), fault("brick", 1.0), each=True, precision=FINE, base_failure=0.0)
    assert ended.exposed == 10
    assert ended.seconds == pytest.approx(10 * 86_400, rel=0.01)


def test_windows_and_budget_decide_together() -> None:
    """An hour a night takes some 45 devices of a site: 200 need the fifth night, and nobody begins outside it."""
    window = [{"from": "01:00", "to": "02:00"}]
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption=ONE, maintenance=window, device_timeout="7d")
    scenario = scenario_of(400, fleet=sites(2))
    exact = run(plan, scenario, each=True, precision=FINE, base_failure=0.0)
    assert exact.confirmed == 400
    assert 17 + 3 * 24 < exact.seconds / 3600 < 19 + 4 * 24


def test_quick_and_exact_runs_with_places_agree() -> None:
    """How long it takes, in the median, within a tenth; what a bad release exposes is bounded by the sites."""
    plan, scenario = preset("standard", stages=EVERYBODY, disruption=ONE), scenario_of(20_000, fleet=sites(200))
    quick = np.median([run(plan, scenario, seed=seed).seconds for seed in range(3)])
    exact = run(plan, scenario, each=True, precision=FINE).seconds
    assert quick == pytest.approx(exact, rel=0.1)


def test_budget_is_left_out_and_named_where_some_of_a_place_are_cut_off_alone() -> None:
    """A tenth is offline by day: the others must not wait for them, and the warehouse takes its turns as ever."""
    regions = {"far": {"network": {"offline_hours": ["08:00-18:00"]}}}
    shops = {"name": "shops", "devices": 900, "fidelity": "virtual", "regions": {"far": 0.1}, **sites(45)}
    warehouse = {"name": "w", "devices": 100, "fidelity": "virtual", "attributes": {"site": "w"}}
    scenario = Scenario.model_validate({"start": START, "regions": regions, "fleets": [shops, warehouse]})
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption=ONE)
    model = under(plan, model_of(scenario, base_failure=0.0), origin=START)
    assert model.places == (Places(1, 1, 86_400.0),)
    line = "disruption: 900 devices wait for nobody, because "
    assert [found.startswith(line) for found in left_out_of_places(model)] == [True]
    for each in (True, False):
        timeline = run(plan, scenario, each=each, base_failure=0.0).timeline
        assert next(moment.seconds for moment in timeline if moment.confirmed > 800) < 3600


def test_budget_is_left_out_where_one_place_has_windows_at_different_times() -> None:
    """By two regions' clocks; places of one region each keep it."""
    regions = {"east": {"utc_offset": 9}, "west": {"utc_offset": 0}}
    plan = preset("standard", disruption=ONE, maintenance=[{"from": "01:00", "to": "02:00"}])
    for mix, unbound in (({"east": 0.5, "west": 0.5}, 1.0), ({"east": 1.0}, 0.0)):
        scenario = scenario_of(400, regions=regions, fleet=sites(2, regions=mix))
        model = under(plan, model_of(scenario, base_failure=0.0), origin=START)
        assert model.unbound == pytest.approx(unbound)
        assert len(model.places) == round(1 - unbound)


def test_places_that_are_offline_as_a_whole_keep_their_budget() -> None:
    """Ten devices of each of ten sites, which have the network from 18:00, ten hours on: one after another."""
    regions = {"far": {"network": {"offline_hours": ["08:00-18:00"]}}}
    scenario = scenario_of(100, regions=regions, fleet=sites(10, regions={"far": 1.0}))
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption=ONE)
    for each in (True, False):
        ended = run(plan, scenario, each=each, precision=FINE, base_failure=0.0)
        assert ended.seconds == pytest.approx(36_000 + 10 * 76, rel=0.01)


def test_percent_of_a_site_is_the_engines() -> None:
    """Rounded down, one at least, of the devices with that value."""
    model = model_of(scenario_of(1000, fleet=sites(40)), base_failure=0.0)
    placed = by_places(model, Budget("site", None, 30), silent_seconds=1.0)
    assert placed.places == (Places(40, 7, 1.0),)
    assert by_places(model, None, silent_seconds=1.0).places == ()


def test_retried_device_waits_for_its_place_once() -> None:
    """One site of 200, a tenth of which fail at first: their second attempts take their time, not their wait again."""
    retries = {"most": 1, "pause": "1m", "causes": ["download"]}
    gates = {"kind": "thresholds", "error_percent": 99}
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption=ONE, retries=retries, gates=gates)
    ended = run(plan, scenario_of(200, fleet=sites(1)), each=True, precision=FINE, base_failure=0.1)
    assert ended.state is RolloutState.FINISHED
    assert ended.seconds / 3600 == pytest.approx(4.4, rel=0.07)


def test_budget_beyond_a_sites_devices_needs_no_more_room_than_they() -> None:
    """A million at ten thousand sites of two: nobody waits."""
    plan = preset("standard", stages=EVERYBODY, pace={}, disruption={**ONE, "max_unavailable": 1_000_000})
    assert under(plan, fleet_at(20_000, sites(10_000)), origin=START).places == (Places(10_000, 2, 86_400.0),)
    assert run(plan, scenario_of(20_000, fleet=sites(10_000))).seconds < 3600


@pytest.mark.parametrize("other", [10, 20])
def test_fleets_with_one_template_have_places_of_their_own(other: int) -> None:
    """Also where both are spread over as many sites."""
    fleets = [
        {"name": name, "devices": 100, "fidelity": "virtual", **sites(number)}
        for name, number in (("a", 10), ("b", other))
    ]
    scenario = Scenario.model_validate({"start": START, "fleets": fleets})
    placed = by_places(model_of(scenario, base_failure=0.0), Budget("site", 1, None), silent_seconds=1.0)
    assert placed.places == (Places(10, 1, 1.0), Places(other, 1, 1.0))


def test_turns_are_taken_in_the_order_of_asking() -> None:
    """Two sites; who asks first is first, also where others were named before."""
    turns = Turns(Places(2, 1, 1.0))
    asked = np.array([5.0, 0.0, 1.0, 2.0])
    called, given = turns.take(
        np.array([0, 0, 0, 1]), asked, contact=np.full(4, 1.0), work=np.full(4, 10.0), move=lambda _, at: at
    )
    assert given.tolist() == [22.0, 0.0, 11.0, 2.0]
    assert called.tolist() == [21.0, 0.0, 10.0, 2.0]


def test_budget_is_not_said_to_be_left_out() -> None:
    """It is simulated."""
    assert not [line for line in not_simulated(preset("standard", disruption=ONE)) if "disruption" in line]
