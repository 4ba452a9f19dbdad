"""Gates that take a site for one draw, through the use cases and on a real database."""

from collections.abc import Sequence
from typing import Any

import pytest

from protocol.messages import ActionState, Cause
from protocol.plan import EvidenceGates, FailureGate, Plan, PlanStage
from service.application.rollouts import NewRollout, RolloutView
from service.domain.action import Action
from service.domain.gates.site_rate import MOST_DEVICES
from service.domain.rollout import RolloutState
from service.domain.verdict import Figure
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

DEVICES = 60


async def started(
    world: UpdateWorld, sites: Sequence[str], *, group_by: str | None = "site", causes: tuple[Cause, ...] = ()
) -> RolloutView:
    """Start a rollout in one stage to a device for each site named; an empty name is a device without one."""
    devices = await world.add_devices(len(sites))
    async with world.unit_of_work() as work:
        named = {device: {"site": site} for device, site in zip(devices, sites, strict=True) if site}
        await work.attributes.put(named)
        await work.commit()
    await world.release("grouped")
    gates = EvidenceGates(failures=(FailureGate(group_by=group_by, causes=causes),))
    plan = Plan(stages=(PlanStage(percent=100),), gates=gates)
    view = await world.rollouts.create(RELEASER, NewRollout("grouped", "Production", None, plan), start_now=True)
    await world.tick()
    return view


async def at_sites(world: UpdateWorld, rollout: RolloutView) -> dict[str, list[Action]]:
    """Return the rollout's actions by site, in the order of the sites' names; those without one under their ids."""
    actions = [numbered.action for numbered in await world.actions(rollout)]
    async with world.unit_of_work(read_only=True) as work:
        attributes = await work.attributes.of([action.device_id for action in actions])
    found: dict[str, list[Action]] = {}
    for action in sorted(actions, key=lambda action: action.device_id):
        site = attributes.get(action.device_id, {}).get("site", action.device_id)
        found.setdefault(site, []).append(action)
    return dict(sorted(found.items()))


async def give(world: UpdateWorld, actions: Sequence[Action]) -> None:
    for action in actions:
        await world.report(action.device_id, action.action_id, ActionState.DOWNLOADING, sequence=1)


async def fail(world: UpdateWorld, actions: Sequence[Action], cause: Cause = Cause.DOWNLOAD) -> None:
    for action in actions:
        await world.report(action.device_id, action.action_id, ActionState.FAILED, cause=cause)


async def state(world: UpdateWorld, rollout: RolloutView) -> RolloutState:
    return (await world.rollouts.get(rollout.stored.rollout.rollout_id)).stored.rollout.state


async def figures(world: UpdateWorld, rollout: RolloutView) -> dict[str, Figure]:
    return (await world.rollouts.get(rollout.stored.rollout.rollout_id)).stored.rollout.figures


@pytest.mark.parametrize(("group_by", "expected"), [("site", RolloutState.RUNNING), (None, RolloutState.HALTED)])
async def test_site_that_fails_whole_halts_only_a_gate_on_devices(
    world: UpdateWorld, group_by: str | None, expected: RolloutState
) -> None:
    """One of six sites is without a network: 10 of 60 devices, but a single draw."""
    rollout = await started(world, [f"s{number % 6}" for number in range(DEVICES)], group_by=group_by)
    sites = await at_sites(world, rollout)
    for actions in sites.values():
        await give(world, actions)
    await fail(world, sites["s0"])
    assert await state(world, rollout) is expected


async def test_failures_at_many_sites_halt(world: UpdateWorld) -> None:
    """A device of each site fails; the decision names devices, sites and the attribute."""
    rollout = await started(world, [f"s{number % 30:02}" for number in range(DEVICES)])
    sites = await at_sites(world, rollout)
    for actions in sites.values():
        await give(world, actions)
    for actions in sites.values():
        await fail(world, actions[:1])
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.HALTED
    verdicts = await world.rollouts.verdicts(view.stored.rollout.rollout_id, after_number=0, limit=10)
    (halt,) = [stored.verdict for stored in verdicts if stored.verdict.gate == "failures"]
    assert "of 30 sites by site" in halt.reason
    assert halt.figures["failures.sites"] == 30
    assert 2 <= int(halt.figures["failures.struck_sites"]) <= 30
    assert float(halt.figures["failures.ln_halt"]) >= float(halt.figures["failures.halts_at"])


