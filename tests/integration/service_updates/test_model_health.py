"""What devices say of their models moves the evidence of rollouts: drift, crashes, means and silence, in two arms."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from protocol.geometry import Core
from protocol.health import HealthReport
from protocol.plan import ControlGate, EvidenceGates, FailureGate, HealthEvent, MeanGate, Metric, Plan, PlanStage
from service.application.events import Event, EventType
from service.application.health_repository import CountedKind
from service.application.model_health import ModelHealth, UnknownHealthError
from service.application.rollouts import NewRollout, RolloutView
from service.domain.gates.arms import Arm
from service.domain.rollout import RolloutState
from service.domain.verdict import Decision
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

HOUR = timedelta(hours=1)
OLD, NEW = "a" * 64, "b" * 64
DEVICES, CANARIES = 60, 20
DRIFT = ControlGate(name="drift", events=(HealthEvent.CRASH, HealthEvent.DRIFT))
OTHER_DRIFT = ControlGate(name="other", events=(HealthEvent.DRIFT,))
SLOW = ControlGate(name="slow", events=(HealthEvent.SLOW,), slow_ms=60.0)
FAULTS = ControlGate(name="faults", events=(HealthEvent.FAULTS,))
SILENCE = ControlGate(name="silence", events=(HealthEvent.OFFLINE,))
LATENCY = MeanGate(name="latency", metric=Metric.LATENCY, core=Core.M4_0, margin=2.0, expected_change=5.0)


@dataclass
class Fleet:
    """Devices of a world that tell of their models every hour."""

    world: UpdateWorld
    ids: list[str]
    sequences: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.health = ModelHealth(self.world.unit_of_work, clock=self.world.clock, kept=timedelta(days=90))

    def report(self, device_id: str, **changes: object) -> HealthReport:
        """A healthy window of the last hour."""
        sequence = self.sequences[device_id] = self.sequences.get(device_id, 0) + 1
        number = self.ids.index(device_id)
        now = self.world.clock.now()
        content = {
            "core": Core.M4_0,
            "model_sha256": OLD,
            "sequence": sequence,
            "since": now - HOUR + timedelta(seconds=1),
            "until": now,
            "frames": 100,
            "confidence_mean": 0.8,
            "confidence_square_mean": 0.65,
            "classes": {"person": 40, "none": 60},
            "latency_mean_ms": 30 + 0.1 * (number % 7) + 0.05 * (sequence % 3),
            "latency_max_ms": 50.0,
            "arena_bytes": 80_000,
        }
        return HealthReport.model_validate(content | changes)

    async def hour(self, *, but: Sequence[str] = (), of: Sequence[str] | None = None, **changes: object) -> None:
        """Let an hour pass, and every device, or those of a few, tell of it; some differently."""
        self.world.clock.advance(3600)
        telling = self.ids if of is None else of
        told = [(each, self.report(each, **(changes if each in but else {}))) for each in telling]
        await self.health.take(told)
        await self.world.tick()

    async def hear(self, ids: Sequence[str]) -> None:
        async with self.world.unit_of_work() as work:
            await work.devices.touch(dict.fromkeys(ids, self.world.clock.now()))
            await work.commit()


async def fleet_of(world: UpdateWorld) -> Fleet:
    await world.release("r1")
    fleet = Fleet(world, await world.add_devices(DEVICES))
    await fleet.hear(fleet.ids)
    return fleet


async def roll_out(fleet: Fleet, *, hours: int = 7, **gates: object) -> tuple[RolloutView, list[str]]:
    """Give the release to the canaries of a fleet with a past; they confirm."""
    for _ in range(hours):
        await fleet.hour()
    evidence = EvidenceGates(small_stage_rule=False, **gates)
    stages = (PlanStage(count=CANARIES, soak=timedelta(days=30)), PlanStage(percent=100))
    plan = Plan(stages=stages, gates=evidence, device_timeout=timedelta(days=1))
    world = fleet.world
    view = await world.rollouts.create(RELEASER, NewRollout("r1", "Production", None, plan), start_now=True)
    await world.tick()
    actions = [numbered.action for numbered in await world.actions(view)]
    for action in actions:
        await world.director.timestamp(action.device_id)
    await world.confirm_all(view)
    return view, [action.device_id for action in actions]


async def state_of(fleet: Fleet, view: RolloutView) -> RolloutView:
    return await fleet.world.rollouts.get(view.stored.rollout.rollout_id)


async def decisions(fleet: Fleet, view: RolloutView) -> dict[str, str]:
    """Gates that halted, with their reasons."""
    rollout_id = view.stored.rollout.rollout_id
    found = await fleet.world.rollouts.verdicts(rollout_id, after_number=0, limit=100)
    return {each.verdict.gate: each.verdict.reason for each in found if each.verdict.decision is Decision.HALTED}


async def test_release_that_makes_canaries_drift_is_halted(world: UpdateWorld) -> None:
    """By classes that are far from the devices' own past, while control goes on as before; with what was found."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, control=(DRIFT,))
    await fleet.hour()
    assert (await state_of(fleet, view)).stored.rollout.state is RolloutState.RUNNING
    for _ in range(3):
        await fleet.hour(but=canaries, classes={"person": 95, "none": 5})
    halted = (await state_of(fleet, view)).stored.rollout
    assert halted.state is RolloutState.HALTED
    assert "gate drift: expected at most 1.5 times control's rate of crash, drift, found 20 in" in halted.halted_reason
    assert set(await decisions(fleet, view)) == {"drift"}
    counted = await fleet.health.counted(halted.rollout_id, after=None, limit=100)
    assert {each.device_id for each in counted} == set(canaries)
    assert {(each.gate, each.arm, each.what) for each in counted} == {("drift", Arm.CANARY, "drift")}
    _, explained = await world.rollouts.explain(halted.rollout_id)
    (drifted,) = explained.counted
    assert (drifted.kind, drifted.devices) == (CountedKind("drift", Arm.CANARY, "drift"), len(canaries))
    assert {each.device_id for each in drifted.first} == set(canaries)


