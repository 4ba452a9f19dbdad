"""Kinds of devices: who is online when, how updates end, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages import ActionState, Cause
from simulation.errors import WhatIfError
from simulation.what_if.fleet import Kind, model_of
from simulation.what_if.sampling import Aggregated, EachDevice
from tests.unit.what_if.what_if_parts import fault, scenario_of

HOUR = 3600.0
DAY = 24 * HOUR


def online(kind: Kind, *hours: float) -> list[float]:
    """Return when a kind is online, hours from the start."""
    return [float(at) / HOUR for at in kind.online_from(np.array(hours) * HOUR)]


def kind_with(network: dict[str, object], *, utc_offset: float = 0.0) -> Kind:
    """Return the only kind of a fleet in one region."""
    scenario = scenario_of(
        regions={"coast": {"utc_offset": utc_offset, "network": network}}, fleet={"regions": {"coast": 1.0}}
    )
    return model_of(scenario, base_failure=0.0).kinds[0]


def test_offline_hours_past_midnight_hold_devices_back_until_they_end() -> None:
    """22:00-06:00 of the region, two hours ahead of UTC; the scenario starts at 08:00 UTC, 10:00 there."""
    kind = kind_with({"offline_hours": ["22:00-06:00"]}, utc_offset=2)
    assert online(kind, 0, 11.9, 12, 15, 19.9, 20, 36, 40) == pytest.approx([0, 11.9, 20, 20, 20, 20, 44, 44])


def test_hours_that_have_begun_before_the_start_count() -> None:
    """06:00-10:00 at the start, 08:00: two hours are left of it."""
    assert online(kind_with({"offline_hours": ["06:00-10:00"]}), 0, 2, 21.9, 22) == pytest.approx([2, 2, 21.9, 26])


def test_outage_holds_devices_back_once() -> None:
    """From its start to its end, and never again."""
    kind = kind_with({"outages": [{"start": "1h", "lasts": "3h"}]})
    assert online(kind, 0.9, 1, 3.9, 4, 25) == pytest.approx([0.9, 4, 4, 4, 25])


def test_outage_that_ends_in_offline_hours_lasts_until_these_end() -> None:
    """Neither alone decides."""
    kind = kind_with({"offline_hours": ["10:00-12:00"], "outages": [{"start": "1h", "lasts": "2h"}]})
    assert online(kind, 1) == pytest.approx([4])


def test_happening_takes_its_share_of_a_region_offline() -> None:
    """The others stay."""
    scenario = scenario_of(happenings=[{"at": "1h", "kind": "offline", "lasts": "2h", "share": 0.25}])
    kinds = model_of(scenario, base_failure=0.0).kinds
    assert {kind.outages: kind.share for kind in kinds} == pytest.approx({((HOUR, 3 * HOUR),): 0.25, (): 0.75})


def test_too_many_partial_outages_are_refused() -> None:
    """Each doubles the kinds of devices."""
    happenings = [{"at": f"{n}h", "kind": "offline", "lasts": "1h", "share": 0.5} for n in range(12)]
    with pytest.raises(WhatIfError, match="expected at most 1000 kinds"):
        model_of(scenario_of(happenings=happenings), base_failure=0.0)


def test_fleet_without_devices_is_refused() -> None:
    """There is nothing to ask about."""
    with pytest.raises(WhatIfError, match="expected at least one fleet"):
        model_of(scenario_of().model_copy(update={"fleets": ()}), base_failure=0.0)


def test_slow_and_lossy_networks_delay() -> None:
    """Contact takes longer by latency and loss, the update by bytes."""
    good, bad = kind_with({}), kind_with({"latency": "1s", "loss": 0.5, "bytes_per_second": 1000})
    assert bad.contact_seconds == pytest.approx(2 * (good.contact_seconds + 20))
    assert bad.update_seconds > good.update_seconds + 300


def test_endings_share_a_fleet_out() -> None:
    """What strikes takes its share first, base failures theirs of the rest; the whole is one."""
    scenario = scenario_of(hardware={"old": {}, "new": {}}, fleet={"hardware": {"old": 0.75, "new": 0.25}})
    faults = [fault("boot", 0.5, hardware="new"), fault("brick", 0.1)]
    model = model_of(scenario, base_failure=0.02, faults=faults)
    shares: dict[tuple[ActionState, Cause | None], float] = {}
    for kind in model.kinds:
        for ending, share in kind.endings:
            key = (ending.state, ending.cause)
            shares[key] = shares.get(key, 0.0) + kind.share * share
    assert shares == pytest.approx(
        {
            (ActionState.REVERTED, Cause.BOOT): 0.125,
            (ActionState.TIMED_OUT, Cause.SILENT): 0.0875,
            (ActionState.FAILED, Cause.DOWNLOAD): 0.7875 * 0.02,
            (ActionState.CONFIRMED, None): 0.7875 * 0.98,
        }
    )


@pytest.mark.parametrize(("kind", "after"), [("drift", "1d"), ("crash-loop", "1h"), ("slow", "0s"), ("brick", "1h")])
def test_what_strikes_after_the_confirmation_ends_well_and_harms(kind: str, after: str) -> None:
    """No gate of today sees it."""
    model = model_of(scenario_of(), base_failure=0.0, faults=[fault(kind, 1.0, after=after)])
    (ending,) = model.endings
    assert ending.state is ActionState.CONFIRMED
    assert ending.is_harmed


def test_kinds_that_are_alike_are_one() -> None:
    """Hardware that no fault tells apart costs nothing."""
    scenario = scenario_of(hardware={"old": {}, "new": {}}, fleet={"hardware": {"old": 0.7, "new": 0.3}})
    assert len(model_of(scenario, base_failure=0.1).kinds) == 1
    assert len(model_of(scenario, base_failure=0.1, faults=[fault("boot", 0.5, hardware="new")]).kinds) == 2


def test_both_samplers_draw_the_same_shares_and_delays() -> None:
    """Many at once are like each for itself: ends, and times in the mean."""
    scenario = scenario_of(
        regions={"far": {"network": {"latency": "2s", "outages": [{"start": "0s", "lasts": "1h"}]}}},
        fleet={"regions": {"far": 0.5}},
    )
    model = model_of(scenario, base_failure=0.1, faults=[fault("boot", 0.2)])
    each = EachDevice(model, np.random.default_rng(1)).draw(20_000, 100.0, seconds=60.0)
    many = Aggregated(model, np.random.default_rng(2)).draw(20_000, 100.0, seconds=60.0)
    assert each.counts.sum() == many.counts.sum() == 20_000
    for number in range(len(model.endings)):
        shares = [batch.counts[batch.endings == number].sum() / 20_000 for batch in (each, many)]
        assert shares[0] == pytest.approx(shares[1], abs=0.015)
    for name in ("given_at", "ends_at"):
        means = [np.average(getattr(batch, name), weights=batch.counts) for batch in (each, many)]
        assert means[0] == pytest.approx(means[1], rel=0.02)
    assert (each.let_in_at >= 100).all()
    assert (each.let_in_at <= 160).all()


@settings(max_examples=200, deadline=None)
@given(begin=st.floats(0, 5 * DAY), seconds=st.floats(0, 2 * DAY))
def test_kind_is_online_throughout_where_nobody_ever_waits(begin: float, seconds: float) -> None:
    """Said of a time only where everybody in it has the network at once; hours past midnight and two outages."""
    outages = [{"start": "30h", "lasts": "4h"}, {"start": "60h", "lasts": "1h"}]
    kind = kind_with({"offline_hours": ["22:00-06:00"], "outages": outages})
    wanted = np.linspace(begin, begin + seconds, 200)
    waits = bool((kind.online_from(wanted) > wanted).any())
    assert not (waits and kind.is_online(begin, seconds=seconds))
    assert kind.is_online(6 * HOUR, seconds=7 * HOUR)
