"""The engine on evidence and at a pace, driven by Hypothesis through whatever can happen to it.

A fleet of devices with one outcome each, known from the beginning. Reports are late, lost, doubled and out of order;
clocks jump; the worker and the service restart, so that only the stored form is left; people pause, resume, retry and
abort; devices are shut out, and some that failed do better at a later attempt. What must hold is checked after every
step.
"""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.geometry import Slot
from protocol.messages import ActionReport, ActionState, Cause
from protocol.plan import EvidenceGates, FailureGate, Pace, Plan, PlanStage, Retries
from service.application.plans import conditions_of, stage_plans, stages_of
from service.domain.action import Action, apply_report, offer, time_out, withdraw
from service.domain.membership import cut_stages
from service.domain.policy import EvidencePolicy
from service.domain.retries import MAX_ATTEMPTS, let_go, may_be_retried, retried
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import abort, pause, resume, retry, start
from service.domain.rollout_counts import Exposure, Fate, Trace
from service.domain.rollout_evaluation import evaluate, next_look
from service.domain.stage import Stage, StageState
from service.domain.verdict import Decision, Verdict
from tests.rollout_walk import walk_list
from tests.stored_rollouts import restored

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TIMEOUT = timedelta(days=1)
DIGESTS = {Slot.M4_0_MODEL: "a" * 64}
ACTION_ID = "00000000-0000-4000-8000-000000000001"
DEVICES = 160
PER_MINUTE = 30.0
CONCURRENCY = 90
GATES = (
    FailureGate(name="failures", weight=2),
    FailureGate(name="broken", causes=(Cause.BOOT, Cause.HANG), acceptable=0.005, worst=0.1),
)
TRIED_AGAIN = (ActionState.FAILED, ActionState.TIMED_OUT)
OK = (ActionState.CONFIRMED, None)
SILENT = (ActionState.TIMED_OUT, Cause.SILENT)
BAD = ((ActionState.REVERTED, Cause.HANG), (ActionState.FAILED, Cause.DOWNLOAD), (ActionState.FAILED, Cause.BOOT))


def plan_of(*, is_paced: bool, small_stage_rule: bool, deadline: timedelta | None, retries: Retries | None) -> Plan:
    return Plan(
        stages=(
            PlanStage(count=60, soak=timedelta(hours=1), resolved=0.5),
            PlanStage(percent=80, resolved=0.8),
            PlanStage(percent=100),
        ),
        pace=Pace(per_minute=PER_MINUTE, concurrency=CONCURRENCY) if is_paced else Pace(),
        gates=EvidenceGates(alpha=0.05, beta=0.3, failures=GATES, small_stage_rule=small_stage_rule),
        device_timeout=TIMEOUT,
        retries=retries,
        deadline=deadline,
    )


