"""What halts a rollout and what a stage must show: by raw thresholds, or by evidence that is valid at every look.

Both are pure functions of what was counted. Rules that both share: a stage below 55 devices, which no test can decide,
halts at one revert or one failure of boot or golden vectors, and passes when all its devices have confirmed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

from protocol.messages import Cause
from service.domain.gates.budget import ErrorBudget
from service.domain.gates.failure_rate import FailureRateGate, in_words, threshold
from service.domain.gates.kept import NOTHING_KEPT, AllKept, Kept, KeptGate
from service.domain.gates.site_rate import SiteEvidence, SiteRateGate
from service.domain.membership import InvalidPlanError
from service.domain.rollout_counts import Exposure, StageCounts
from service.domain.verdict import Decision, Figure, Verdict

SMALL_STAGE_DEVICES = 55  # below it no test decides (rollout-gates, rule 3)
SMALL_STAGE_RULE = "small-stage"
ALL_CONFIRMED = "all-confirmed"
THRESHOLDS = "thresholds"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a policy looks at of one stage.

    Attributes:
        index: from 0.
        devices: of the stage; while it is being opened, at least as many as were planned.
        is_open: every member has its action.
        resolved: share of the devices that must have a result.
        planned: devices it held when the rollout started.
    """

    index: int
    counts: StageCounts
    devices: int
    is_open: bool
    resolved: float = 0.0
    planned: int = 0

    @property
    def is_small(self) -> bool:
        """Whether no test can decide; a stage does not become small by the devices that leave it."""
        return max(self.devices, self.planned) < SMALL_STAGE_DEVICES


class Policy(Protocol):
    """Decides by counts, and by what gates have kept."""

    @property
    def keeps_evidence(self) -> bool:
        """Whether it has gates that keep evidence."""

    @property
    def gates_by_site(self) -> tuple["CauseGate", ...]:
        """Its gates that take a site for one draw."""

    def next_look(self, kept: AllKept) -> datetime | None:
        """Return when somebody has to look at what no report tells, UTC, aware; None never."""

    def halt(self, stages: Sequence[Shown], kept: AllKept = NOTHING_KEPT) -> Verdict | None:
        """Return why the rollout halts, or None.

        Args:
            stages: those that have been opened, in their order.
            kept: by its gates.
        """

    def passes(self, stages: Sequence[Shown], kept: AllKept = NOTHING_KEPT) -> Verdict | None:
        """Return why the last of the stages has shown what it must, or None; its soak is not the policy's."""

    def figures(self, stages: Sequence[Shown], kept: AllKept = NOTHING_KEPT) -> dict[str, Figure]:
        """Return the evidence so far, by name, for people."""


@dataclass(frozen=True, slots=True)
class ThresholdPolicy:
    """Raw shares of a stage, looked at after every report.

    Attributes:
        success_percent: share of a stage's devices that must confirm.
        error_percent: the rollout halts when a larger share of a stage's devices has failed.
        min_reports: results of a stage before its failure share is looked at.
        of_results: the share is of the results so far, not of the stage's devices.
    """

    success_percent: float = 100.0
    error_percent: float = 0.0
    min_reports: int = 1
    small_stage_rule: bool = True
    of_results: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.success_percent <= 100:  # noqa: PLR2004 - percent
            raise InvalidPlanError(f"success percent: expected above 0 to 100, found {self.success_percent}")
        if not 0 <= self.error_percent < 100:  # noqa: PLR2004 - percent
            raise InvalidPlanError(f"error percent: expected 0 to below 100, found {self.error_percent}")
        if self.min_reports < 1:
            raise InvalidPlanError(f"minimum reports: expected at least 1, found {self.min_reports}")

    @property
    def keeps_evidence(self) -> bool:
        """Thresholds keep none."""
        return False

    @property
    def gates_by_site(self) -> tuple["CauseGate", ...]:
        """Thresholds know no sites."""
        return ()

    def next_look(self, _kept: AllKept) -> datetime | None:
        """Reports tell everything."""
        return None

    def halt(self, stages: Sequence[Shown], _kept: AllKept = NOTHING_KEPT) -> Verdict | None:
        """See `Policy.halt`."""
        return next(filter(None, map(self._halt, stages)), None)

    def passes(self, stages: Sequence[Shown], _kept: AllKept = NOTHING_KEPT) -> Verdict | None:
        """See `Policy.passes`."""
        stage = stages[-1]
        if not self._is_shown(stage):
            return None
        return Verdict(Decision.SHOWN, result(stage), stage.index, THRESHOLDS, self.figures(stages))

    def figures(self, stages: Sequence[Shown], _kept: AllKept = NOTHING_KEPT) -> dict[str, Figure]:
        """See `Policy.figures`."""
        stage = stages[-1]
        figures: dict[str, Figure] = {
            "devices": stage.devices,
            "confirmed": stage.counts.succeeded,
            "failed": stage.counts.failed,
        }
        return figures | {"success_percent": self.success_percent, "error_percent": self.error_percent}

    def _is_shown(self, stage: Shown) -> bool:
        return stage.is_open and stage.counts.succeeded >= _part(self.success_percent, stage.counts.size)

    def _halt(self, stage: Shown) -> Verdict | None:
        if self.small_stage_rule and (ruled := rule_of_small_stages(stage)):
            return ruled
        counts = stage.counts
        results = counts.succeeded + counts.failed
        devices = results if self.of_results else stage.devices
        if results >= min(self.min_reports, stage.devices) and counts.failed * 100 > self.error_percent * devices:
            reason = f"expected at most {self.error_percent:g} % of {devices} devices to fail, found {counts.failed}"
        elif stage.is_open and not counts.unresolved and not self._is_shown(stage):
            reason = (
                f"expected {self.success_percent:g} % of {counts.size} devices to confirm, found {counts.succeeded} "
                "and no result outstanding"
            )
        else:
            return None
        reason = f"stage {stage.index + 1}: {reason}"
        return Verdict(Decision.HALTED, reason, stage.index, THRESHOLDS, self.figures([stage]))