async def test_release_whose_frames_go_unanswered_is_halted(world: UpdateWorld) -> None:
    """A sensor that gives what the model does not take resets no core; few such frames are no event."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, hours=0, control=(FAULTS,))
    answered = {"person": 40, "none": 56}
    await fleet.hour(but=fleet.ids, classes=answered, errors={"input": 4})
    await fleet.hour(but=canaries, frames=20, classes={}, errors={"input": 20})
    assert (await state_of(fleet, view)).stored.rollout.state is RolloutState.RUNNING
    for _ in range(2):
        await fleet.hour(but=canaries, classes={"none": 10}, errors={"input": 84, "hang": 6})
    halted = (await state_of(fleet, view)).stored.rollout
    assert halted.state is RolloutState.HALTED
    counted = await fleet.health.counted(halted.rollout_id, after=None, limit=100)
    assert {(each.device_id, each.what) for each in counted} == {(each, "faults") for each in canaries}
    assert counted[0].detail == (
        "m4-0: expected at most 0.05 of 100 frames without an answer, found 90 (6 hang, 84 input)"
    )


async def test_events_that_were_compared_with_nothing_use_up_no_device(world: UpdateWorld) -> None:
    """Canaries crash in hours without control: they halt the release once control is heard beside them."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, hours=0, control=(DRIFT, OTHER_DRIFT))
    control = [each for each in fleet.ids if each not in canaries]
    rollout_id = view.stored.rollout.rollout_id
    for _ in range(3):
        await fleet.hour(of=canaries, but=canaries, resets=2)
        await fleet.hour(of=control)
    assert await fleet.health.counted(rollout_id, after=None, limit=100) == []
    assert (await state_of(fleet, view)).stored.rollout.state is RolloutState.RUNNING
    for _ in range(2):
        await fleet.hour(but=canaries, resets=2)
    assert (await state_of(fleet, view)).stored.rollout.state is RolloutState.HALTED
    counted = await fleet.health.counted(rollout_id, after=None, limit=100)
    assert {(each.device_id, each.gate) for each in counted} == {(each, "drift") for each in canaries}
    await fleet.hour(of=canaries, but=canaries, resets=2)
    await fleet.hour()
    assert len(await fleet.health.counted(rollout_id, after=None, limit=100)) == CANARIES  # it was weighed, and stays


