"""The error budget of a rollout holds, shown by simulation: delays, waves, several stages and gates, restarts.

Seeded; the larger table is tests/benchmarks/gate_validity_bench.py and docs/rollouts/gates.md.
"""

from dataclasses import replace
from datetime import UTC, datetime
from math import sqrt

import numpy as np
import pytest

from protocol.messages import Cause
from protocol.plan import EvidenceGates, FailureGate, Plan, PlanStage
from service.application.plans import conditions_of, stages_of
from service.domain.membership import StageCut
from service.domain.rollout import Rollout, RolloutState
from service.domain.rollout_commands import resume, start
from service.domain.rollout_counts import StageCounts, Trace
from service.domain.rollout_evaluation import evaluate
from tests.gate_simulation import ALPHA, GATES, Delays, Halts, Sites, halts, looks

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUNS = 1000
ENGINE_RUNS, ENGINE_ALPHA = 600, 0.05
STAGES = (60, 240, 900)  # of the engine's runs
EVIDENCE = GATES["evidence"]
WAVES = Delays(wave=100)


def bound(alpha: float, runs: int) -> float:
    """What the share of false halts may be found at, if alpha holds: three deviations above it."""
    return alpha + 3 * sqrt(alpha * (1 - alpha) / runs)


def halted(gate: str, rate: float, *, delays: Delays = WAVES, sites: Sites = Sites(), runs: int = RUNS) -> Halts:  # noqa: B008 - frozen
    rng = np.random.default_rng(20_301)
    return halts(GATES[gate], [looks(rng, rate, runs=200, delays=delays, sites=sites) for _ in range(runs // 200)])


@pytest.mark.parametrize("delays", [Delays(), WAVES, Delays(failure=20, success=200)])
def test_healthy_release_is_halted_no_more_often_than_the_budget_says(delays: Delays) -> None:
    """Both gates at their acceptable rates, looked at after each report of 2,000 devices."""
    assert halted("evidence", 0.02, delays=delays).share <= bound(ALPHA, RUNS)


@pytest.mark.parametrize(
    "gate",
    ["evidence, as reported", "5 % of results", "5 % of results, from 100 on", "5 % of groups of 50"],
)
def test_what_is_not_valid_halts_healthy_releases(gate: str) -> None:
    """The same releases in waves: failures report first, and thresholds know no error budget."""
    assert halted(gate, 0.02, runs=400).share > 10 * ALPHA


def test_evidence_that_is_forgotten_exceeds_the_budget() -> None:
    """Begun anew at each of five restarts; so the product never does."""
    assert halted("evidence, forgotten at restarts", 0.02, delays=Delays(), runs=2000).share > bound(ALPHA, 2000)


def test_devices_that_fail_together_exceed_the_budget_of_gates_by_device() -> None:
    """There it is promised for devices that fail independently; the salted hash helps, and is no cure."""
    spread = halted("evidence", 0.02, delays=Delays(), sites=Sites(20, 0.1)).share
    together = halted("evidence", 0.02, delays=Delays(), sites=Sites(20, 0.1, together=True)).share
    assert ALPHA < spread < together


@pytest.mark.parametrize("delays", [Delays(), WAVES, Delays(failure=20, success=200)])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("size", "correlation"), [(1, 0.0), (5, 0.6), (20, 0.1), (20, 0.3), (100, 0.3), (100, 0.6)])
def test_gates_by_site_keep_the_budget_however_devices_fail_together(
    delays: Delays, size: int, correlation: float, *, together: bool
) -> None:
    """Delays, waves, spread or site by site."""
    sites = Sites(size, correlation, together=together)
    assert halted("evidence, by site", 0.02, delays=delays, sites=sites, runs=400).share <= bound(ALPHA, 400)


@pytest.mark.parametrize(
    ("sites", "rate", "devices"),
    [(Sites(), 0.1, 130), (Sites(20, 0.0), 0.1, 200), (Sites(20, 0.3), 0.1, 200), (Sites(20, 0.3), 0.3, 50)],
)
def test_gates_by_site_halt_bad_releases_soon(sites: Sites, rate: float, devices: int) -> None:
    """Spread over sites, a rollout's first devices are as many draws as sites."""
    found = halted("evidence, by site", rate, delays=Delays(), sites=sites, runs=400)
    assert found.share >= 0.99
    assert found.median is not None
    assert found.median <= devices


@pytest.mark.parametrize(("rate", "share", "devices"), [(0.05, 0.97, 500), (0.1, 0.99, 100), (0.3, 0.99, 100)])
def test_bad_release_is_halted_soon(rate: float, share: float, devices: int) -> None:
    """Power: how many, and after how many devices in the median."""
    found = halted("evidence", rate, runs=400)
    assert found.share >= share
    assert found.median is not None
    assert found.median <= devices


def engine_halts(rng: np.random.Generator, plan: Plan, rate: float) -> bool:
    """Run the engine on one release, failures first in every stage; a person says yes to whatever it asks."""
    cuts = [
        StageCut(reach, size, is_capped=True) for reach, size in zip(np.cumsum(STAGES).tolist(), STAGES, strict=True)
    ]
    rollout = start(Rollout("r", "release", "group", conditions_of(plan), stages_of(plan)), cuts, now=NOW)
    for index, size in enumerate(STAGES):
        failures = rng.random(size) < rate
        broken = int((failures & (rng.random(size) < 0.25)).sum())
        failed = int(failures.sum())
        for seen in (*range(1, failed + 1), size):
            of_them = min(seen, failed)
            causes = {Cause.BOOT: min(broken, of_them), Cause.DOWNLOAD: of_them - min(broken, of_them)}
            done = seen == size
            counts = StageCounts(
                in_progress=0 if done else size - of_them,
                succeeded=size - failed if done else 0,
                failed=of_them,
                exposed=size,
                proved=size - failed if done else 0,
                causes={Trace(frozenset({cause})): count for cause, count in causes.items() if count},
            )
            stage = replace(rollout.stages[index], is_open=True, counts=counts)
            rollout = evaluate(rollout.with_stage(stage), NOW)
            if rollout.state is RolloutState.PAUSED:
                rollout = resume(rollout, NOW)
            if rollout.state is RolloutState.HALTED:
                return True
    return False


def test_engine_keeps_the_budget_over_stages_and_gates() -> None:
    """The product's own code from the plan on: three stages, two gates, small-stage rule on, failures first."""
    gates = (
        FailureGate(acceptable=0.02, worst=0.05, weight=2),
        FailureGate(name="broken", causes=(Cause.BOOT,), acceptable=0.005, worst=0.03),
    )
    plan = Plan(
        stages=(PlanStage(count=60), PlanStage(count=300), PlanStage(count=1200)),
        gates=EvidenceGates(alpha=ENGINE_ALPHA, failures=gates),
    )
    rng = np.random.default_rng(6)
    share = sum(engine_halts(rng, plan, 0.02) for _ in range(ENGINE_RUNS)) / ENGINE_RUNS
    assert share <= bound(ENGINE_ALPHA, ENGINE_RUNS)
    assert all(engine_halts(rng, plan, 0.1) for _ in range(20))
