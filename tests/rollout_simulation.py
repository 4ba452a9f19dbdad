"""Whole rollouts on the engine itself, whose gates of every kind share one error budget.

A gate on failures, one on failures by site, one on events and one on a mean watch a release through three stages and
the devices that were held out. Waves of devices are given it, fail or confirm some time later, and tell their hours in
two arms from then on. All that is decided, the engine decides (`evaluate`): it is asked after every failure, every slot
and every pair; a person says yes to whatever it asks, and nothing ends a run but its halt or its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from protocol.geometry import Core
from protocol.messages import Cause
from protocol.plan import (
    ControlGate,
    EvidenceGates,
    FailureGate,
    HealthEvent,
    HoldOut,
    MeanGate,
    Metric,
    Plan,
    PlanStage,
)
from service.application.plans import conditions_of, stages_of
from service.domain.gates.arms import Arm, EventGate
from service.domain.gates.averages import MOST_WAITING, AverageGate
from service.domain.gates.kept import Kept
from service.domain.membership import StageCut
from service.domain.policy import EvidencePolicy
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import resume, start
from service.domain.rollout_counts import StageCounts, Trace
from service.domain.rollout_evaluation import evaluate
from service.domain.sites import SiteDevice, judged
from tests.arm_simulation import HOUR, START, Flags, Fleet, Hours, Told, stored, tallies_of
from tests.gate_simulation import Sites, failures_of, sites_of

STAGES = (60, 120, 220, 80)  # devices of each; the last are held out
DEVICES = sum(STAGES)
ENDS = np.cumsum(STAGES).tolist()
RATE = 0.01  # of events per device and hour, without the release
WAVE = 60  # devices that are given the release in an hour
LONGEST = 1000  # hours of a run; none comes near it
ACCEPTABLE, TOLERATED = 0.02, 1.5
EXPECTED_CHANGE, MARGIN = 5.0, 1.0  # milliseconds; of one device's mean the deviation is 1
SITE = "site"


@dataclass(frozen=True)
class Release:
    """What a release does, and what happens to its devices; as it stands, the worst that the plan accepts.

    Attributes:
        failures: share of the devices that it does not boot on.
        failures_by_site: share of the devices whose download fails, those of a site together.
        ratio: of the rate of events, without the release.
        excess: how much further it moves the mean than the plan allows, in deviations of a device.
        frailty: see `Fleet`.
        outage_at: see `Fleet`.
        cut_off: see `Fleet`.
        swing: see `Fleet`.
        sway: by how many deviations the mean of everybody moves up and down in a day.
        phase: hour of the day in which the rollout starts.
        sites: of the failures by site.
    """

    failures: float = ACCEPTABLE
    failures_by_site: float = ACCEPTABLE
    ratio: float = TOLERATED
    excess: float = 0.0
    frailty: float = 0.0
    outage_at: int = 0
    cut_off: float = 0.02
    swing: float = 0.0
    sway: float = 0.0
    phase: int = 0
    sites: Sites = Sites(size=20, correlation=0.3)  # noqa: RUF009 - frozen


WORST = Release()
WORST_DAY = Release(cut_off=0.1, swing=0.5, sway=5.0, phase=8)
HEALTHY = Release(0.005, 0.005, 1.0, -MARGIN)
WELL_INSIDE = replace(HEALTHY, frailty=0.3, outage_at=20)
BAD = {
    "failures": replace(HEALTHY, failures=0.2),
    "network": replace(HEALTHY, failures_by_site=0.2),
    "drift": replace(HEALTHY, ratio=8.0),
    "latency": replace(HEALTHY, excess=1.0),
}
"""Releases that are bad in one way, by the gate that looks at it."""


@dataclass(frozen=True)
class Halt:
    """What halted a rollout.

    Attributes:
        gate: that did.
        devices: that had been given the release.
    """

    gate: str
    devices: int


def plan_of(alpha: float) -> Plan:
    """Return a plan whose gates of every kind share an error budget."""
    return Plan(
        stages=(
            PlanStage(count=60, soak=6 * HOUR, resolved=0.9),
            PlanStage(count=180, soak=6 * HOUR, resolved=0.9),
            PlanStage(percent=100, soak=6 * HOUR, resolved=0.9),
        ),
        hold_out=HoldOut(percent=100 * STAGES[-1] / DEVICES, soak=8 * HOUR),
        gates=EvidenceGates(
            alpha=alpha,
            small_stage_rule=False,
            failures=(
                FailureGate(causes=(Cause.BOOT,), acceptable=ACCEPTABLE, weight=2),
                FailureGate(name="network", causes=(Cause.DOWNLOAD,), acceptable=ACCEPTABLE, group_by=SITE),
            ),
            control=(ControlGate(name="drift", events=(HealthEvent.DRIFT,), tolerated=TOLERATED, weight=2),),
            means=(
                MeanGate(
                    name="latency",
                    metric=Metric.LATENCY,
                    core=Core.M4_0.value,
                    margin=MARGIN,
                    expected_change=EXPECTED_CHANGE,
                ),
            ),
        ),
    )


def rollout_halt(release: Release, seed: int, *, alpha: float) -> Halt | None:
    """Return what halted a rollout, or None where it came to its end."""
    run = _Run(release, np.random.default_rng(seed), plan_of(alpha))
    for hour in range(LONGEST):
        run.pass_hour(hour)
        if run.rollout.state is RolloutState.HALTED:
            return Halt(run.rollout.verdicts[-1].gate, sum(stage.counts.exposed for stage in run.rollout.stages))
        if run.rollout.state is RolloutState.FINISHED:
            return None
    raise AssertionError(f"expected a rollout to end within {LONGEST} hours, found it {run.rollout.state}")


class _Run:
    """A rollout and its devices, numbered in the order in which they are given the release."""

    def __init__(self, release: Release, rng: np.random.Generator, plan: Plan) -> None:
        self._release, self._rng = release, rng
        self.rollout = _started(plan)
        self._policy = self.rollout.conditions.policy
        assert isinstance(self._policy, EvidencePolicy)
        self._events, self._means = self._policy.kept_gates
        of_site = sites_of(rng, 1, DEVICES, release.sites)
        self._site_of: list[int] = of_site[0].tolist()
        self._fails_download = failures_of(rng, release.failures_by_site, of_site, release.sites)[0]
        self._fails_boot = rng.random(DEVICES) < release.failures
        self._sites: dict[int, list[SiteDevice]] = {}
        self._hours = Hours(_fleet(release), rng)
        self._given = 0
        self._result_at = np.full(DEVICES, np.inf)  # hours
        self._confirmed_in = np.full(DEVICES, LONGEST)  # hour
        self._drifted = np.zeros(DEVICES, bool)  # the gate on events has counted them
        self._paired = np.zeros(DEVICES, bool)  # the gate on the mean has

    def pass_hour(self, hour: int) -> None:
        """Let an hour pass: results, a wave, windows; then the service starts again."""
        now = START + hour * HOUR
        for happens in (self._results, self._wave, self._windows):
            for _ in happens(hour):
                if self._policy.halt(self.rollout.opened, self.rollout.kept) is not None:
                    self.rollout = evaluate(self.rollout, now)
                    return
        self.rollout = evaluate(replace(self.rollout, kept=stored(self.rollout.kept)), now)
        if self.rollout.state is RolloutState.PAUSED:
            self.rollout = resume(self.rollout, now)

    def _results(self, hour: int) -> Iterator[None]:
        """Take what devices say of the update, in the order in which it comes."""
        due = np.flatnonzero((self._result_at > hour - 1) & (self._result_at <= hour))
        for device in due[np.argsort(self._result_at[due])].tolist():
            fails = {Cause.BOOT: self._fails_boot[device], Cause.DOWNLOAD: self._fails_download[device]}
            causes = frozenset(cause for cause, does in fails.items() if does)
            stage = self.rollout.stages[int(np.searchsorted(ENDS, device, side="right"))]
            self.rollout = self.rollout.with_stage(replace(stage, counts=_resolved(stage.counts, causes)))
            self._tell_site(device, causes=causes, is_settled=True, is_confirmed=not causes)
            if causes:
                yield
            else:
                self._confirmed_in[device] = hour

    def _wave(self, hour: int) -> Iterator[None]:
        """Give the release to the next devices of the stage that opens; failures report soon, successes late."""
        stage = self.rollout.opening_stage
        if stage is None:
            return
        first, end = self._given, min(self._given + WAVE, stage.threshold)
        fails = (self._fails_boot | self._fails_download)[first:end]
        self._result_at[first:end] = hour + self._rng.exponential(np.where(fails, 0.3, 2.0))
        for device in range(first, end):
            self._tell_site(device)
        counts, new = stage.counts, end - first
        counts = replace(counts, in_progress=counts.in_progress + new, exposed=counts.exposed + new)
        self.rollout = self.rollout.with_stage(replace(stage, counts=counts, is_open=end == stage.threshold))
        self._given = end
        yield

    def _windows(self, hour: int) -> Iterator[None]:
        """Tell the gates on two arms what came in an hour, device after device."""
        told = self._hours.told(hour, self._confirmed_in < hour)
        told = None if told is None else self._in_an_arm(told)
        if told is None:
            return
        kept = self.rollout.kept.get(self._events.name, {})
        assert isinstance(self._events, EventGate)
        self._keep(self._events.name, self._events.weighed(kept, tallies_of(told, self._drifted)))
        yield
        yield from self._pairs(told)

    def _in_an_arm(self, told: Told) -> Told:
        """Return the windows that count, as `arm_of` has it: by the device's first of the hour in which they came."""
        shuffled = np.argsort(self._rng.random(DEVICES)[told.devices], kind="stable")
        told = told.of(shuffled)
        first_hours = np.full(DEVICES, LONGEST)
        np.minimum.at(first_hours, told.devices, told.hours)
        is_canary = (self._confirmed_in < first_hours)[told.devices]
        return replace(told, is_canary=is_canary).of(is_canary | (told.devices >= self._given))

    def _pairs(self, told: Told) -> Iterator[None]:
        gate, release = self._means, self._release
        assert isinstance(gate, AverageGate)
        told = told.of(~self._paired[told.devices])
        common = release.sway * np.sin((told.hours + release.phase) * 2 * np.pi / 24)
        excess = np.where(told.is_canary, EXPECTED_CHANGE + MARGIN + release.excess, 0.0)
        changes = common + excess + self._rng.standard_normal(told.devices.size)
        for index in np.flatnonzero(_matters(told.is_canary)).tolist():
            device, is_canary = int(told.devices[index]), bool(told.is_canary[index])
            if self._paired[device]:
                continue
            kept, arm = self.rollout.kept.get(gate.name, {}), Arm.CANARY if is_canary else Arm.CONTROL
            at = START + int(told.hours[index]) * HOUR
            kept, used = gate.seen(kept, arm, f"{device}", change=float(changes[index]), at=at)
            self._keep(gate.name, kept)
            self._paired[[int(each) for each in used]] = True
            if used:
                yield

    def _tell_site(
        self,
        device: int,
        *,
        causes: frozenset[Cause] = frozenset(),
        is_settled: bool = False,
        is_confirmed: bool = False,
    ) -> None:
        """Tell the gate by site that a device was given the release, or its result."""
        site = self._site_of[device]
        before = self._sites.get(site, [])
        known = [each.device_id for each in before]
        place = known.index(f"{device}") if f"{device}" in known else len(before)
        now = SiteDevice(f"{device}", SITE, f"={site}", place + 1, causes, is_settled, is_confirmed)
        after = self._sites[site] = [*before[:place], now, *before[place + 1 :]]
        kept = judged(self.rollout.kept, self._policy.gates_by_site, before, after)
        self.rollout = replace(self.rollout, kept=kept)

    def _keep(self, gate: str, kept: Kept) -> None:
        self.rollout = replace(self.rollout, kept={**self.rollout.kept, gate: kept})


