"""Whatever order reports come in, doubled, late or delayed, a rollout ends in the same state and keeps its promises.

A fleet of honest devices, each with one outcome, is driven by Hypothesis: which device speaks next, what it says
again, when the worker opens the next batch, when time passes. The engine alone is run; the clock is virtual.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState, Cause
from service.domain.action import Action, apply_report
from service.domain.conditions import Conditions
from service.domain.membership import StagePlan, cut_stages
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import start
from service.domain.rollout_evaluation import evaluate
from service.domain.stage import Stage, StageState
from tests.rollout_conditions import thresholds
from tests.rollout_walk import walk_list

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TIMEOUT = timedelta(days=1)
DIGESTS = {Slot.M4_0_MODEL: "a" * 64}
PROGRESS = (ActionState.DOWNLOADING, ActionState.INSTALLING, ActionState.TRIAL)
OUTCOMES = st.sampled_from(
    [ActionState.CONFIRMED] * 8 + [ActionState.FAILED, ActionState.REVERTED],
)


@dataclass
class Fleet:
    """Devices and the rollout that the engine runs on them; counters move as the service moves them."""

    outcomes: dict[str, ActionState]
    rollout: Rollout
    actions: dict[str, Action]
    now: datetime = NOW

    @classmethod
    def begin(cls, outcomes: list[ActionState], plans: list[StagePlan], conditions: Conditions) -> "Fleet":
        devices = {f"device-{number}": outcome for number, outcome in enumerate(outcomes)}
        draft = Rollout("r", "release", "group", conditions, tuple(Stage(i) for i in range(len(plans))))
        cuts = cut_stages(plans, len(devices))
        return cls(devices, start(draft, cuts, now=NOW), {})

    def work(self, batch: int) -> bool:
        """Open at most `batch` devices of the opening stage, as the worker does; False if no stage opens."""
        stage = self.rollout.opening_stage
        if stage is None:
            return False
        limit = min(batch, stage.room)
        step = walk_list(self.rollout, stage, self.outcomes, self.actions, limit)
        for device in step.new:
            action = Action(device, "r", device, stage.index, ActionState.SCHEDULED, self.now, self.now + TIMEOUT)
            self.actions[device] = action
            self.rollout = self.rollout.with_moved(None, action)
        walked = self.rollout.stages[stage.index].walked_to(step.position, is_end=step.is_end)
        self.rollout = self.rollout.with_stage(walked)
        self.rollout = evaluate(self.rollout, self.now)
        return True

    def say(self, device: str, step: int) -> None:
        """Deliver one report of a device, perhaps again, perhaps before an earlier one."""
        action = self.actions.get(device)
        if action is None:
            return
        outcome = self.outcomes[device]
        state = (*PROGRESS, outcome)[step]
        failed = state in {ActionState.FAILED, ActionState.REVERTED}
        report = ActionReport(
            action_id="00000000-0000-4000-8000-000000000001",
            sequence=step,
            state=state,
            cause=Cause.DOWNLOAD if failed else None,
            digests=DIGESTS if state is ActionState.CONFIRMED else {},
        )
        after = apply_report(action, report, DIGESTS, now=self.now, timeout=TIMEOUT)
        if after is not action:
            self.actions[device] = after
            self.rollout = evaluate(self.rollout.with_moved(action, after), self.now)

    def settle(self) -> None:
        """Everything that is still to come comes: batches, soak times and each device's last report."""
        for _ in range(100):
            if self.rollout.state.is_over:
                return
            self.work(1000)
            for device in [device for device, action in self.actions.items() if not action.state.is_final]:
                self.say(device, len(PROGRESS))
            self.now += timedelta(hours=1)
            self.rollout = evaluate(self.rollout, self.now)
        raise AssertionError(f"expected the rollout to end, found {self.rollout}")

    def check(self) -> None:
        """What holds at every moment."""
        stages = self.rollout.stages
        for stage in stages:
            mine = [action for action in self.actions.values() if action.stage_index == stage.index]
            counts = stage.counts
            assert counts.size == len(mine)
            assert counts.succeeded == sum(a.state is ActionState.CONFIRMED for a in mine)
            assert counts.failed == sum(a.state.is_failure for a in mine)
            assert counts.exposed == sum(a.offered for a in mine)
            assert stage.cut is not None
            assert counts.size <= stage.cut.planned
            assert stage.state is not StageState.WAITING or not mine


