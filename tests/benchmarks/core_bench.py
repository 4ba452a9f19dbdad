"""Full devices on one processor core: how many it holds at an event per second on both of a device's cores.

    python -m tests.benchmarks.core_bench --devices 40 --seconds 60

The simulator with its TFLM workers is kept to one processor core and the service to another, so a row says what one
core does, whatever else there is. Once with person detection and image classification, once with person detection and
keyword spotting. Two figures each: the events that came, of those that were due, which needs a machine that nothing
else uses; and what the CPU time of an event comes to on a core, which needs none but suffers from caches that are
shared.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench_service import PASSPHRASE, data_directory, service
from tests.benchmarks.fleet_bench import (
    IMAGE,
    PERSON,
    Carried,
    Stage,
    messages,
    row,
    tree,
    usage_of,
    wait_for_messages,
    wait_until_connected,
)
from tests.integration.sensing import listening_cores

EVENTS_PER_DEVICE = 2  # a second, one of each core
SETTLED_AFTER = 10  # messages of each device
KEYWORDS = Carried(
    "keyword-spotting",
    "m4-1",
    ("hall", "kitchen"),
    listening_cores.KEYWORDS,
    listening_cores.WORDS,
)
PRODUCTS = {"person + image": (PERSON, IMAGE), "person + keywords": (PERSON, KEYWORDS)}


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent up to a moment.

    Attributes:
        at: of the moment, monotonic seconds.
        events: that the service has stored.
        simulator: CPU seconds of the process that simulates the devices.
        workers: CPU seconds of the processes that run the models.
        service: CPU seconds of the service.
        memory_mib: resident, of the simulator and its workers.
    """

    at: float
    events: int
    simulator: float
    workers: float
    service: float
    memory_mib: float


def spent(fleet_pid: int, content: dict[str, Any]) -> Spent:
    """Measure the fleet and the service beside it."""
    simulator, workers = usage_of([fleet_pid]), usage_of(tree(fleet_pid)[1:])
    return Spent(
        time.monotonic(),
        messages(content),
        simulator.cpu_seconds,
        workers.cpu_seconds,
        usage_of([content["pid"]]).cpu_seconds,
        simulator.memory_mib + workers.memory_mib,
    )


@contextmanager
def kept_to(core: int) -> Iterator[None]:
    """Keep what is started in the block to one processor core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cores() -> tuple[int, int]:
    """Return a processor core for the simulator and one for the service.

    Raises:
        RuntimeError: there is but one.
    """
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    if len(cores) < 2:
        raise RuntimeError("processor cores: expected one for the simulator and one for the service, found 1")
    return cores[0], cores[1]


def measure(stage: Stage, devices: int, seconds: float) -> tuple[Spent, Spent]:
    """Run the fleet until it has settled and then for the given time; return what was spent before and after that."""
    own, beside = two_cores()
    with ExitStack() as running:
        with kept_to(beside):
            content = running.enter_context(service(stage.data_dir))
        words = [stage.scenario, stage.devices, "--service-file", stage.data_dir / "service" / "service.json"]
        command = [sys.executable, "-m", "device_sim", "run", *map(str, words), "--events", str(stage.events)]
        with kept_to(own):
            fleet = subprocess.Popen(command)
        try:
            wait_until_connected(stage, devices, fleet)
            wait_for_messages(content, devices * SETTLED_AFTER, fleet)
            before = spent(fleet.pid, content)
            time.sleep(seconds)
            return before, spent(fleet.pid, content)
        finally:
            fleet.send_signal(signal.SIGTERM)
            fleet.wait(180)


def rows_of(name: str, devices: int, before: Spent, after: Spent) -> list[dict[str, Any]]:
    """Return the rows of one product."""
    seconds, events = after.at - before.at, after.events - before.events
    ms = {
        who: (getattr(after, who) - getattr(before, who)) / events * 1000 for who in ("simulator", "workers", "service")
    }
    each = ms["simulator"] + ms["workers"]
    note = (
        f"CPU of an event: models {ms['workers']:.2f} ms, simulator {ms['simulator']:.2f} ms, service "
        f"{ms['service']:.2f} ms; the models have {ms['workers'] / each:.0%} of the fleet's"
    )
    due = devices * EVENTS_PER_DEVICE
    return [
        row(f"{name}: events of {devices} devices on one core", events / seconds, "events/s", f"due: {due}; {note}"),
        row(f"{name}: devices a core holds, by CPU time", 1000 / each / EVENTS_PER_DEVICE, "devices", ""),
        row(f"{name}: fleet memory", after.memory_mib / devices, "MiB/device", ""),
    ]


def bench(name: str, devices: int, seconds: float) -> list[dict[str, Any]]:
    """Measure one product."""
    fleet = {"name": "full", "devices": devices, "fidelity": "full", "inference_period": "1s"}
    with data_directory() as data_dir:
        stage = Stage(data_dir, {"seed": 7, "fleets": [fleet]}, models=PRODUCTS[name])
        stage.prepare()
        return rows_of(name, devices, *measure(stage, devices, seconds))


def main() -> None:
    """Measure both products; prints rows of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--product", choices=PRODUCTS, action="append", help="default: all")
    wanted = parser.parse_args()
    os.environ["TINYFLEET_PASSPHRASE"] = PASSPHRASE
    os.environ["TINYFLEET_POLL_SECONDS"] = "600"  # who holds a connection is woken over it
    rows = [each for name in wanted.product or PRODUCTS for each in bench(name, wanted.devices, wanted.seconds)]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
