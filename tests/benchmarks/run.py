"""`make bench`: every benchmark side by side with its peer on this machine; a Markdown table, and JSON rows.

Each script prints a JSON list of rows {name, ours, peer, ratio, unit, note}; peer and ratio are null where there is
none. A script that fails gives a row that says so, and the others still run. Nothing here is asserted.
`python -m tests.benchmarks.run NAME ...` runs those named alone.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPTS = (
    "poll_bench",
    "gateway_bench",
    "attest_bench",
    "issue_bench",
    "hsm_bench",
    "rollout_bench",
    "director_bench",
    "sbom_bench",
    "download_bench",
    "delta_bench",
    "tlog_bench",
    "gate_validity_bench",
    "site_gate_bench",
    "rollout_policies_bench",
    "virtual_bench",
    "core_bench",
    "fleet_bench",
)
LIMIT_SECONDS = 1200  # per script
OUT = Path("build/bench.json")


def run(script: str) -> list[dict[str, Any]]:
    """Run one script and return its rows."""
    print(f"running {script} …", file=sys.stderr)
    try:
        done = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{script}"],
            stdout=subprocess.PIPE,
            timeout=LIMIT_SECONDS,
            check=True,
            text=True,
        )
        rows: list[dict[str, Any]] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return [{"name": script, "ours": None, "peer": None, "ratio": None, "unit": "", "note": f"failed: {error}"}]
    return rows


def figure(value: float | None) -> str:
    """Write a figure with three digits that matter."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table."""
    lines = ["| name | ours | peer | ratio | unit | note |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {figure(row['ours'])} | {figure(row['peer'])} | {figure(row['ratio'])} "
        f"| {row['unit']} | {row['note']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run what was named on the command line, or everything."""
    named = sys.argv[1:]
    if unknown := set(named).difference(SCRIPTS):
        sys.exit(f"benchmark: expected some of {', '.join(SCRIPTS)}, found {', '.join(sorted(unknown))}")
    rows = [row for script in named or SCRIPTS for row in run(script)]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