async def test_devices_without_the_attribute_are_sites_of_their_own(world: UpdateWorld) -> None:
    """Also where the plan names an attribute that nobody has: nothing is lost but a little evidence."""
    rollout = await started(world, [""] * DEVICES)
    sites = await at_sites(world, rollout)
    assert len(sites) == DEVICES
    for actions in sites.values():
        await give(world, actions)
    for actions in list(sites.values())[:12]:
        await fail(world, actions)
    assert await state(world, rollout) is RolloutState.HALTED


async def test_repeated_reports_and_changed_attributes_move_nothing(world: UpdateWorld) -> None:
    """What a device counted for when it was given the release, it counts for to the end."""
    rollout = await started(world, [f"s{number % 6}" for number in range(DEVICES)])
    sites = await at_sites(world, rollout)
    for actions in sites.values():
        await give(world, actions)
    await fail(world, sites["s0"][:3])
    before = await figures(world, rollout)
    async with world.unit_of_work() as work:
        await work.attributes.put({action.device_id: {"site": "elsewhere"} for action in sites["s0"]})
        await work.commit()
    await fail(world, sites["s0"][:3])
    await give(world, sites["s1"])
    assert await figures(world, rollout) == before
    await fail(world, sites["s0"][3:5])
    after = await figures(world, rollout)
    assert (after["failures.sites"], after["failures.struck_sites"]) == (6, 1)
    assert after["failures.failed"] == 5


async def test_other_causes_fail_nothing_and_clear_the_device(world: UpdateWorld) -> None:
    """A gate on boot failures: a download that broke off is no failure to it, and settles what it waited for."""
    rollout = await started(world, [f"s{number:02}" for number in range(DEVICES)], causes=(Cause.BOOT,))
    sites = await at_sites(world, rollout)
    for actions in sites.values():
        await give(world, actions)
    waiting = await figures(world, rollout)
    for actions in sites.values():
        await fail(world, actions)
    settled = await figures(world, rollout)
    assert settled["failures.struck_sites"] == 0
    assert float(settled["failures.ln_halt"]) == float(waiting["failures.ln_halt"])
    assert float(settled["failures.ln_pass"]) > float(waiting["failures.ln_pass"])


async def test_rollout_passes_by_clean_sites(world: UpdateWorld) -> None:
    """Two hundred sites of a device each confirm; the stage passes and the rollout ends."""
    rollout = await started(world, [f"s{number}" for number in range(200)])
    assert await world.confirm_all(rollout) == 200
    await world.tick()
    assert await state(world, rollout) is RolloutState.FINISHED


async def test_clean_devices_of_few_sites_ask_a_person(world: UpdateWorld) -> None:
    """The same devices at four sites are four draws, and show nothing."""
    rollout = await started(world, [f"s{number % 4}" for number in range(200)])
    await world.confirm_all(rollout)
    await world.tick()
    view = await world.rollouts.get(rollout.stored.rollout.rollout_id)
    assert view.stored.rollout.state is RolloutState.PAUSED
    assert "neither halts nor passes" in view.stored.rollout.question


async def test_only_the_first_devices_of_a_site_have_rows(world: UpdateWorld) -> None:
    """A site of any size costs the same."""
    rollout = await started(world, ["big"] * (MOST_DEVICES + 6))
    sites = await at_sites(world, rollout)
    await give(world, sites["big"])
    await fail(world, sites["big"][-1:])
    async with world.unit_of_work(read_only=True) as work:
        members: Any = await work.sites.members(rollout.stored.rollout.rollout_id, "site", ["=big"])
    assert [device.place for device in members["=big"]] == list(range(1, MOST_DEVICES + 1))
