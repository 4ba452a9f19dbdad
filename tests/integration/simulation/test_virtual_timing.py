"""Windows, budgets and users who put updates off, over a virtual fleet: the same devices and use cases, in hours."""

from collections import Counter
from datetime import UTC, datetime, time, timedelta
from typing import Any

from protocol.messages import ActionState
from protocol.plan import Deferral, Disruption, EvidenceGates, Plan, PlanStage, Window
from service.application.rollouts import NewRollout
from service.domain.rollout import Rollout, RolloutState
from simulation.driving import drive
from simulation.setup import OPERATOR
from tests.integration.simulation.virtual_scenarios import Told, scenario

DEVICES, SITES = 48, 6
FLEET: dict[str, Any] = {
    "name": "cameras",
    "devices": DEVICES,
    "fidelity": "virtual",
    "attributes": {"site": "quay-{n}"},
    "sites": SITES,
}


def rolled_out(plan: Plan, **fleet: Any) -> tuple[Told, Rollout]:
    """Run a fleet with one rollout by a whole plan, which starts in the sixth minute."""
    told = Told(scenario(fleets=[{**FLEET, **fleet}], rollouts=[], length="30h"))
    ids: list[str] = []

    def start() -> None:
        assert told.world.service is not None
        new = NewRollout("r1", "Production", None, plan)
        ids.append(drive(told.world.service.rollouts.create(OPERATOR, new, start_now=True)).stored.rollout.rollout_id)

    told.at(360, start)
    told.run()
    assert told.world.service is not None
    return told, drive(told.world.service.rollouts.get(ids[0])).stored.rollout


def plan(**keys: Any) -> Plan:
    return Plan(stages=(PlanStage(percent=100),), gates=EvidenceGates(), **keys)


def begun_at(told: Told) -> list[datetime]:
    """When devices began to install, each time."""
    return [datetime.fromisoformat(event["time"]) for event in told.named("update", state="downloading")]


def test_fleet_is_updated_at_night() -> None:
    """Nobody begins outside of the window, and everybody has it in the end."""
    told, rollout = rolled_out(plan(maintenance=(Window(start=time(2), end=time(5)),)))
    assert (rollout.state, told.running()) == (RolloutState.FINISHED, DEVICES)
    moments = begun_at(told)
    assert moments
    assert {moment.astimezone(UTC).hour for moment in moments} <= {2, 3, 4}
    assert len({moment.replace(second=0, microsecond=0) for moment in moments}) > 10  # not all at the window's start


def test_one_device_of_a_site_is_at_it_at_once() -> None:
    """Counted by what devices say, from their first word of an update to their last."""
    told, rollout = rolled_out(plan(disruption=Disruption(group_by="site")))
    assert (rollout.state, told.running()) == (RolloutState.FINISHED, DEVICES)
    sites = sites_of(told)
    at_work: dict[str, set[str]] = {}
    for event in told.named("update"):
        working = at_work.setdefault(sites[event["device"]], set())
        (working.discard if ActionState(event["state"]).is_final else working.add)(event["device"])
        assert len(working) <= 1
    assert Counter(sites.values()) == dict.fromkeys(sites.values(), DEVICES // SITES)


def test_users_put_updates_off_and_the_fleet_gets_there() -> None:
    """A share of the devices waits, each as often as it wants and may; none of it counts as a failure."""
    fleet = {"deferral": {"share": 0.5, "lasts": "2h", "times": 3}}
    told, rollout = rolled_out(plan(deferral=Deferral(most=2, longest=timedelta(hours=1))), **fleet)
    assert (rollout.state, told.running()) == (RolloutState.FINISHED, DEVICES)
    assert rollout.stages[0].counts.failed == 0
    asked = Counter(event["device"] for event in told.named("update", state="scheduled"))
    assert DEVICES * 0.2 < len(asked) < DEVICES * 0.8
    assert set(asked.values()) == {3}  # twice it was taken, and the third time refused
    assert len(told.named("report-refused")) == len(asked)


def test_power_cuts_lose_no_deferral() -> None:
    """Devices that lose power while they wait, or ask, go on from there."""
    fleet = {"deferral": {"lasts": "1h", "times": 2}, "power": {"per_day": 200}}
    told, rollout = rolled_out(plan(deferral=Deferral(most=2)), **fleet)
    assert told.named("power", on=False)
    assert (rollout.state, told.running()) == (RolloutState.FINISHED, DEVICES)


def sites_of(told: Told) -> dict[str, str]:
    """Return each device's site, as the service has it."""

    async def read() -> dict[str, str]:
        async with told.world.database(read_only=True) as work:
            found = await work.attributes.of(list(told.world.devices))
        return {device_id: attributes["site"] for device_id, attributes in found.items()}

    return drive(read())