@dataclass(frozen=True, slots=True)
class CauseGate:
    """A gate on the failures of some causes.

    Attributes:
        causes: that it counts; none means all but silence.
        weight: of its part of the error budget.
        group_by: attribute whose values are sites that fail together; empty where devices do not.
    """

    name: str
    rate: FailureRateGate
    causes: frozenset[Cause] = frozenset()
    weight: float = 1.0
    group_by: str = ""

    def may_halt(self, exposure: Exposure) -> bool:
        """Whether E may be above 1: at the acceptable share or below, every rate above it explains less."""
        return bool(self.group_by) or exposure.failed(self.causes) > self.rate.acceptable * exposure.started

    def log_halt(self, exposure: Exposure, kept: AllKept) -> float:
        """Return ln E: started devices without a result count as successes, which only delays a halt."""
        if self.group_by:
            return SiteEvidence.of(kept.get(self.name, {})).log_halt
        return self.rate.log_halt(exposure.failed(self.causes), exposure.started)

    def log_pass(self, exposure: Exposure, kept: AllKept) -> float:
        """Return ln E′: those without a result count as failures here, and those that were shut out before it."""
        if self.group_by:
            return SiteEvidence.of(kept.get(self.name, {})).log_pass
        return self.rate.log_pass(exposure.unproved(self.causes), exposure.started)

    def finding(self, exposure: Exposure, kept: AllKept) -> str:
        """Return what was expected and found, for people."""
        share, failed = f"{self.rate.acceptable:.3g} of the devices", exposure.failed(self.causes)
        found = f"expected at most {share} to fail, found {failed} of {exposure.started}"
        if not self.group_by:
            return found
        seen = SiteEvidence.of(kept.get(self.name, {}))
        return f"{found}, at {seen.struck} of {seen.sites} sites by {self.group_by}"

    def kept_of_devices(self, exposure: Exposure) -> Kept:
        """Return what it keeps of devices that are each a site of their own."""
        cleared = exposure.started - exposure.unproved(self.causes)
        return self.by_site.of_devices(exposure.failed(self.causes), cleared, exposure.started).kept

    @property
    def by_site(self) -> SiteRateGate:
        """The gate that takes a site for one draw."""
        return SiteRateGate(self.rate.acceptable, self.rate.worst)

    def figures(self, exposure: Exposure, kept: AllKept) -> dict[str, Figure]:
        """Return the evidence, by name, without thresholds."""
        figures: dict[str, Figure] = {"failed": exposure.failed(self.causes)}
        if self.group_by:
            seen = SiteEvidence.of(kept.get(self.name, {}))
            figures |= {"sites": seen.sites, "struck_sites": seen.struck}
        figures["ln_halt"] = round(self.log_halt(exposure, kept), 4)
        figures["ln_pass"] = round(self.log_pass(exposure, kept), 4)
        return figures


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    """Evidence over the whole rollout, never reset: not at a stage, a pause or a restart.

    Attributes:
        alpha: error budget of the rollout, split over the gates by their weights.
        beta: chance that a stage passes although a gate's rate is at its worst.
        kept_gates: that look at more than counts; they halt, and no stage has to pass them.
        others: weights of what else draws on alpha, by name.
        budget: alpha and its split over all gates, and over what else draws on it.
    """

    gates: tuple[CauseGate, ...]
    alpha: float = 0.01
    beta: float = 0.05
    small_stage_rule: bool = True
    kept_gates: tuple[KeptGate, ...] = ()
    others: Mapping[str, float] = field(default_factory=dict)
    budget: ErrorBudget = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = {gate.name: gate.weight for gate in self.gates} | {gate.name: gate.weight for gate in self.kept_gates}
        object.__setattr__(self, "budget", ErrorBudget(self.alpha, {**weights, **self.others}))

    @property
    def keeps_evidence(self) -> bool:
        """See `Policy.keeps_evidence`."""
        return bool(self.kept_gates or self.gates_by_site)

    @property
    def gates_by_site(self) -> tuple[CauseGate, ...]:
        """See `Policy.gates_by_site`."""
        return tuple(gate for gate in self.gates if gate.group_by)

    def next_look(self, kept: AllKept) -> datetime | None:
        """See `Policy.next_look`."""
        looks = (gate.next_look(kept.get(gate.name, {})) for gate in self.kept_gates)
        return min((look for look in looks if look is not None), default=None)

    def halt(self, stages: Sequence[Shown], kept: AllKept = NOTHING_KEPT) -> Verdict | None:
        """See `Policy.halt`."""
        if self.small_stage_rule and (ruled := next(filter(None, map(rule_of_small_stages, stages)), None)):
            return ruled
        exposure = Exposure.of(stage.counts for stage in stages)
        for gate in self.gates:
            if not gate.may_halt(exposure):
                continue
            evidence, needed = gate.log_halt(exposure, kept), threshold(self.budget.part(gate.name))
            if evidence >= needed:
                found = gate.finding(exposure, kept)
                reason = f"gate {gate.name}: {found}; {in_words(evidence)}, above {in_words(needed)[4:]}"
                return Verdict(Decision.HALTED, reason, stages[-1].index, gate.name, self.figures(stages, kept))
        return self._halt_by_kept(stages, kept)

    def _halt_by_kept(self, stages: Sequence[Shown], kept: AllKept) -> Verdict | None:
        for gate in self.kept_gates:
            found = kept.get(gate.name, {})
            if not gate.may_halt(found):
                continue
            evidence, needed = gate.log_evidence(found), threshold(self.budget.part(gate.name))
            if evidence >= needed:
                reason = f"gate {gate.name}: {gate.finding(found)}; {in_words(evidence)}, above {in_words(needed)[4:]}"
                return Verdict(Decision.HALTED, reason, stages[-1].index, gate.name, self.figures(stages, kept))
        return None

    def passes(self, stages: Sequence[Shown], kept: AllKept = NOTHING_KEPT) -> Verdict | None:
        """See `Policy.passes`."""
        stage = stages[-1]
        counts = stage.counts
        if not stage.is_open:
            return None
        if stage.is_small:
            # Shut out before it had a result, a device has not confirmed.
            if counts.succeeded < counts.size or counts.withdrawn:
                return None
            return Verdict(Decision.SHOWN, result(stage), stage.index, ALL_CONFIRMED, self.figures(stages, kept))
        if counts.size - counts.unresolved < stage.resolved * counts.size:
            return None
        exposure = Exposure.of(each.counts for each in stages)
        evidence = {gate.name: gate.log_pass(exposure, kept) for gate in self.gates}
        weakest = min(evidence, key=lambda name: evidence[name])
        if evidence[weakest] < threshold(self.beta):
            return None
        reason = f"{result(stage)}; gate {weakest}: {in_words(evidence[weakest])}"
        return Verdict(Decision.SHOWN, reason, stage.index, weakest, self.figures(stages, kept))

    def figures(self, stages: Sequence[Shown], kept: AllKept = NOTHING_KEPT) -> dict[str, Figure]:
        """See `Policy.figures`."""
        exposure, budget = Exposure.of(stage.counts for stage in stages), self.budget
        figures: dict[str, Figure] = {"started": exposure.started, "confirmed": exposure.proved}
        for gate in self.gates:
            judged = {
                **gate.figures(exposure, kept),
                "halts_at": round(threshold(budget.part(gate.name)), 4),
                "passes_at": round(threshold(self.beta), 4),
            }
            figures |= {f"{gate.name}.{name}": figure for name, figure in judged.items()}
        for watching in self.kept_gates:
            found = kept.get(watching.name, {})
            seen = {
                **watching.figures(found),
                "ln_halt": round(watching.log_evidence(found), 4),
                "halts_at": round(threshold(budget.part(watching.name)), 4),
            }
            figures |= {f"{watching.name}.{name}": figure for name, figure in seen.items()}
        return figures


@lru_cache
def _exact(percent: float) -> Fraction:
    """Return a share as it was written: 0.1 % is a thousandth."""
    return Fraction(str(percent)) / 100


def _part(percent: float, devices: int) -> int:
    """Return how many of some devices a share is, rounded up."""
    share = _exact(percent)
    return -(-devices * share.numerator // share.denominator)


def rule_of_small_stages(stage: Shown) -> Verdict | None:
    """Return why a stage that is too small for a test halts, or None."""
    if not stage.counts.ruled or not stage.is_small:
        return None
    reason = (
        f"stage {stage.index + 1}: expected no revert and no failure of boot or golden vectors among "
        f"{stage.devices} devices, found {stage.counts.ruled}"
    )
    figures: dict[str, Figure] = {"devices": stage.devices, "ruled": stage.counts.ruled}
    return Verdict(Decision.HALTED, reason, stage.index, SMALL_STAGE_RULE, figures)


def result(stage: Shown) -> str:
    """Return what a stage has shown, for people."""
    return f"{stage.counts.succeeded} of {stage.counts.size} confirmed, {stage.counts.failed} failed"
