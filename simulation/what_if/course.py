"""One rollout against a synthetic fleet, decided by the engine's own code (service/domain/rollout.py).

Devices are let in as the plan's stages, rate and concurrency allow; what they report moves the same counters that
reports move in the service, and `evaluate` decides. Time goes on from one thing that happens to the next, at steps of
a grid that is fine beside the length of a stage.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import inf

import numpy as np

from protocol.messages import ActionState
from protocol.plan import Plan
from service.application.plans import conditions_of, stage_plans, stages_of
from service.domain.membership import StageCut
from service.domain.rollout import Rollout, RolloutState, Stage, evaluate, next_look, start
from service.domain.rollout_counts import StageCounts
from simulation.what_if.fleet import Ending, FleetModel
from simulation.what_if.sampling import Batch, Sampler

LONGEST = timedelta(days=365)  # a rollout that takes longer has not ended
SHORTEST_STEP = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rollout went.

    Attributes:
        state: finished, halted, or paused where it asks a person.
        exposed: devices that were given the release.
        harmed: of these, the ones that it was bad for.
        failed: that failed, for whatever reason.
        confirmed: that confirmed.
        seconds: from its start to its end.
        reason: of a halt or a question.
        timeline: (seconds, exposed, confirmed, failed), where it was asked for.
    """

    state: RolloutState
    exposed: int
    harmed: int
    failed: int
    confirmed: int
    seconds: float
    reason: str
    timeline: tuple[tuple[float, int, int, int], ...] = ()


@dataclass(slots=True)
class _Moved:
    """What happens to some devices of a stage at one time."""

    given: int = 0
    harmed: int = 0
    ended: dict[int, int] = field(default_factory=dict)  # by ending