class Course(RuleBasedStateMachine):
    """One rollout and everything around it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.went_on = timedelta(0)  # of the clock, forward
        self.actions: dict[str, Action] = {}
        self.started: list[str] = []  # in the order in which they were given the release
        self.verdicts: list[Verdict] = []
        self.resumes = 0
        self.retries = 0
        self.by_itself: Counter[str] = Counter()  # further attempts of devices that no person asked for

    @initialize(
        seed=st.integers(0, 2**32),
        bad_percent=st.sampled_from([0, 0, 0, 1, 3, 10, 40]),
        is_paced=st.booleans(),
        small_stage_rule=st.booleans(),
        deadline=st.sampled_from([None, timedelta(hours=3), timedelta(days=2)]),
        retries=st.sampled_from([None, Retries(), Retries(most=1, pause=timedelta(0))]),
    )
    def begin(  # noqa: PLR0917 - drawn by name
        self,
        seed: int,
        bad_percent: int,
        is_paced: bool,  # noqa: FBT001 - drawn by name
        small_stage_rule: bool,  # noqa: FBT001 - as above
        deadline: timedelta | None,
        retries: Retries | None,
    ) -> None:
        """A group with outcomes, and a rollout that has been started."""
        self.random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.bad_percent = bad_percent
        self.is_paced = is_paced
        self.plan = plan_of(is_paced=is_paced, small_stage_rule=small_stage_rule, deadline=deadline, retries=retries)
        self.outcomes = {f"device-{number}": self._outcome() for number in range(DEVICES)}
        self.mends = {device: self.random.random() < 0.5 for device in self.outcomes}
        cuts = cut_stages(stage_plans(self.plan), len(self.outcomes))
        draft = Rollout("r", "release", "group", conditions_of(self.plan), stages_of(self.plan))
        self.rollout = draft
        self._take(start(draft, cuts, now=self.now))

    def _outcome(self) -> tuple[ActionState, Cause | None]:
        if self.random.random() * 100 < self.bad_percent:
            return self.random.choice(BAD)
        return SILENT if self.random.random() < 0.01 else OK

    def _outcome_of(self, device: str) -> tuple[ActionState, Cause | None]:
        """Shut out before it has a result, a device does no better when it is let in again."""
        has_failed = any(attempt.cause is not None for attempt in self.actions[device].past)
        return OK if has_failed and self.mends[device] else self.outcomes[device]

    def _take(self, after: Rollout) -> None:
        """Let the engine judge and keep what it became, as `store_rollout` does."""
        before = self.rollout
        judged = evaluate(after, self.now)
        again = evaluate(replace(judged, verdicts=()), self.now)
        assert again == replace(judged, verdicts=()), "a second look changes something"
        may_go_on = before.state is RolloutState.FINISHED or before.has_ended_empty
        is_retried = may_go_on and after.retry_cursor is not None
        assert not before.state.is_over or judged.state.is_over or is_retried
        assert before.state is not RolloutState.HALTED or judged.state in {RolloutState.HALTED, RolloutState.ABORTED}
        self.verdicts += judged.verdicts
        self.rollout = replace(judged, verdicts=())

    def _change(self, device: str, after: Action) -> None:
        before = self.actions[device]
        if after is before:
            return
        if after.offered and not before.offered:
            self.started.append(device)
        was_taken_back = after.attempt < before.attempt
        if self.rollout.retries(after) and not was_taken_back:
            assert self.plan.retries is not None
            assert not self.rollout.state.is_over
            assert (after.state in TRIED_AGAIN, after.cause in self.plan.retries.causes) == (True, True)
            after = retried(after, now=self.now, pause=self.plan.retries.pause, timeout=TIMEOUT)
            self.by_itself[device] += 1
        self.actions[device] = after
        self._take(self.rollout.with_moved(before, after))

    def _pick(self, count: int, *states: ActionState) -> list[str]:
        found = [device for device, action in self.actions.items() if action.state in states]
        return self.random.sample(found, min(count, len(found)))

    @rule(count=st.integers(1, 80))
    def open(self, count: int) -> None:
        """The worker lets further devices in."""
        stage = self.rollout.opening_stage
        if stage is None:
            return
        limit = min(count, self.rollout.allowed(self.now), stage.room)
        step = walk_list(self.rollout, stage, self.outcomes, self.actions, limit)
        rollout = self.rollout
        for device in step.new:
            action = Action(ACTION_ID, "r", device, stage.index, ActionState.SCHEDULED, self.now, self.now + TIMEOUT)
            self.actions[device] = action
            rollout = rollout.with_moved(None, action)
        rollout = rollout.paced(len(step.new), self.now)
        if limit or not stage.room:
            walked = rollout.stages[stage.index].walked_to(step.position, is_end=step.is_end)
            rollout = rollout.with_stage(walked)
        self._take(rollout)

    @rule(count=st.integers(1, 60))
    def offer(self, count: int) -> None:
        """Devices come for the release."""
        for device in self._pick(count, ActionState.SCHEDULED):
            if self.rollout.offers(self.actions[device]):
                self._change(device, offer(self.actions[device], self.now, timeout=TIMEOUT))

    @rule(count=st.integers(1, 60), times=st.integers(1, 2), bad_first=st.booleans())
    def report(self, count: int, times: int, bad_first: bool) -> None:  # noqa: FBT001 - drawn by name
        """Devices report how it ended: once or twice, failures perhaps first."""
        chosen = self._pick(count, ActionState.OFFERED, ActionState.DOWNLOADING, ActionState.CONFIRMED)
        if bad_first:
            chosen.sort(key=lambda device: self._outcome_of(device) == OK)
        for device in chosen * times:
            state, cause = self._outcome_of(device)
            if state is ActionState.TIMED_OUT:
                continue  # lost, every time
            digests = DIGESTS if state is ActionState.CONFIRMED else {}
            attempt = self.actions[device].attempt
            report = ActionReport(
                action_id=ACTION_ID, attempt=attempt, sequence=9, state=state, cause=cause, digests=digests
            )
            self._change(device, apply_report(self.actions[device], report, DIGESTS, now=self.now, timeout=TIMEOUT))

    @rule(times=st.integers(1, 4))
    def go_well(self, times: int) -> None:
        """Hours in which nothing is late: let in, given, reported."""
        for _ in range(times):
            self.open(count=DEVICES)
            self.offer(count=DEVICES)
            self.report(count=DEVICES, times=1, bad_first=False)
            self.silent_ones_time_out()
            self.look_later(seconds=3600)

    @rule(count=st.integers(1, 30))
    def report_progress(self, count: int) -> None:
        """Devices say that they download; of some it comes late."""
        for device in self._pick(count, ActionState.OFFERED, ActionState.CONFIRMED, ActionState.REVERTED):
            report = ActionReport(action_id=ACTION_ID, sequence=1, state=ActionState.DOWNLOADING)
            self._change(device, apply_report(self.actions[device], report, DIGESTS, now=self.now, timeout=TIMEOUT))

    @rule(count=st.integers(1, 30), state=st.sampled_from([ActionState.CONFIRMED, ActionState.FAILED]))
    def report_of_an_earlier_attempt(self, count: int, state: ActionState) -> None:
        """It comes late, whatever it says: nothing changes."""
        for device in [device for device, action in self.actions.items() if action.past][:count]:
            action = self.actions[device]
            report = ActionReport(
                action_id=ACTION_ID, attempt=action.attempt - 1, sequence=99, state=state, digests=DIGESTS
            )
            assert apply_report(action, report, DIGESTS, now=self.now, timeout=TIMEOUT) is action

    @rule()
    def pauses_end(self) -> None:
        """Devices that are to try again may."""
        for device, action in self.actions.items():
            if action.is_held and action.not_before is not None and action.not_before <= self.now:
                self.actions[device] = let_go(action, now=self.now, timeout=TIMEOUT)

    @rule(count=st.integers(1, 60))
    def retry(self, count: int) -> None:
        """A person has those that failed try again; the worker does as many as the pace lets in."""
        may_go_on = self.rollout.state is RolloutState.FINISHED or self.rollout.has_ended_empty
        if self.rollout.state.is_over and not may_go_on:
            return
        self.resumes += 1  # it answers a question, too
        self.retries += 1
        self._take(retry(self.rollout, self.now))
        if not self.rollout.is_retrying:
            return
        batch = min(count, self.rollout.allowed(self.now))
        chosen: list[str] = []
        rollout = self.rollout
        for device, before in self.actions.items():
            has_room = before.offered or before.state is not ActionState.CANCELLED
            has_room = has_room or rollout.stages[before.stage_index].room > 0
            if len(chosen) == batch or not may_be_retried(before) or not has_room:
                continue
            chosen.append(device)
            after = retried(before, now=self.now, pause=timedelta(0), timeout=TIMEOUT)
            self.actions[device], rollout = after, rollout.with_moved(before, after)
        self._take(replace(rollout.paced(len(chosen), self.now), retry_cursor=None))

    @rule()
    def silent_ones_time_out(self) -> None:
        """A deadline is over, whoever is late is silent for good."""
        for device in self._pick(DEVICES, ActionState.OFFERED, ActionState.DOWNLOADING):
            if self._outcome_of(device) == SILENT:
                self._change(device, time_out(self.actions[device], self.now))

    @rule(count=st.integers(1, 2))
    def shut_out(self, count: int) -> None:
        """Devices are blocked, begun or not."""
        for device in self._pick(count, ActionState.SCHEDULED, ActionState.OFFERED, ActionState.DOWNLOADING):
            self._change(device, withdraw(self.actions[device], "blocked", now=self.now))

    @rule(seconds=st.sampled_from([1, 30, 60, 3600, 90_000, -5, -3600, -90_000]))
    def look_later(self, seconds: int) -> None:
        """Time goes on, or the clock jumps; evidence is none of its business."""
        before = self._figures()
        self.now += timedelta(seconds=seconds)
        self.went_on += timedelta(seconds=min(max(0, seconds), 60))  # a worker makes up for a minute
        self._take(self.rollout)
        assert self._figures() == before

    @rule()
    def restart(self) -> None:
        """Only the stored form is left, and it is the same rollout."""
        stored = restored(self.rollout, self.plan)
        assert stored == self.rollout
        self.rollout = stored

    @rule()
    def pause(self) -> None:
        """A person."""
        if not self.rollout.state.is_over:
            self._take(pause(self.rollout))

    @rule()
    def resume(self) -> None:
        """A person."""
        if self.rollout.state is RolloutState.PAUSED:
            self.resumes += 1
            after = resume(self.rollout, self.now)
            self._take(after)

    @precondition(lambda self: len(self.verdicts) > 4)
    @rule(really=st.integers(0, 9))
    def abort(self, really: int) -> None:
        """A person, seldom."""
        if not really and self.rollout.state is not RolloutState.FINISHED:
            self._take(abort(self.rollout))

    def _figures(self) -> dict[str, object]:
        return dict(self.rollout.figures)

    @invariant()
    def counts_each_device_once(self) -> None:
        """Counters are what the actions say."""
        for stage in self.rollout.stages if self.actions else ():
            mine = [action for action in self.actions.values() if action.stage_index == stage.index]
            counts = stage.counts
            assert counts.size == sum(a.state is not ActionState.CANCELLED for a in mine)
            assert counts.exposed == sum(a.offered for a in mine)
            assert counts.proved == sum(a.state is ActionState.CONFIRMED for a in mine)
            assert counts.withdrawn == sum(a.offered and a.state is ActionState.CANCELLED for a in mine)
            assert sum(counts.causes.values()) == sum(bool(a.blames) for a in mine)
            assert counts.again == sum(a.offered and a.state is ActionState.SCHEDULED for a in mine)

    @invariant()
    def tries_no_more_often_than_the_plan_says(self) -> None:
        """By itself, however often persons ask for more; and they do not without end, either."""
        most = 0 if not self.actions or self.plan.retries is None else self.plan.retries.most
        assert all(times <= most for times in self.by_itself.values()), self.by_itself
        assert all(action.attempt <= MAX_ATTEMPTS for action in self.actions.values())

    @invariant()
    def exposes_nobody_ahead_of_stage_and_pace(self) -> None:
        """Stages open in their order, are not overfilled, and the pace holds whatever the clock did."""
        if not self.actions:
            return
        stages = self.rollout.stages
        for before, stage in zip((None, *stages), stages, strict=False):
            assert stage.cut is not None
            assert stage.counts.size <= stage.cut.planned
            if stage.state is not StageState.WAITING:
                assert before is None or before.state is StageState.PASSED
            else:
                assert stage.counts.size == 0
        if self.is_paced:
            assert len(self.actions) <= PER_MINUTE * (self.went_on / timedelta(minutes=1) + 1) + 1
            assert self.rollout.unresolved <= CONCURRENCY

    @invariant()
    def late_reports_only_delay(self) -> None:
        """Neither test stands ahead of where punctual reports of those that were given the release would put it."""
        if not self.started:
            return
        policy = self.rollout.conditions.policy
        assert isinstance(policy, EvidencePolicy)
        found = Exposure.of(stage.counts for stage in self.rollout.stages)
        assert found.started == len(self.started) == len(set(self.started))
        traces = Counter(
            Trace(frozenset({cause}), Fate.CONFIRMED if self.mends[device] else Fate.FAILED)
            for device in self.started
            if (cause := self.outcomes[device][1]) is not None
        )
        proved = sum(self.outcomes[device] == OK or self.mends[device] for device in self.started)
        punctual = Exposure(len(self.started), proved, traces)
        for gate in policy.gates:
            halting = gate.rate.log_halt(found.failed(gate.causes), found.started)
            assert halting <= gate.rate.log_halt(punctual.failed(gate.causes), punctual.started)
            passing = gate.rate.log_pass(found.unproved(gate.causes), found.started)
            assert passing <= gate.rate.log_pass(punctual.unproved(gate.causes), punctual.started)

    @invariant()
    def decides_everything_once(self) -> None:
        """No stage opens or passes twice, a halt is one halt, and no question is put twice without an answer."""
        finished = [verdict for verdict in self.verdicts if verdict.decision is Decision.FINISHED]
        assert len(finished) <= 1 + self.retries
        once = Counter((v.decision, v.stage_index) for v in self.verdicts if v.decision in _ONCE)
        assert all(times == 1 for times in once.values()), once
        asked = sum(verdict.decision is Decision.ASKED for verdict in self.verdicts)
        assert asked <= self.resumes + 1
        halts = sum(verdict.decision is Decision.HALTED for verdict in self.verdicts)
        assert halts == bool(self.actions and self.rollout.halted_reason)

    @invariant()
    def worker_is_called_for_what_is_left(self) -> None:
        """Whatever only time can move has a look, and none of them is in the past of a worker that has just looked."""
        if not self.actions:
            return
        look = next_look(self.rollout, self.now)
        assert look is None or look >= self.now
        soaking = any(stage.state is StageState.SOAKING and _ends(stage) > self.now for stage in self.rollout.stages)
        if self.rollout.state is RolloutState.RUNNING and (soaking or self.rollout.allowed(self.now)):
            opening = self.rollout.opening_stage
            assert look is not None or (opening is None and not soaking)


_ONCE = {Decision.OPENED, Decision.PASSED, Decision.SHOWN, Decision.HALTED}


def _ends(stage: Stage) -> datetime:
    assert stage.soak_ends_at is not None
    return stage.soak_ends_at


TestCourse = Course.TestCase
TestCourse.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
