"""How often gates halt healthy rollouts whose devices fail together, and what it costs to take a site for one draw.

Sites of 1, 5, 20 and 100 devices, whose failures are correlated (beta-binomial; 2 % on average) or not, spread over the
rollout by the salted hash, or started site by site. The product's gates by device and by site share an error budget of
1 %; the rows with `peer` compare those by site with the raw threshold of 5 % from 100 results on, as AWS IoT Jobs has
it. On stderr the whole table, as docs/rollouts/gates.md shows it.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the tests' simulation

from tests.gate_simulation import GATES, Delays, Halts, Sites, halts, looks  # noqa: E402

HEALTHY_RUNS, BAD_RUNS = 2000, 400
PER_CHUNK = 200
SEED = 20_301
HEALTHY = 0.02
BAD = (0.05, 0.1, 0.3)
SHOWN = ("evidence", "evidence, by site", "5 % of results, from 100 on")


def cases() -> Iterator[tuple[float, Sites]]:
    """Yield failure rates and sites."""
    for rate in (HEALTHY, *BAD):
        yield rate, Sites()
        for size in (5, 20, 100):
            for correlation in (0.0, 0.1, 0.3, 0.6) if rate == HEALTHY else (0.0, 0.3):
                yield rate, Sites(size, correlation)
                yield rate, Sites(size, correlation, together=True)


def measure(rate: float, sites: Sites) -> dict[str, Halts]:
    """Return how each gate did, all on the same runs."""
    rng = np.random.default_rng(SEED)
    runs = HEALTHY_RUNS if rate == HEALTHY else BAD_RUNS
    chunks = [looks(rng, rate, runs=PER_CHUNK, delays=Delays(), sites=sites) for _ in range(runs // PER_CHUNK)]
    return {name: halts(GATES[name], chunks) for name in SHOWN}


def name_of(rate: float, sites: Sites) -> str:
    """Write a case."""
    how = "site by site" if sites.together else "spread"
    alone = "each device alone" if sites.size == 1 else f"sites of {sites.size}, ρ = {sites.correlation:g}, {how}"
    return f"{100 * rate:g} %, {alone}"


def main() -> None:
    """Measure every case and print the rows."""
    print("|", " | ".join(("release", *SHOWN)), "|", file=sys.stderr)
    print("|---" * (len(SHOWN) + 1) + "|", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for rate, sites in cases():
        found, name = measure(rate, sites), name_of(rate, sites)
        cells = (f"{each.share:.1%}" + (f" @{each.median}" if each.median else "") for each in found.values())
        print("|", " | ".join((name, *cells)), "|", file=sys.stderr, flush=True)
        ours, peer = found["evidence, by site"].share, found["5 % of results, from 100 on"].share
        row = {"name": f"gates by site: halts, {name}", "ours": 100 * ours, "peer": 100 * peer}
        rows.append({**row, "ratio": ours / peer if peer else None, "unit": "%", "note": "2,000 devices"})
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
