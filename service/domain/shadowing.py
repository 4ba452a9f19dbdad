"""What a model must show in shadow before any device runs it.

Devices of the first stage run it unheard beside the model that it is to replace and say whether it agrees
(`protocol.shadow`). Rule 7 of the gates: the e-process of "no more devices than acceptable disagree" halts with its
part of α, its mirror promotes (`service.domain.gates.failure_rate`). A device that has not said anything yet agrees for
the one and disagrees for the other. In a stage that is too small for a test all must have said that they agree, and
one candidate that broke halts, outside α.
"""

from dataclasses import dataclass
from datetime import timedelta

from protocol.plan.document import SHADOW_GATE
from protocol.shadow import ShadowTask
from service.domain.gates.failure_rate import FailureRateGate, in_words, threshold
from service.domain.policy import Shown
from service.domain.rollout_counts import StageCounts
from service.domain.verdict import Decision, Figure, Verdict

SHADOW = SHADOW_GATE  # its part of α has this name
SMALL_SHADOW = "small-shadow"


@dataclass(frozen=True, slots=True)
class ShadowGate:
    """What a plan demands of a model in shadow.

    Attributes:
        task: what each device compares.
        tolerated: share of its frames that may differ.
        rate: how many devices may disagree.
        alpha, beta: its part of the chance of a false halt; its chance of a false promotion.
        small_stage_rule: whether one candidate that broke halts a small stage.
    """

    task: ShadowTask
    tolerated: float
    rate: FailureRateGate
    alpha: float
    beta: float
    small_stage_rule: bool = True

    @property
    def longest(self) -> timedelta:
        """How long a device may compare."""
        return timedelta(seconds=self.task.longest_seconds)

    def halt(self, stage: Shown) -> Verdict | None:
        """Return why the rollout halts before anybody runs the model, or None."""
        counts = stage.counts
        if stage.is_small and self.small_stage_rule and counts.broke:
            reason = f"stage {stage.index + 1}: expected no model that breaks in shadow, found {counts.broke}"
            return Verdict(Decision.HALTED, reason, stage.index, SMALL_SHADOW, self.figures(stage))
        started = _started(counts)
        evidence, needed = self.rate.log_halt(counts.disagreed, started), threshold(self.alpha)
        if evidence < needed:
            return None
        reason = (
            f"gate {SHADOW}: expected at most {self.rate.acceptable:.3g} of the devices to disagree in shadow, found "
            f"{counts.disagreed} of {started}; {in_words(evidence)}, above {in_words(needed)[4:]}"
        )
        return Verdict(Decision.HALTED, reason, stage.index, SHADOW, self.figures(stage))

    def promotes(self, stage: Shown) -> Verdict | None:
        """Return why the stage's devices may run the model, or None."""
        counts = stage.counts
        if not stage.is_open:
            return None
        if stage.is_small:
            clean = has_compared(counts) and not (counts.disagreed or counts.failed or counts.withdrawn)
            said = f"{agreement(counts)}, all that there are"
            return Verdict(Decision.PROMOTED, said, stage.index, SMALL_SHADOW, self.figures(stage)) if clean else None
        evidence = self._log_pass(counts)
        if evidence < threshold(self.beta):
            return None
        reason = f"{agreement(counts)}; {in_words(evidence)}"
        return Verdict(Decision.PROMOTED, reason, stage.index, SHADOW, self.figures(stage))

    def figures(self, stage: Shown) -> dict[str, Figure]:
        """Return the evidence so far, by name, for people."""
        counts = stage.counts
        return {
            "shadow.started": _started(counts),
            "shadow.agreed": counts.agreed,
            "shadow.disagreed": counts.disagreed,
            "shadow.broke": counts.broke,
            "shadow.tolerated": round(self.tolerated, 4),
            "shadow.ln_halt": round(self.rate.log_halt(counts.disagreed, _started(counts)), 4),
            "shadow.halts_at": round(threshold(self.alpha), 4),
            "shadow.ln_pass": round(self._log_pass(counts), 4),
            "shadow.passes_at": round(threshold(self.beta), 4),
        }

    def _log_pass(self, counts: StageCounts) -> float:
        started = _started(counts)
        return self.rate.log_pass(started - counts.agreed, started)


def has_compared(counts: StageCounts) -> bool:
    """Whether every device that has no result has said whether its candidate agrees."""
    return counts.unresolved == counts.compared


def agreement(counts: StageCounts) -> str:
    """Return what a stage has shown in shadow, for people."""
    return f"{counts.agreed} agreed in shadow, {counts.disagreed} disagreed, {counts.failed} failed"


def _started(counts: StageCounts) -> int:
    """Return the devices that were given the model; one that runs it already was not."""
    return max(counts.exposed, counts.agreed + counts.disagreed)
