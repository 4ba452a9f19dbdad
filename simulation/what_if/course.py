"""One rollout against a synthetic fleet, decided by the engine's own code (service/domain/rollout.py).

Devices are let in as the plan's stages, rate and concurrency allow; what they report moves the same counters that
reports move in the service, and `evaluate` decides. Time goes on in steps that let in a fixed share of the devices
that are exposed already, so that exposure is as exact, in proportion, at ten devices as at a million.

A device whose maintenance window is closed is held, which costs the pace nothing, and let in at its pace once it opens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil, inf

from protocol.plan import Plan
from service.application.plans import conditions_of, stage_plans, stages_of
from service.domain.gates.arms import EventGate
from service.domain.membership import HeldOut, StageCut, cut_stages, held_out
from service.domain.policy import EvidencePolicy, Policy
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import start
from service.domain.rollout_counts import Exposure
from service.domain.rollout_evaluation import evaluate, next_look
from service.domain.stage import Stage
from simulation.what_if.columns import columns_of
from simulation.what_if.fleet import FleetModel
from simulation.what_if.health import Health
from simulation.what_if.sampling import Sampler, shares_of_clocks
from simulation.what_if.tally import StageTally

LONGEST = timedelta(days=365)  # a rollout that takes longer has not ended
PATIENCE = 0.2  # of the precision: share of a stage's time between two looks at its last results


@dataclass(frozen=True, slots=True)
class Precision:
    """How finely time is cut.

    Attributes:
        portion: devices let in from one look to the next, as a share of those let in before; less at the beginning.
        slot_seconds: results that come together.
        health_seconds: from one look at what confirmed devices say to the next.
    """

    portion: float
    slot_seconds: float
    health_seconds: float


FINE = Precision(portion=0.02, slot_seconds=2.0, health_seconds=3600.0)  # for one run
COARSE = Precision(portion=0.45, slot_seconds=10.0, health_seconds=7200.0)  # for many
MANY = 1000  # devices, below which portions are smaller: there most gates decide, and every look can err
FEWEST = 0.3  # of the portion, how small it gets


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a rollout is.

    Attributes:
        seconds: from its start.
        exposed, confirmed, failed: devices so far.
    """

    seconds: float
    exposed: int
    confirmed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rollout went.

    Attributes:
        state: finished, halted, or paused where it asks a person; running where it takes longer than a year.
        exposed: devices that were given the release.
        harmed: of these, the ones that it was bad for.
        failed: that failed, for whatever reason.
        confirmed: that confirmed.
        seconds: from its start to its end.
        reason: of a halt or a question.
        timeline: where it was asked for.
    """

    state: RolloutState
    exposed: int
    harmed: int
    failed: int
    confirmed: int
    seconds: float
    reason: str
    timeline: tuple[Moment, ...] = ()


class Course:
    """Runs one rollout.

    Args:
        model: the fleet as it is under the plan (`under`).
        plan: of the rollout.
        sampler: draws what becomes of devices.
        origin: of the scenario, UTC, aware; the rollout starts then.
        precision: how finely time is cut.
        keeps_timeline: whether the course is wanted, too.
    """

    def __init__(
        self,
        model: FleetModel,
        plan: Plan,
        sampler: Sampler,
        *,
        origin: datetime,
        precision: Precision = COARSE,
        keeps_timeline: bool = False,
    ) -> None:
        self._sampler = sampler
        self._origin = origin
        self._precision = precision
        self._timeline: list[Moment] | None = [] if keeps_timeline else None
        draft = Rollout("what-if", "release", "group", conditions_of(plan), stages_of(plan))
        self._rollout = start(draft, _cuts(plan, model.devices), now=origin)
        self._tallies = [
            StageTally(
                columns_of(model.endings),
                slot_seconds=precision.slot_seconds,
                timeout_seconds=plan.device_timeout.total_seconds(),
                longest_seconds=LONGEST.total_seconds(),
                pause_seconds=plan.retries.pause.total_seconds() if plan.retries else 0.0,
                clocks=len(model.clocks),
            )
            for _ in self._rollout.stages
        ]
        self._health = _health(self._rollout.conditions.policy, sampler)
        self._health_at = precision.health_seconds
        self._devices = model.devices
        self._clocks, self._shares = model.clocks, shares_of_clocks(model)
        self._has_windows = not all(clock.is_always for clock in model.clocks)
        self._now = 0.0
        self._due = 0.0  # when the portion of devices before is in, and the next may follow
        self._opened_at = 0.0  # the last stage, or a window for those that waited for it

    def run(self, *, tell: Callable[[Moment], None] | None = None) -> Ended:
        """Run to the end; tells how far it is after each step."""
        while self._rollout.state is RolloutState.RUNNING and self._now <= LONGEST.total_seconds():
            self._open()
            at = self._next()
            if at == inf:
                break
            if self._health is not None and self._health_at < at:
                self._look_at_health(self._health)
            else:
                self._now = max(self._now, at)
                self._look()
            if tell is not None:
                tell(self.moment)
        return self._ended()

    @property
    def moment(self) -> Moment:
        """How far it is."""
        return _moment(self._rollout.stages, self._now)

    def _open(self) -> None:
        """Let in the next portion of the opening stage, or note that all its devices are in."""
        if self._now < self._due or (self._has_windows and self._release()):
            return
        stage = self._rollout.opening_stage
        if stage is None:
            return
        tally = self._tallies[stage.index]
        left = _planned(stage) - tally.taken
        if not left:
            self._rollout = self._rollout.with_stage(replace(stage, is_open=True))
            self._look()
            return
        if not tally.taken:
            self._opened_at = self._now
        self._walk(tally, left)

    def _walk(self, tally: StageTally, left: int) -> None:
        """Come to the next of a stage's devices: let those in that may begin, and hold the others."""
        if not self._has_windows:
            devices = min(left, self._portion())
            self._let_in(tally, [(0, devices)] if devices > 0 else [], self._rate)
            return
        is_open = [clock.is_open(self._now) for clock in self._clocks]
        devices = left
        if any(is_open):
            devices = min(left, ceil(self._until_closing(self._portion()) / self._shares[is_open].sum()))
        counts = self._sampler.split(devices) if devices > 0 else []
        begin = [(clock, count) for clock, count in enumerate(counts) if count and is_open[clock]]
        for clock, count in enumerate(counts):
            if not is_open[clock]:
                tally.hold(clock, count)
        self._let_in(tally, begin, self._rate)
        if devices > 0 and not begin:
            self._open()

    def _release(self) -> bool:
        """Let in the next of those whose window has opened; says whether there are such."""
        for tally in self._tallies:
            for number, (clock, held) in enumerate(zip(self._clocks, tally.held, strict=True)):
                if not held or not clock.is_open(self._now):
                    continue
                entering = clock.entry(self._now) - self._now
                rate = min(self._rate, held / entering) if entering > 0 else self._rate
                devices = min(held, self._until_closing(self._portion()))
                if devices > 0:
                    self._opened_at = self._now if self._now > self._due else self._opened_at
                    tally.release(number, devices)
                    self._let_in(tally, [(number, devices)], rate)
                return True
        return False

    def _let_in(self, tally: StageTally, devices: Sequence[tuple[int, int]], rate: float) -> None:
        """Let devices begin, so many of each clock, as fast as a rate per second allows."""
        seconds = sum(count for _, count in devices) / rate
        for clock, count in devices:
            tally.let_in_batch(self._sampler.draw(count, self._now, seconds=seconds, clock=clock))
        self._due = self._now + seconds

    def _until_closing(self, devices: int) -> int:
        """Return how many of some devices may begin before the first window closes that is open; one at least."""
        closing = min(clock.closing(self._now) for clock in self._clocks if clock.is_open(self._now))
        return int(min(devices, max(1.0, (closing - self._now) * self._rate)))

    @property
    def _rate(self) -> float:
        return self._rollout.conditions.pacing.rate_per_second(self._rollout.confirmed)

    def _portion(self) -> int:
        """Return how many devices are let in until the next look; 0 while as many as may are at it."""
        pacing, rate = self._rollout.conditions.pacing, self._rate
        free = inf if pacing.concurrency is None else pacing.concurrency - self._rollout.in_flight
        if rate == inf:
            return int(max(0, min(sum(map(_planned, self._rollout.stages)), free)))
        of_slot = rate * self._precision.slot_seconds
        before = sum(tally.let_in for tally in self._tallies)
        of_exposed = self._precision.portion * before * min(1.0, max(FEWEST, before / MANY))
        if rate < pacing.rate_per_second(self._rollout.confirmed + pacing.every):
            of_exposed = min(of_exposed, pacing.every)  # lest growth comes late
        return int(max(0, min(max(1, of_slot, of_exposed), free)))

    def _next(self) -> float:
        """Return when to look next, seconds from the start; infinity for never."""
        is_opening = self._rollout.opening_stage is not None
        opening = self._next_opening() if self._has_windows else inf
        if (is_opening or opening <= self._now) and self._now < self._due:
            return self._due
        moved = min(tally.next_at() for tally in self._tallies)
        if not is_opening and moved < inf:
            wait = PATIENCE * self._precision.portion * (self._now - self._opened_at)
            moved = max(moved, self._now + wait)
        moved = min(moved, opening) if opening > self._now else moved
        look = next_look(self._rollout, self._time)
        return moved if look is None else min(moved, (look - self._origin).total_seconds())

    def _next_opening(self) -> float:
        """Return when devices that are held may begin, now at the earliest; infinity without any."""
        held = [any(tally.held[number] for tally in self._tallies) for number in range(len(self._clocks))]
        waited_for = [clock for clock, is_waited_for in zip(self._clocks, held, strict=True) if is_waited_for]
        return min((clock.next_opening(self._now) for clock in waited_for), default=inf)

    @property
    def _time(self) -> datetime:
        return self._origin + timedelta(seconds=self._now)

    def _look(self) -> None:
        """Count what has happened and let the engine decide."""
        stages = self._counted()
        if stages is not self._rollout.stages:
            self._rollout = replace(self._rollout, stages=stages)
        self._decide()

    def _counted(self) -> tuple[Stage, ...]:
        """Return the stages with what has happened; as they were if nothing has."""
        changed = {number: tally.counts for number, tally in enumerate(self._tallies) if tally.take(self._now)}
        if not changed:
            return self._rollout.stages
        return tuple(
            replace(stage, counts=changed[stage.index]) if stage.index in changed else stage
            for stage in self._rollout.stages
        )

    def _decide(self) -> None:
        self._tell_sites()
        looked = evaluate(self._rollout, self._time)
        self._rollout = replace(looked, verdicts=()) if looked.verdicts else looked
        if self._timeline is not None:
            self._timeline.append(self.moment)

    def _look_at_health(self, health: Health) -> None:
        """Tell gates what devices say that have confirmed; the engine decides where it has something to decide by."""
        self._now = max(self._now, self._health_at)
        self._health_at = self._now + self._precision.health_seconds
        stages = self._counted()
        is_changed, moment = stages is not self._rollout.stages, _moment(stages, self._now)
        kept = health.tell(
            self._rollout.kept,
            at=self._now,
            confirmed=moment.confirmed,
            struck=[tally.struck for tally in self._tallies if tally.taken],
            untouched=self._devices - moment.exposed,
        )
        self._rollout = replace(self._rollout, stages=stages, kept=kept)
        if is_changed or health.says_something(kept):
            self._decide()

    def _tell_sites(self) -> None:
        """Tell gates by site what has been counted: each device is a site of its own here."""
        gates = self._rollout.conditions.policy.gates_by_site
        if gates:
            exposure = Exposure.of(stage.counts for stage in self._rollout.stages)
            kept = {gate.name: gate.kept_of_devices(exposure) for gate in gates}
            self._rollout = replace(self._rollout, kept={**self._rollout.kept, **kept})

    def _ended(self) -> Ended:
        moment = self.moment
        return Ended(
            state=self._rollout.state,
            exposed=moment.exposed,
            harmed=sum(tally.harmed for tally in self._tallies),
            failed=moment.failed,
            confirmed=moment.confirmed,
            seconds=self._now,
            reason=self._rollout.halted_reason or self._rollout.question,
            timeline=tuple(self._timeline or ()),
        )


def _health(policy: Policy, sampler: Sampler) -> Health | None:
    """Return what tells a policy's gates of confirmed devices; None where none listens."""
    kept_gates = policy.kept_gates if isinstance(policy, EvidencePolicy) else ()
    gates = [gate for gate in kept_gates if isinstance(gate, EventGate)]
    return Health(gates, sampler) if gates else None


def _moment(stages: Iterable[Stage], seconds: float) -> Moment:
    totals = [stage.counts for stage in stages]
    return Moment(
        seconds=seconds,
        exposed=sum(counts.exposed for counts in totals),
        confirmed=sum(counts.proved for counts in totals),
        failed=sum(counts.failed for counts in totals),
    )


def _planned(stage: Stage) -> int:
    return stage.cut.planned if stage.cut else 0


def _cuts(plan: Plan, devices: int) -> list[StageCut]:
    held = None if plan.hold_out is None else HeldOut(held_out(plan.hold_out.percent, devices), 0)
    cuts = cut_stages(stage_plans(plan), devices, held_out=held)
    return [StageCut(number, cut.planned, is_capped=True) for number, cut in enumerate(cuts)]