async def test_drift_of_everybody_halts_nothing(world: UpdateWorld) -> None:
    """Dusk, or another season: canaries and control alike."""
    fleet = await fleet_of(world)
    view, _ = await roll_out(fleet, control=(DRIFT,), means=(LATENCY,))
    for _ in range(4):
        await fleet.hour(but=fleet.ids, classes={"person": 95, "none": 5}, latency_mean_ms=90.0)
    rollout = (await state_of(fleet, view)).stored.rollout
    assert rollout.state is RolloutState.RUNNING
    assert float(rollout.figures["drift.ln_halt"]) < 0
    assert rollout.figures["drift.control.events"] == DEVICES - CANARIES


async def test_report_that_comes_again_moves_nothing(world: UpdateWorld) -> None:
    """Once a window was taken, evidence, past and what was counted stay as they are."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, control=(DRIFT,))
    await fleet.hour()
    world.clock.advance(3600)
    told = [(each, fleet.report(each, resets=1)) for each in canaries[:3]]
    await fleet.health.take(told)
    before = (await state_of(fleet, view)).stored.rollout.kept, await fleet.health.of_device(canaries[0])
    await fleet.health.take([*told, *told[::-1]])
    assert ((await state_of(fleet, view)).stored.rollout.kept, await fleet.health.of_device(canaries[0])) == before


async def test_evidence_outlives_a_restart_and_a_pause(world: UpdateWorld) -> None:
    """It is stored with the rollout, and a pause or a resume does not begin it anew."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, control=(DRIFT,))
    for _ in range(2):
        await fleet.hour(but=canaries[:2], resets=1)
    rollout_id = view.stored.rollout.rollout_id
    figures = (await state_of(fleet, view)).stored.rollout.figures
    await world.rollouts.pause(RELEASER, rollout_id)
    await world.rollouts.resume(RELEASER, rollout_id)
    fleet.health = ModelHealth(world.unit_of_work, clock=world.clock, kept=timedelta(days=90))
    assert (await state_of(fleet, view)).stored.rollout.figures == figures
    assert figures["drift.canary.events"] == 2


async def test_drift_after_the_end_is_told_once_for_each_device_and_gate(world: UpdateWorld) -> None:
    """The rollout has finished and stays so; what its devices tell later is an event for the operator."""
    fleet = await fleet_of(world)
    for _ in range(7):
        await fleet.hour()
    gates = EvidenceGates(failures=(FailureGate(worst=0.3),), control=(DRIFT, OTHER_DRIFT, SLOW))
    plan = Plan(stages=(PlanStage(percent=100),), gates=gates)
    view = await world.rollouts.create(RELEASER, NewRollout("r1", "Production", None, plan), start_now=True)
    await world.tick()
    for device_id in fleet.ids:
        await world.director.timestamp(device_id)
    await world.confirm_all(view)
    await world.tick()
    assert (await state_of(fleet, view)).stored.rollout.state is RolloutState.FINISHED
    await fleet.hour()
    assert not await health_events(world)
    drifting = fleet.ids[:2]
    for _ in range(3):
        await fleet.hour(but=drifting, classes={"person": 95, "none": 5})
    slow = fleet.ids[2]
    world.clock.advance(3600)
    cores = [fleet.report(slow, latency_mean_ms=90.0), fleet.report(slow, latency_mean_ms=90.0, core=Core.M4_1)]
    await fleet.health.take([(slow, report) for report in cores])
    found = [each for each in await health_events(world) if each.subject_id != slow]
    (told,) = [each for each in await health_events(world) if each.subject_id == slow]
    assert told.data["detail"] == "slow after the end: m4-0: expected at most 60 ms an inference, found 90 ms"
    assert sorted((each.subject_id, str(each.data["gate"])) for each in found) == sorted(
        (device_id, gate) for device_id in drifting for gate in ("drift", "other")
    )
    assert {each.data["rollout_id"] for each in found} == {view.stored.rollout.rollout_id}
    assert all("drift after the end: m4-0" in str(each.data["detail"]) for each in found)
    assert (await state_of(fleet, view)).stored.rollout.state is RolloutState.FINISHED


