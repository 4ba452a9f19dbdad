"""What rollout policies do to a million devices: one table on stderr, and a row per policy as JSON.

The policies of hawkBit, AWS IoT Jobs and a plain ramp, written as plans for our engine, beside our gates at the same
completion time (simulation/what_if/compare.py). No peer runs here: their servers are no Python packages.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from device_sim.fleets.scenario_file import read_scenario  # noqa: E402
from simulation.what_if.compare import Cell, Comparison, compare, markdown  # noqa: E402

FLEET = ROOT / "docs/examples/fleets/million.yaml"
REPLICATIONS = 30


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return devices exposed: ours beside the policy whose completion time it was given, case by case."""
    others = {(cell.policy, cell.case): cell for cell in comparison.cells if not cell.matches}
    return [_row(cell, others[cell.matches, cell.case]) for cell in comparison.cells if cell.matches and cell.is_bad]


def _row(ours: Cell, other: Cell) -> dict[str, Any]:
    return {
        "name": f"exposed, {ours.case}: ours and {other.policy}",
        "ours": ours.exposed_median,
        "peer": other.exposed_median,
        "ratio": other.exposed_median / max(ours.exposed_median, 1),
        "unit": "devices",
        "note": f"halted {ours.halted:.0%} and {other.halted:.0%}, asks {ours.asked:.0%} and {other.asked:.0%}",
    }


def main() -> None:
    """Print the table and the rows."""
    comparison = compare(
        read_scenario(FLEET), replications=REPLICATIONS, tell=lambda text: print(text, file=sys.stderr)
    )
    print(markdown(comparison), file=sys.stderr)
    print(json.dumps(rows(comparison)))


if __name__ == "__main__":
    main()