@st.composite
def plans(draw: st.DrawFn) -> list[StagePlan]:
    count = draw(st.integers(1, 3))
    percents = sorted(draw(st.sets(st.integers(1, 99), max_size=2)))
    return [StagePlan(count=count), *(StagePlan(percent=p) for p in percents), StagePlan(percent=100)]


moves = st.lists(
    st.one_of(
        st.tuples(st.just("work"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("say"), st.integers(0, 79), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.integers(0, 3), st.just(0)),
    ),
    max_size=150,
)


def final_state(fleet: Fleet, chosen: list[tuple[str, int, int]]) -> RolloutState:
    """Drive the fleet by the chosen moves and to its end; promises are checked after every move."""
    for kind, first, second in chosen:
        was_over = fleet.rollout.state.is_over
        if kind == "work":
            fleet.work(first)
        elif kind == "say":
            fleet.say(f"device-{first % len(fleet.outcomes)}", second)
        else:
            fleet.now += timedelta(hours=first)
            fleet.rollout = evaluate(fleet.rollout, fleet.now)
        fleet.check()
        assert not was_over or fleet.rollout.state.is_over
    fleet.settle()
    fleet.check()
    return fleet.rollout.state


@settings(max_examples=150, deadline=None)
@given(
    st.lists(OUTCOMES, min_size=1, max_size=80),
    plans(),
    moves,
    st.sampled_from([(100.0, 0.0), (90.0, 10.0), (50.0, 30.0)]),
    st.sampled_from([timedelta(0), timedelta(hours=2)]),
)
def test_any_order_of_reports_ends_alike(
    outcomes: list[ActionState],
    stages: list[StagePlan],
    chosen: list[tuple[str, int, int]],
    percents: tuple[float, float],
    soak: timedelta,
) -> None:
    """Doubled, reordered and delayed reports lead to the state that punctual ones lead to."""
    conditions = thresholds(*percents, soak=soak)
    punctual = Fleet.begin(outcomes, stages, conditions)
    disturbed = Fleet.begin(outcomes, stages, conditions)
    assert final_state(disturbed, chosen) is final_state(punctual, [])


@settings(max_examples=100, deadline=None)
@given(st.lists(OUTCOMES, min_size=1, max_size=80), plans(), moves)
def test_halted_rollout_stays_halted_and_exposes_nobody_more(
    outcomes: list[ActionState], stages: list[StagePlan], chosen: list[tuple[str, int, int]]
) -> None:
    """After the halt no stage opens, whatever is said later."""
    fleet = Fleet.begin(outcomes, stages, thresholds())
    final_state(fleet, [])
    if fleet.rollout.state is not RolloutState.HALTED:
        return
    known = set(fleet.actions)
    for kind, first, second in chosen:
        if kind == "say":
            fleet.say(f"device-{first % len(outcomes)}", second)
        fleet.now += timedelta(days=1)
        fleet.rollout = evaluate(fleet.rollout, fleet.now)
        assert not fleet.work(1000)
    assert fleet.rollout.state is RolloutState.HALTED
    assert fleet.rollout.halted_reason
    assert set(fleet.actions) == known


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), plans(), st.integers(1, 40))
def test_stages_hold_what_was_planned(members: int, stages: list[StagePlan], batch: int) -> None:
    """Opened in any steps, each stage holds exactly its planned count in the rollout's order; the last one everyone."""
    fleet = Fleet.begin([ActionState.CONFIRMED] * members, stages, thresholds(success_percent=1, error_percent=99))
    reached = 0
    for stage, plan in zip(fleet.rollout.stages, stages, strict=True):
        running = replace(fleet.rollout.stages[stage.index], state=StageState.RUNNING)
        fleet.rollout = fleet.rollout.with_stage(running)
        while not fleet.rollout.stages[stage.index].is_open:
            assert fleet.work(batch)
        reached += running.cut.planned if running.cut else 0
        assert len(fleet.actions) == reached >= plan.reach(members)
        threshold = max(opened.threshold for opened in fleet.rollout.stages[: stage.index + 1])
        inside = {device for device in fleet.outcomes if fleet.rollout.order.position(device) <= threshold}
        assert inside == set(fleet.actions)
    assert reached == members