async def health_events(world: UpdateWorld) -> list[Event]:
    """What operators were told of models, whatever the order."""
    async with world.unit_of_work(read_only=True) as work:
        return [each.event for each in await work.events.page(EventType.HEALTH, before=None, limit=100)]


@pytest.mark.parametrize("lie", [1e6, 0.0, None])
async def test_slower_model_than_the_plan_expects_is_halted(world: UpdateWorld, lie: float | None) -> None:
    """By pairs of canaries and control, beyond the expected change and its margin, though a device of control lies."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, means=(LATENCY,))
    control = [each for each in fleet.ids if each not in canaries]
    world.clock.advance(3600)
    lies = {} if lie is None else {"latency_mean_ms": lie}
    await fleet.health.take([(each, fleet.report(each, **(lies if each == control[-1] else {}))) for each in control])
    assert (await state_of(fleet, view)).stored.rollout.figures["latency.pairs"] == 0
    slow = [(each, fleet.report(each, model_sha256=NEW, latency_mean_ms=45.0)) for each in canaries]
    await fleet.health.take(slow)
    halted = (await state_of(fleet, view)).stored.rollout
    assert halted.state is RolloutState.HALTED
    assert "gate latency: expected latency on m4-0 to move no more than 2 above +5" in halted.halted_reason


async def silence_of(fleet: Fleet, view: RolloutView, *, silent: Sequence[str], hours: int = 48) -> RolloutView:
    """Every three hours all but some are heard of, while the service is there."""
    for _ in range(hours // 3):
        fleet.world.clock.advance(3 * 3600)
        await fleet.hear([each for each in fleet.ids if each not in silent])
        await fleet.world.tick()
    return await state_of(fleet, view)


async def watched_for_silence(world: UpdateWorld) -> tuple[Fleet, RolloutView, list[str]]:
    """A fleet whose canaries run the release, each heard of since."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, hours=0, control=(SILENCE,))
    await world.tick()
    world.clock.advance(60)
    await fleet.hear(fleet.ids)
    return fleet, view, canaries


async def assert_nothing_was_spent(fleet: Fleet, view: RolloutView) -> None:
    """No device was counted, and the evidence is what it was at the start."""
    rollout = (await state_of(fleet, view)).stored.rollout
    assert rollout.state is RolloutState.RUNNING
    assert rollout.figures["silence.ln_halt"] == 0
    assert not await fleet.health.counted(rollout.rollout_id, after=None, limit=1)


async def assert_halted_by_silence_of(fleet: Fleet, view: RolloutView, canaries: Sequence[str]) -> None:
    """The canaries alone were counted."""
    rollout = (await state_of(fleet, view)).stored.rollout
    assert rollout.state is RolloutState.HALTED
    counted = await fleet.health.counted(rollout.rollout_id, after=None, limit=100)
    assert {each.device_id for each in counted} == set(canaries)


