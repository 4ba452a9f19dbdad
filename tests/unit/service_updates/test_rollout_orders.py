"""Whatever order reports come in, doubled, late or lost, a rollout ends in the same state and keeps its promises.

A fleet of honest devices, each with one outcome, is driven by Hypothesis: which device speaks next, what it says
again, when the worker opens the next batch, when time passes, the clock is set, the service starts again. What is not
said on the way is said in the end, and who has lost its last word falls silent. The engine alone is run.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState, Cause
from protocol.plan import EvidenceGates, FailureGate, Plan, PlanStage
from service.application.plans import conditions_of, stage_plans, stages_of
from service.domain.action import Action, apply_report, offer, time_out
from service.domain.membership import StagePlan, cut_stages
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import resume, start
from service.domain.rollout_evaluation import evaluate
from service.domain.stage import StageState
from tests.rollout_conditions import threshold_plan
from tests.rollout_walk import walk_list
from tests.stored_rollouts import restored

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TIMEOUT = timedelta(days=1)
DIGESTS = {Slot.M4_0_MODEL: "a" * 64}
PROGRESS = (ActionState.DOWNLOADING, ActionState.INSTALLING, ActionState.TRIAL)
OUTCOMES = st.sampled_from(
    [ActionState.CONFIRMED] * 16 + [ActionState.FAILED, ActionState.REVERTED] * 2 + [ActionState.TIMED_OUT],
)
EVERYBODY = 1000  # more than any stage holds


@dataclass
class Fleet:
    """Devices and the rollout that the engine runs on them; counters move as the service moves them."""

    plan: Plan
    outcomes: dict[str, ActionState]
    rollout: Rollout
    actions: dict[str, Action]
    now: datetime = NOW

    @classmethod
    def begin(cls, outcomes: list[ActionState], plan: Plan) -> "Fleet":
        devices = {f"device-{number}": outcome for number, outcome in enumerate(outcomes)}
        draft = Rollout("r", "release", "group", conditions_of(plan), stages_of(plan))
        cuts = cut_stages(stage_plans(plan), len(devices))
        return cls(plan, devices, start(draft, cuts, now=NOW), {})

    def work(self, batch: int) -> bool:
        """Open at most `batch` devices of the opening stage, as the worker does; False if no stage opens."""
        stage = self.rollout.opening_stage
        if stage is None:
            return False
        limit = min(batch, stage.room)
        step = walk_list(self.rollout, stage, self.outcomes, self.actions, limit)
        for device in step.new:
            action = Action(device, "r", device, stage.index, ActionState.SCHEDULED, self.now, self.now + TIMEOUT)
            self.actions[device] = offer(action, self.now, timeout=TIMEOUT)
            self.rollout = self.rollout.with_moved(None, self.actions[device])
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
        if state is ActionState.TIMED_OUT:
            return  # lost, every time
        failed = state in {ActionState.FAILED, ActionState.REVERTED}
        report = ActionReport(
            action_id="00000000-0000-4000-8000-000000000001",
            sequence=step,
            state=state,
            cause=Cause.DOWNLOAD if failed else None,
            digests=DIGESTS if state is ActionState.CONFIRMED else {},
        )
        self._become(device, apply_report(action, report, DIGESTS, now=self.now, timeout=TIMEOUT))

    def _become(self, device: str, after: Action) -> None:
        before = self.actions[device]
        if after is not before:
            self.actions[device] = after
            self.rollout = evaluate(self.rollout.with_moved(before, after), self.now)

    def rush(self, count: int, *, good_first: bool) -> None:
        """Deliver last reports of so many devices, all that are good before all that are not, or after them."""
        waiting = [device for device, action in self.actions.items() if not action.state.is_final]
        waiting.sort(key=lambda device: (self.outcomes[device] is ActionState.CONFIRMED) is not good_first)
        for device in waiting[:count]:
            self.say(device, len(PROGRESS))

    def look(self, at: datetime) -> None:
        """The worker looks, at whatever time the clock shows."""
        self.now = at
        self.rollout = evaluate(self.rollout, at)

    def restart(self) -> None:
        """Only the stored form is left."""
        self.rollout = restored(self.rollout, self.plan)

    def settle(self) -> None:
        """Everything that is still to come comes: batches, soak times, last reports, silence, a yes to a question."""
        for _ in range(100):
            if self.rollout.state.is_over:
                return
            self.work(EVERYBODY)
            for device in [device for device, action in self.actions.items() if not action.state.is_final]:
                self.say(device, len(PROGRESS))
                if self.outcomes[device] is ActionState.TIMED_OUT:
                    self._become(device, time_out(self.actions[device], self.now))
            self.look(self.now + timedelta(days=1))
            if self.rollout.state is RolloutState.PAUSED:
                self.rollout = evaluate(resume(self.rollout, self.now), self.now)
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
        st.tuples(st.just("rush"), st.integers(1, 160), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("set"), st.integers(-72, 72), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=150,
)


def move(fleet: Fleet, kind: str, first: int, second: int) -> None:
    """Do one of `moves`."""
    match kind:
        case "work":
            fleet.work(first)
        case "say":
            fleet.say(f"device-{first % len(fleet.outcomes)}", second)
        case "rush":
            fleet.rush(first, good_first=bool(second))
        case "wait":
            fleet.look(fleet.now + timedelta(hours=first))
        case "set":
            fleet.look(NOW + timedelta(hours=first))
        case _:
            fleet.restart()


def final_state(fleet: Fleet, chosen: list[tuple[str, int, int]]) -> RolloutState:
    """Drive the fleet by the chosen moves and to its end; promises are checked after every move."""
    for each in chosen:
        was_over = fleet.rollout.state.is_over
        move(fleet, *each)
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
    """Doubled, reordered, delayed and lost reports lead where punctual ones lead; so does a clock that is set."""
    success, error = percents
    plan = threshold_plan(stages, success_percent=success, error_percent=error, soak=soak)
    punctual = Fleet.begin(outcomes, plan)
    disturbed = Fleet.begin(outcomes, plan)
    assert final_state(disturbed, chosen) is final_state(punctual, [])


@st.composite
def few_bad(draw: st.DrawFn) -> list[ActionState]:
    """So many that a test can decide, of which few fail: too few to halt, or just enough."""
    devices = draw(st.integers(60, 160))
    others = st.sampled_from([ActionState.FAILED, ActionState.REVERTED, ActionState.TIMED_OUT])
    bad = draw(st.dictionaries(st.integers(0, devices - 1), others, min_size=2, max_size=16))
    return [bad.get(number, ActionState.CONFIRMED) for number in range(devices)]


@settings(max_examples=200, deadline=None)
@given(few_bad(), st.sampled_from([15, 60, 95]), moves, st.booleans())
def test_evidence_ends_alike_whatever_order_results_come_in(
    outcomes: list[ActionState],
    percent: int,
    chosen: list[tuple[str, int, int]],
    small_stage_rule: bool,  # noqa: FBT001 - drawn
) -> None:
    """Where a stage is given the release as a whole and waits for all results: the same end, by the same devices."""
    gate = FailureGate(acceptable=0.05, worst=0.3)
    plan = Plan(
        stages=(
            PlanStage(percent=percent, resolved=1.0, soak=timedelta(hours=2)),
            PlanStage(percent=100, resolved=1.0),
        ),
        gates=EvidenceGates(alpha=0.05, beta=0.3, failures=(gate,), small_stage_rule=small_stage_rule),
    )
    punctual = Fleet.begin(outcomes, plan)
    disturbed = Fleet.begin(outcomes, plan)
    disturbed.work(EVERYBODY)
    whole = [(kind, EVERYBODY if kind == "work" else number, second) for kind, number, second in chosen]
    assert final_state(disturbed, whole) is final_state(punctual, [])
    assert set(disturbed.actions) == set(punctual.actions)


@settings(max_examples=100, deadline=None)
@given(st.lists(OUTCOMES, min_size=1, max_size=80), plans(), moves)
def test_halted_rollout_stays_halted_and_exposes_nobody_more(
    outcomes: list[ActionState], stages: list[StagePlan], chosen: list[tuple[str, int, int]]
) -> None:
    """After the halt no stage opens, whatever is said later."""
    fleet = Fleet.begin(outcomes, threshold_plan(stages))
    final_state(fleet, [])
    if fleet.rollout.state is not RolloutState.HALTED:
        return
    known = set(fleet.actions)
    for kind, first, second in chosen:
        if kind == "say":
            fleet.say(f"device-{first % len(outcomes)}", second)
        if kind == "restart":
            fleet.restart()
        fleet.look(fleet.now + timedelta(days=1))
        assert not fleet.work(EVERYBODY)
    assert fleet.rollout.state is RolloutState.HALTED
    assert fleet.rollout.halted_reason
    assert set(fleet.actions) == known


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), plans(), st.integers(1, 40))
def test_stages_hold_what_was_planned(members: int, stages: list[StagePlan], batch: int) -> None:
    """Opened in any steps, each stage holds exactly its planned count in the rollout's order; the last one everyone."""
    plan = threshold_plan(stages, success_percent=1, error_percent=99)
    fleet = Fleet.begin([ActionState.CONFIRMED] * members, plan)
    reached = 0
    for stage, reach in zip(fleet.rollout.stages, stages, strict=True):
        running = replace(fleet.rollout.stages[stage.index], state=StageState.RUNNING)
        fleet.rollout = fleet.rollout.with_stage(running)
        while not fleet.rollout.stages[stage.index].is_open:
            assert fleet.work(batch)
        reached += running.cut.planned if running.cut else 0
        assert len(fleet.actions) == reached >= reach.reach(members)
        threshold = max(opened.threshold for opened in fleet.rollout.stages[: stage.index + 1])
        inside = {device for device in fleet.outcomes if fleet.rollout.order.position(device) <= threshold}
        assert inside == set(fleet.actions)
    assert reached == members
