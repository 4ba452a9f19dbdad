"""Gates that keep evidence beside the counts: they share the error budget, and halt by it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest

from service.domain.conditions import Conditions
from service.domain.gates.failure_rate import FailureRateGate, threshold
from service.domain.gates.kept import Kept
from service.domain.membership import StageCut
from service.domain.policy import CauseGate, EvidencePolicy
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import start
from service.domain.rollout_counts import StageCounts
from service.domain.rollout_evaluation import evaluate
from service.domain.stage import Stage
from service.domain.verdict import Figure

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Weighed:
    """A gate that was told what its evidence is."""

    name: str = "weighed"
    weight: float = 3.0

    def may_halt(self, kept: Kept) -> bool:
        return self.log_evidence(kept) > 0

    def log_evidence(self, kept: Kept) -> float:
        return float(kept.get("ln", 0.0))

    def finding(self, kept: Kept) -> str:
        return f"expected nothing, found {kept['what']}"

    def figures(self, kept: Kept) -> Mapping[str, Figure]:
        return {"looks": int(kept.get("looks", 0))}

    def next_look(self, _kept: Kept) -> datetime | None:
        return None


POLICY = EvidencePolicy((CauseGate("failures", FailureRateGate()),), alpha=0.04, kept_gates=(Weighed(),))


def running() -> Rollout:
    draft = Rollout("r", "release", "group", Conditions(policy=POLICY), (Stage(0),))
    begun = start(draft, [StageCut(100, 100, is_capped=False)], now=NOW)
    return begun.with_stage(replace(begun.stages[0], is_open=True, counts=StageCounts(in_progress=100, exposed=100)))


def test_budget_is_split_over_all_gates_by_weight() -> None:
    """A gate that keeps evidence takes its part from the others."""
    assert POLICY.budget.part("weighed") == pytest.approx(0.03)
    assert POLICY.budget.part("failures") == pytest.approx(0.01)


def test_evidence_that_is_kept_halts_at_its_part_of_the_budget() -> None:
    """Not below it; the verdict names the gate, what it found, and its figures."""
    needed = threshold(0.03)
    below = replace(running(), kept={"weighed": {"ln": needed - 1e-9, "what": "something"}})
    assert evaluate(below, NOW).state is RolloutState.RUNNING
    halted = evaluate(replace(running(), kept={"weighed": {"ln": needed, "what": "something", "looks": 7}}), NOW)
    assert halted.state is RolloutState.HALTED
    (verdict,) = [each for each in halted.verdicts if each.gate]
    assert (verdict.gate, verdict.figures["weighed.looks"]) == ("weighed", 7)
    assert halted.halted_reason.startswith("gate weighed: expected nothing, found something; E = 33.3")


def test_nothing_kept_is_no_evidence() -> None:
    """A gate that was told nothing says so, and shows its threshold."""
    rollout = evaluate(running(), NOW)
    assert rollout.state is RolloutState.RUNNING
    assert rollout.figures["weighed.ln_halt"] == 0
    assert rollout.figures["weighed.halts_at"] == pytest.approx(threshold(0.03), abs=1e-4)