class Course:
    """Runs one rollout.

    Args:
        model: the fleet.
        plan: of the rollout.
        sampler: draws what becomes of devices.
        origin: of the scenario, UTC, aware; the rollout starts then.
        looks_per_stage: how finely time is cut.
        keeps_timeline: whether the course is wanted, too.
    """

    def __init__(
        self,
        model: FleetModel,
        plan: Plan,
        sampler: Sampler,
        *,
        origin: datetime,
        looks_per_stage: int = 20,
        keeps_timeline: bool = False,
    ) -> None:
        self._model = model
        self._sampler = sampler
        self._origin = origin
        self._looks = looks_per_stage
        self._timeline: list[tuple[float, int, int, int]] | None = [] if keeps_timeline else None
        self._timeout = plan.device_timeout.total_seconds()
        draft = Rollout("what-if", "release", "group", conditions_of(plan), stages_of(plan))
        self._rollout = start(draft, _cuts(plan, model.devices), now=origin)
        self._now = 0.0
        self._let_in = 0  # devices of the stage that is being opened
        self._moves: dict[tuple[float, int], _Moved] = {}
        self._times: list[float] = []
        self._harmed = 0

    def run(self, *, tell: Callable[[float, Rollout], None] | None = None) -> Ended:
        """Run to the end."""
        limit = LONGEST.total_seconds()
        while not self._rollout.state.is_over and self._rollout.state is not RolloutState.PAUSED:
            self._open()
            if self._rollout.state.is_over or self._now > limit or not self._go_on():
                break
            if tell is not None:
                tell(self._now, self._rollout)
        return self._ended()

    def _open(self) -> None:
        """Let in as many devices of the opening stage as the plan allows now."""
        stage = self._rollout.opening_stage
        if stage is None or stage.cut is None:
            return
        devices = min(stage.cut.planned - self._let_in, self._allowed(stage))
        if devices > 0:
            self._let_in += devices
            self._count(stage.index, scheduled=devices)
            self._schedule(stage.index, self._sampler.draw(devices, self._now))
        if self._let_in >= stage.cut.planned:
            self._let_in = 0
            opened = replace(self._rollout.stages[stage.index], is_open=True)
            self._rollout = self._rollout.with_stage(opened)
        self._look()

    def _allowed(self, stage: Stage) -> int:
        """Return how many devices the pace lets in until the next step: a worker that looks each second."""
        pacing, confirmed = self._rollout.conditions.pacing, self._rollout.confirmed
        rate = pacing.rate_per_second(confirmed)
        by_rate = stage.cut.planned if rate == inf or stage.cut is None else max(1, round(rate * self._step(stage)))
        free = inf if pacing.concurrency is None else pacing.concurrency - self._rollout.unresolved
        return int(max(0, min(by_rate, free)))

    def _step(self, stage: Stage) -> float:
        rate = self._rollout.conditions.pacing.rate_per_second(self._rollout.confirmed)
        planned = stage.cut.planned if stage.cut else 0
        return max(SHORTEST_STEP, planned / rate / self._looks)

    def _schedule(self, index: int, batch: Batch) -> None:
        grid = self._grid(index)
        given = np.ceil(batch.given_at / grid) * grid
        ended = np.ceil(batch.ends_at / grid) * grid
        for count, at_first, at_last, number in zip(
            batch.counts.tolist(), given.tolist(), ended.tolist(), batch.endings.tolist(), strict=True
        ):
            ending = self._model.endings[number]
            moved = self._moved(at_first, index)
            moved.given += count
            moved.harmed += count * ending.is_harmed
            is_silent = ending.state is ActionState.TIMED_OUT
            at = at_first + self._timeout if is_silent else max(at_last, at_first)
            ends = self._moved(at, index).ended
            ends[number] = ends.get(number, 0) + count

    def _grid(self, index: int) -> float:
        """Return the distance of the steps in a stage, seconds."""
        stage = self._rollout.stages[index]
        spread = max(kind.update_seconds + 3 * kind.contact_seconds for kind in self._model.kinds)
        return max(SHORTEST_STEP, self._step(stage) if stage.cut else 0.0, spread / self._looks)

    def _moved(self, at: float, index: int) -> _Moved:
        if (at, index) not in self._moves:
            self._moves[at, index] = _Moved()
            heapq.heappush(self._times, at)
        return self._moves[at, index]

    def _go_on(self) -> bool:
        """Go to the next time at which something happens; False if nothing will."""
        at = min(self._next_move(), self._next_look())
        if at == inf:
            return False
        self._now = max(self._now, at)
        while self._times and self._times[0] <= self._now:
            time = heapq.heappop(self._times)
            for index in range(len(self._rollout.stages)):
                moved = self._moves.pop((time, index), None)
                if moved is not None:
                    self._apply(index, moved)
        self._look()
        return True

    def _next_move(self) -> float:
        return self._times[0] if self._times else inf

    def _next_look(self) -> float:
        stage = self._rollout.opening_stage
        if stage is not None:
            pacing = self._rollout.conditions.pacing
            is_full = pacing.concurrency is not None and self._rollout.unresolved >= pacing.concurrency
            if not is_full:
                return self._now + (0.0 if self._let_in == 0 else self._step(stage))
        look = next_look(self._rollout, self._moment)
        return inf if look is None else (look - self._origin).total_seconds()

    @property
    def _moment(self) -> datetime:
        return self._origin + timedelta(seconds=self._now)

    def _look(self) -> None:
        self._rollout = replace(evaluate(self._rollout, self._moment), verdicts=())
        if self._timeline is not None:
            totals = [stage.counts for stage in self._rollout.stages]
            exposed, confirmed = sum(c.exposed for c in totals), sum(c.proved for c in totals)
            self._timeline.append((self._now, exposed, confirmed, sum(c.failed for c in totals)))

    def _apply(self, index: int, moved: _Moved) -> None:
        self._harmed += moved.harmed
        self._count(index, given=moved.given)
        for number, count in moved.ended.items():
            self._count(index, ending=self._model.endings[number], ended=count)

    def _count(
        self, index: int, *, scheduled: int = 0, given: int = 0, ending: Ending | None = None, ended: int = 0
    ) -> None:
        """Move a stage's counters as that many reports would."""
        before = self._rollout.stages[index].counts
        is_good = ending is not None and ending.state is ActionState.CONFIRMED
        causes = dict(before.causes)
        if ending is not None and ending.cause is not None:
            causes[ending.cause] = causes.get(ending.cause, 0) + ended
        is_reverted = ending is not None and ending.state is ActionState.REVERTED
        counts = StageCounts(
            scheduled=before.scheduled + scheduled - given,
            in_progress=before.in_progress + given - ended,
            succeeded=before.succeeded + ended * is_good,
            failed=before.failed + ended * (not is_good),
            reverted=before.reverted + ended * is_reverted,
            ruled=before.ruled + ended * is_reverted,
            exposed=before.exposed + given,
            proved=before.proved + ended * is_good,
            causes=causes,
        )
        self._rollout = self._rollout.with_stage(replace(self._rollout.stages[index], counts=counts))

    def _ended(self) -> Ended:
        totals = [stage.counts for stage in self._rollout.stages]
        return Ended(
            state=self._rollout.state,
            exposed=sum(counts.exposed for counts in totals),
            harmed=self._harmed,
            failed=sum(counts.failed for counts in totals),
            confirmed=sum(counts.proved for counts in totals),
            seconds=self._now,
            reason=self._rollout.halted_reason or self._rollout.question,
            timeline=tuple(self._timeline or ()),
        )


def _cuts(plan: Plan, devices: int) -> list[StageCut]:
    cuts, reached = [], 0
    for number, stage in enumerate(stage_plans(plan)):
        reach = max(reached, stage.reach(devices))
        cuts.append(StageCut(number, reach - reached, is_capped=True))
        reached = reach
    return cuts