def _started(plan: Plan) -> Rollout:
    cuts = [StageCut(end, size, is_capped=True) for end, size in zip(ENDS, STAGES, strict=True)]
    return start(Rollout("r", "release", "group", conditions_of(plan), stages_of(plan)), cuts, now=START)


def _fleet(release: Release) -> Fleet:
    return Fleet(
        devices=DEVICES,
        rate=RATE,
        ratio=release.ratio,
        frailty=release.frailty,
        outage_at=release.outage_at,
        cut_off=release.cut_off,
        swing=release.swing,
        phase=release.phase,
    )


def _resolved(counts: StageCounts, causes: frozenset[Cause]) -> StageCounts:
    """Return a stage's counts once a device has confirmed, or failed for some causes."""
    counts = replace(counts, in_progress=counts.in_progress - 1)
    if not causes:
        return replace(counts, succeeded=counts.succeeded + 1, proved=counts.proved + 1)
    trace = Trace(causes)
    return replace(counts, failed=counts.failed + 1, causes={**counts.causes, trace: counts.causes.get(trace, 0) + 1})


def _matters(is_canary: Flags) -> Flags:
    """Return which windows may come into a pair: of control, only so many are kept until the next canary's."""
    places = np.arange(is_canary.size)
    canaries = np.append(np.flatnonzero(is_canary), is_canary.size)
    coming = canaries[np.searchsorted(canaries, places)]
    return np.asarray(coming - places <= 2 * MOST_WAITING)