@pytest.mark.parametrize("bricks", [False, True])
async def test_outage_of_everybody_spends_no_evidence(world: UpdateWorld, *, bricks: bool) -> None:
    """Nobody was heard of for two days, in neither arm; who does not come back in the day after is silent."""
    fleet, view, canaries = await watched_for_silence(world)
    await silence_of(fleet, view, silent=fleet.ids)
    await assert_nothing_was_spent(fleet, view)
    lost = canaries if bricks else []
    await fleet.hear([each for each in fleet.ids[::2] if each not in lost])  # the first half to come back
    await world.tick()
    await assert_nothing_was_spent(fleet, view)
    await silence_of(fleet, view, silent=lost)
    if not bricks:
        rollout = (await state_of(fleet, view)).stored.rollout
        assert int(rollout.figures["silence.control.at_risk"]) >= DEVICES - CANARIES
        await assert_nothing_was_spent(fleet, view)
    else:
        await assert_halted_by_silence_of(fleet, view, canaries)


async def test_outage_of_the_service_after_one_of_everybody_takes_no_time_from_devices(world: UpdateWorld) -> None:
    """Who has not found back yet has a day of listening from when the first were heard of, not from before."""
    fleet, view, canaries = await watched_for_silence(world)
    await silence_of(fleet, view, silent=fleet.ids)
    await fleet.hear([each for each in fleet.ids[::2] if each not in canaries])
    await world.tick(largest_gap=timedelta(days=1))
    await silence_of(fleet, view, silent=canaries, hours=3)
    world.clock.advance(10 * 3600)
    await world.tick(largest_gap=timedelta(minutes=1))
    await silence_of(fleet, view, silent=canaries, hours=15)  # 28 hours since, of which 18 were listened to
    await assert_nothing_was_spent(fleet, view)
    await silence_of(fleet, view, silent=canaries, hours=24)
    await assert_halted_by_silence_of(fleet, view, canaries)


@pytest.mark.parametrize("bricks", [False, True])
async def test_service_that_was_stopped_for_long_takes_nobody_for_silent(world: UpdateWorld, *, bricks: bool) -> None:
    """Devices have their whole time to come back; only those of a release that bricks never do."""
    fleet, view, canaries = await watched_for_silence(world)
    await silence_of(fleet, view, silent=[], hours=24)
    lost = canaries if bricks else []
    world.clock.advance(2 * 86400)
    gap = timedelta(minutes=1)
    await world.tick(largest_gap=gap)  # before anybody has found the way back
    await fleet.hear([each for each in fleet.ids[::2] if each not in lost])
    world.clock.advance(10)
    await world.tick(largest_gap=gap)
    await assert_nothing_was_spent(fleet, view)
    await silence_of(fleet, view, silent=lost)
    if bricks:
        await assert_halted_by_silence_of(fleet, view, canaries)
    else:
        await assert_nothing_was_spent(fleet, view)


@pytest.mark.parametrize("bricks", [False, True])
async def test_service_that_is_often_down_for_short_still_finds_who_is_silent(
    world: UpdateWorld, *, bricks: bool
) -> None:
    """Ten minutes in every three hours, where a device has a day: it takes longer, and nobody else is counted."""
    fleet, view, canaries = await watched_for_silence(world)
    lost = canaries if bricks else []
    for _ in range(30):
        world.clock.advance(3 * 3600 - 615)
        await fleet.hear([each for each in fleet.ids if each not in lost])
        await world.tick(largest_gap=timedelta(days=1))
        world.clock.advance(615)
        await world.tick(largest_gap=timedelta(minutes=1))
    if bricks:
        await assert_halted_by_silence_of(fleet, view, canaries)
    else:
        assert int((await state_of(fleet, view)).stored.rollout.figures["silence.control.at_risk"]) > 0
        await assert_nothing_was_spent(fleet, view)


async def test_release_that_silences_its_devices_is_halted(world: UpdateWorld) -> None:
    """They confirmed, and were never heard of again, while control goes on."""
    fleet, view, canaries = await watched_for_silence(world)
    await silence_of(fleet, view, silent=canaries)
    await assert_halted_by_silence_of(fleet, view, canaries)
    rollout = (await state_of(fleet, view)).stored.rollout
    assert (rollout.figures["silence.canary.events"], rollout.figures["silence.control.events"]) == (CANARIES, 0)


