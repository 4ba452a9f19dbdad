"""Gates of every kind share one rollout's error budget, on the engine itself: it holds, and bad releases are found.

Seeded by the run's number; the larger table is tests/benchmarks/gate_validity_bench.py and docs/rollouts/gates.md.
"""

import pytest

from tests.rollout_simulation import BAD, WORST, WORST_DAY, Release, rollout_halt

ALPHA, RUNS = 0.05, 10
MOST = ALPHA + 3 * (ALPHA * (1 - ALPHA) / RUNS) ** 0.5


@pytest.mark.parametrize("release", [WORST, WORST_DAY], ids=["steady", "in the course of a day"])
def test_release_at_the_worst_of_every_gate_is_halted_seldom(release: Release) -> None:
    """At most alpha, within three deviations of the runs: failures, sites, events and means together, over stages."""
    halts = [rollout_halt(release, seed, alpha=ALPHA) is not None for seed in range(RUNS)]
    assert sum(halts) / RUNS <= MOST


@pytest.mark.parametrize("gate", BAD)
def test_release_that_is_bad_in_one_way_is_halted_by_its_gate(gate: str) -> None:
    """With its part of alpha, and before the last stage."""
    halts = [rollout_halt(BAD[gate], seed, alpha=0.01) for seed in range(3)]
    found = [halt for halt in halts if halt is not None]
    assert [halt.gate for halt in found] == [gate] * 3
    assert max(halt.devices for halt in found) < 400
