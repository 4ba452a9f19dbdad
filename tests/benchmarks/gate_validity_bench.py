"""How often gates halt healthy rollouts, and how soon bad ones: the product's beside raw thresholds and invalid uses.

Two gates share an error budget of 1 % over 2,000 devices in three stages; every gate looks after every report. The
rows with `peer` compare the product's evidence with the raw threshold of 5 % from 100 results on, as AWS IoT Jobs has
it. On stderr the whole table, as docs/rollouts/gates.md shows it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import betaincinv

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tests' simulation

from tests.arm_simulation import Fleet, mean_halt, tallied_halt  # noqa: E402
from tests.gate_simulation import GATES, Delays, Halts, Sites, halts, looks  # noqa: E402
from tests.rollout_simulation import BAD, WELL_INSIDE, WORST, WORST_DAY, Halt, Release, rollout_halt  # noqa: E402

RUNS = 2000
PER_CHUNK = 200
SEED = 20_301
ALPHA, ARM_RUNS = 0.01, 1000
CONFIDENCE = 0.95
CORRELATED = Fleet(devices=1000, site_size=20, rate=0.01, reached=(0.02, 0.1), ratio=1.5)
ARMS = (
    ("events, healthy", Fleet()),
    ("events, at the tolerated ratio", Fleet(ratio=1.5)),
    ("events, some devices always in trouble, reports late", Fleet(frailty=0.3, late=0.2)),
    ("events, hours of control alone, then dusk", Fleet(reached=(0.05,), rate=0.005, alone=12, dusk=0.3, hours=3)),
    ("events, outage of everybody, restarts", Fleet(outage_at=8, restarts=True)),
    ("events, at the tolerated ratio, an hour told in one to six windows", Fleet(ratio=1.5, windows=(6, 6))),
    ("events, at the tolerated ratio, only canaries tell it in up to six", Fleet(ratio=1.5, windows=(6, 1))),
    ("events, at the tolerated ratio, only the others do", Fleet(ratio=1.5, windows=(1, 6))),
    ("events, sites of 20 struck as a whole, spread", CORRELATED),
    ("events, sites of 20 struck as a whole, site by site", replace(CORRELATED, is_spread=False)),
    ("events, 4 times the rate", Fleet(ratio=4.0)),
    ("events, 8 times the rate", Fleet(ratio=8.0)),
)
MEANS: tuple[tuple[str, dict[str, float]], ...] = (
    ("mean, at the margin", {"excess": 0.0}),
    ("mean, at the margin, everybody drifts", {"excess": 0.0, "sway": 5.0}),
    ("mean, at the margin, canaries spread four times as far", {"excess": 0.0, "spread": 4.0}),
    ("mean, at the margin, canaries spread eight times as far", {"excess": 0.0, "spread": 8.0}),
    ("mean, beyond it by half a deviation, everybody drifts", {"excess": 0.5, "sway": 5.0}),
    ("mean, beyond it by a deviation, everybody drifts", {"excess": 1.0, "sway": 5.0}),
)
ROLLOUTS: tuple[tuple[str, Release, int], ...] = (
    ("at the worst of every gate", WORST, 1000),
    ("at the worst of every gate, means and events move by the hour, two in five devices cut off", WORST_DAY, 1000),
    ("well inside, some devices always in trouble, an outage of everybody", WELL_INSIDE, 1000),
    *((f"bad, for the gate {gate} alone", release, 300) for gate, release in BAD.items()),
    ("bad, for the gate drift alone, some devices always in trouble", replace(BAD["drift"], frailty=0.3), 300),
)
ONE, ALONE = Delays(), Sites()
WAVES = Delays(wave=100)
LATE = Delays(failure=20, success=200)
HEALTHY = 0.02
CASES: tuple[tuple[str, float, Delays, Sites], ...] = (
    ("2 %, one by one, at once", HEALTHY, ONE, ALONE),
    ("2 %, waves of 100, failures first", HEALTHY, WAVES, ALONE),
    ("2 %, failures early, successes late", HEALTHY, LATE, ALONE),
    ("5 %, waves of 100", 0.05, WAVES, ALONE),
    ("10 %, waves of 100", 0.1, WAVES, ALONE),
    ("30 %, waves of 100", 0.3, WAVES, ALONE),
    ("5 %, one by one", 0.05, ONE, ALONE),
    ("10 %, one by one", 0.1, ONE, ALONE),
    ("30 %, one by one", 0.3, ONE, ALONE),
)


def measure(rate: float, delays: Delays, sites: Sites) -> dict[str, Halts]:
    """Return how every gate did, all on the same runs."""
    rng = np.random.default_rng(SEED)
    chunks = [looks(rng, rate, runs=PER_CHUNK, delays=delays, sites=sites) for _ in range(RUNS // PER_CHUNK)]
    return {name: halts(gate, chunks) for name, gate in GATES.items()}


def cell(found: Halts) -> str:
    """Write a share, and the median devices at the halt."""
    at = "" if found.median is None else f" @{found.median}"
    return f"{100 * found.share:.1f} %{at}"


def arm_rows() -> list[dict[str, Any]]:
    """Measure the gates on two arms, against no comparison at all, and print their rows."""
    print("| two arms | halts | at most |\n|---|---|---|", file=sys.stderr)
    found = dict[str, int]()
    for name, fleet in ARMS:
        found[name] = sum(tallied_halt(fleet, seed, alpha=ALPHA) is not None for seed in range(ARM_RUNS))
        _print_arms(name, found[name])
    for name, case in MEANS:
        found[name] = sum(mean_halt(seed, alpha=ALPHA, **case) for seed in range(ARM_RUNS))
        _print_arms(name, found[name])
    note = f"{ARM_RUNS:,} runs, alpha {100 * ALPHA:g} %"
    return [
        {
            "name": f"gates on two arms: halts, {name}",
            "ours": 100 * halted / ARM_RUNS,
            "peer": None,
            "ratio": None,
            "unit": "%",
            "note": f"{note}; at most {100 * at_most(halted):.2f} % with {100 * CONFIDENCE:g} % confidence",
        }
        for name, halted in found.items()
    ]


def rollout_rows() -> list[dict[str, Any]]:
    """Measure whole rollouts on the engine, whose gates of every kind share the budget, and print their rows."""
    print("| gates of every kind | halts | at most | by gate, after devices |\n|---|---|---|---|", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for name, release, runs in ROLLOUTS:
        halted = [rollout_halt(release, seed, alpha=ALPHA) for seed in range(runs)]
        found = [halt for halt in halted if halt is not None]
        share, bound = 100 * len(found) / runs, 100 * at_most(len(found), runs=runs)
        gates = ", ".join(_gate_cell(gate, found) for gate in sorted({halt.gate for halt in found}))
        print(f"| {name} | {share:.1f} % | {bound:.2f} % | {gates} |", file=sys.stderr, flush=True)
        note = f"{runs:,} runs, alpha {100 * ALPHA:g} %; at most {bound:.2f} % with {100 * CONFIDENCE:g} % confidence"
        row = {"name": f"gates of every kind: halts, {name}", "ours": share, "peer": None, "ratio": None, "unit": "%"}
        rows.append({**row, "note": f"{note}; {gates}" if gates else note})
    return rows


def _gate_cell(gate: str, found: list[Halt]) -> str:
    devices = [halt.devices for halt in found if halt.gate == gate]
    return f"{gate} {len(devices)} @{int(np.median(devices))}"


def at_most(halted: int, *, runs: int = ARM_RUNS) -> float:
    """Return the share of all rollouts that is not exceeded, by Clopper and Pearson's bound."""
    return 1.0 if halted == runs else float(betaincinv(halted + 1, runs - halted, CONFIDENCE))


def _print_arms(name: str, halted: int) -> None:
    share, bound = 100 * halted / ARM_RUNS, 100 * at_most(halted)
    print(f"| {name} | {share:.1f} % | {bound:.2f} % |", file=sys.stderr, flush=True)


def main() -> None:
    """Measure every case and print the rows."""
    print("|", " | ".join(("release", *GATES)), "|", file=sys.stderr)
    print("|---" * (len(GATES) + 1) + "|", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for name, rate, delays, sites in CASES:
        found = measure(rate, delays, sites)
        print("|", " | ".join((name, *(cell(each) for each in found.values()))), "|", file=sys.stderr, flush=True)
        ours, peer = found["evidence"].share, found["5 % of results, from 100 on"].share
        ratio = ours / peer if peer else None
        row = {"name": f"gates: halts, {name}", "ours": 100 * ours, "peer": 100 * peer, "ratio": ratio, "unit": "%"}
        rows.append({**row, "note": f"{RUNS:,} runs of 2,000 devices"})
    print(json.dumps([*rows, *arm_rows(), *rollout_rows()]))


if __name__ == "__main__":
    main()