async def test_device_that_was_counted_long_ago_never_counts_again(world: UpdateWorld) -> None:
    """Retention of what devices said does not touch whom gates have counted: the rollout is still judged by them."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, control=(DRIFT,))
    for _ in range(2):
        await fleet.hour(but=canaries[:2], resets=1)
    await fleet.hour()
    figures = (await state_of(fleet, view)).stored.rollout.figures
    assert figures["drift.canary.events"] == 2
    await fleet.health.keep_house(world.clock.now() + timedelta(days=91))
    for _ in range(2):
        await fleet.hour(but=canaries[:2], resets=1)
    rollout = (await state_of(fleet, view)).stored.rollout
    assert rollout.figures["drift.canary.events"] == 2
    counted = await fleet.health.counted(rollout.rollout_id, after=None, limit=10)
    assert {each.device_id for each in counted} == set(canaries[:2])


async def test_device_tells_what_it_said_last_and_its_own_past(world: UpdateWorld) -> None:
    """Of the model that runs, and of the one before it once another one runs; a device that said nothing has none."""
    fleet = await fleet_of(world)
    with pytest.raises(UnknownHealthError, match="expected a health report, found none"):
        await fleet.health.of_device(fleet.ids[0])
    for _ in range(7):
        await fleet.hour()
    await fleet.hour(but=fleet.ids[:1], model_sha256=NEW, latency_mean_ms=45.0)
    (core,) = await fleet.health.of_device(fleet.ids[0])
    assert (core.last.model_sha256, core.past.windows, core.past.latency_ms) == (NEW, 1, 45.0)
    assert core.before is not None
    assert core.before.windows == 7
    assert core.reference == core.before
    await fleet.health.keep_house(world.clock.now() + timedelta(days=91))
    with pytest.raises(UnknownHealthError):
        await fleet.health.of_device(fleet.ids[0])


async def at_risk(fleet: Fleet, view: RolloutView, arm: Arm) -> int:
    """Cores at risk so far, weighed or not."""
    figures = (await state_of(fleet, view)).stored.rollout.figures
    return int(figures[f"drift.{arm}.at_risk"]) + int(figures[f"drift.{arm}.gathered"])


async def test_window_that_covers_time_twice_or_to_come_is_not_counted(world: UpdateWorld) -> None:
    """A device that tells more hours than there were speaks for one of them; neither does one of too long ago count."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, control=(DRIFT,))
    await fleet.hour()
    world.clock.advance(3600)
    canary, now = canaries[0], world.clock.now()
    before = await at_risk(fleet, view, Arm.CANARY)
    ahead = fleet.report(canary, since=now + HOUR, until=now + 2 * HOUR)
    greedy = [fleet.report(canary, resets=number) for number in range(20)]
    await fleet.health.take([(canary, each) for each in [ahead, *greedy]])
    assert await at_risk(fleet, view, Arm.CANARY) == before + 1
    found = await fleet.health.counted(view.stored.rollout.rollout_id, after=None, limit=10)
    assert not found


@pytest.mark.parametrize("arm", list(Arm))
async def test_device_that_sets_its_clock_back_and_tells_thousands_of_windows_is_one_device(
    world: UpdateWorld, arm: Arm
) -> None:
    """It does not decide which share of the time at risk an arm has had."""
    fleet = await fleet_of(world)
    view, canaries = await roll_out(fleet, control=(DRIFT,))
    begun = world.clock.now()
    await fleet.hour()
    await fleet.hour()
    world.clock.advance(60)
    liar = canaries[0] if arm is Arm.CANARY else next(each for each in fleet.ids if each not in canaries)
    before = await at_risk(fleet, view, arm)
    minute = timedelta(minutes=1)
    for start in (begun - 30 * 24 * HOUR, begun, begun + 2 * HOUR):
        spans = [(start + number * minute, start + (number + 1) * minute) for number in range(-1, 150)]
        told = [fleet.report(liar, since=since, until=until) for since, until in spans]
        await fleet.health.take([(liar, each) for each in told])
    assert await at_risk(fleet, view, arm) <= before + 1
