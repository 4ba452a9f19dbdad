"""How fast virtual devices go through a whole staged rollout: 1 %, 10 % and 100 %, each watched for an hour.

Every device boots, attests, polls for more than three hours and takes one model of 300,000 bytes. Each fleet has a
process of its own, so that its memory is its own. No peer: no simulator that we know drives an update service's own
code under a virtual clock.

    python -m tests.benchmarks.virtual_bench [DEVICES ...]     1,000, 10,000 and 100,000 if none are named
"""

import json
import resource
import subprocess
import sys
import time
from typing import Any

from protocol.scenario import Scenario
from service.domain.rollout import RolloutState
from simulation.run import Run

FLEETS = (1_000, 10_000, 100_000)
SOAK = "1h"
KIB = 1024


def scenario(devices: int) -> Scenario:
    """Return a fleet of one group and its rollout."""
    stages = [{"percent": percent, "soak": SOAK} for percent in (1, 10, 100)]
    return Scenario.model_validate(
        {
            "fleets": [{"name": "cameras", "devices": devices, "fidelity": "virtual"}],
            "releases": [{"name": "r1", "images": {"m4-0/model": {"name": "person@2.0", "bytes": 300_000}}}],
            "rollouts": [{"release": "r1", "at": "5m", "stages": stages}],
        }
    )


def resident_bytes() -> int:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def measure(devices: int) -> dict[str, float]:
    """Run one fleet in this process."""
    before = resident_bytes()
    begun, worked = time.perf_counter(), time.process_time()
    run = Run(scenario(devices))
    run.go()
    took, worked = time.perf_counter() - begun, time.process_time() - worked
    (stored,) = run.operator.rollouts().values()
    if stored.rollout.state is not RolloutState.FINISHED:
        raise SystemExit(f"expected the rollout to finish, found it {stored.rollout.state}")
    return {
        "seconds": took,
        "cpu_seconds": worked,
        "virtual_seconds": run.progress.seconds,
        "events": run.progress.events,
        "steps": run.progress.steps,
        "bytes_per_device": (resident_bytes() - before) / devices,
    }


def rows(devices: int, found: dict[str, float]) -> list[dict[str, Any]]:
    """Return the rows of one fleet."""
    note = (
        f"{found['virtual_seconds'] / 3600:.1f} h of the scenario, {found['cpu_seconds']:.0f} s of one core, "
        f"{found['steps']:,.0f} steps, {found['events']:,.0f} events"
    )
    shared = {"peer": None, "ratio": None}
    return [
        {
            "name": f"virtual: staged rollout, {devices:,} devices",
            "ours": found["seconds"],
            "unit": "s",
            "note": note,
            **shared,
        },
        {
            "name": f"virtual: memory per device, {devices:,} devices",
            "ours": found["bytes_per_device"],
            "unit": "bytes",
            "note": "most that the process held, less what it held before",
            **shared,
        },
    ]


def in_a_process(devices: int) -> dict[str, float]:
    """Measure one fleet in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.virtual_bench", "--measure", str(devices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: list[str]) -> None:
    """Measure the fleets that are named and print their rows."""
    if arguments[:1] == ["--measure"]:
        print(json.dumps(measure(int(arguments[1]))))
        return
    fleets = [int(each) for each in arguments] or FLEETS
    print(json.dumps([row for devices in fleets for row in rows(devices, in_a_process(devices))]))


if __name__ == "__main__":
    main(sys.argv[1:])
