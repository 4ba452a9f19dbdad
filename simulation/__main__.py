"""`python -m simulation run SCENARIO [--json F] [--events F] [--progress]`: virtual devices, start to end.

`python -m simulation check SCENARIO`: whether they can be run.
`python -m simulation what-if PLAN --fleet SCENARIO …`: see simulation/what_if/command.py.

Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted; what was known until then is written all the same.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from device_sim.errors import DeviceSimError
from device_sim.fleets.scenario_file import read_scenario
from protocol.document import canonical_json
from service.domain.errors import ServiceError
from simulation.errors import SimulationError, WhatIfError
from simulation.run import Progress, Run, check_run
from simulation.what_if import command

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a scenario; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.does(options))
    except KeyboardInterrupt:
        return INTERRUPTED
    except WhatIfError as error:
        sys.stderr.write(f"simulation: {error}\n")
        return USAGE
    except (SimulationError, DeviceSimError, ServiceError, OSError) as error:
        sys.stderr.write(f"simulation: {error}\n")
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulation", description="Service and devices in one process.")
    commands = parser.add_subparsers(required=True, metavar="run|check|what-if")
    run = commands.add_parser("run", help="run a scenario's virtual devices")
    run.set_defaults(does=_run)
    run.add_argument("scenario", type=Path, help="YAML or JSON")
    run.add_argument("--json", type=Path, metavar="FILE", help="write the record of the run")
    run.add_argument("--events", type=Path, metavar="FILE", help="write every event as a line of JSON")
    run.add_argument("--progress", action="store_true", help="tell on stderr how far it is")
    check = commands.add_parser("check", help="say whether a scenario's virtual devices can be run")
    check.set_defaults(does=_check)
    check.add_argument("scenario", type=Path, help="YAML or JSON")
    what_if = commands.add_parser("what-if", help="say beforehand what a rollout plan will do")
    what_if.set_defaults(does=command.run)
    command.add_arguments(what_if)
    return parser


def _run(options: argparse.Namespace) -> int:
    scenario = read_scenario(options.scenario)
    with _stream(options.events) as events:
        run = Run(scenario, events=events, is_tallied=options.json is not None)
        code = DONE
        try:
            run.go(tell=_tell if options.progress else None)
        except KeyboardInterrupt:
            code = INTERRUPTED
    if options.json is not None:
        options.json.write_bytes(canonical_json(run.report(ended=code == DONE)) + b"\n")
    _sum_up(run.progress)
    return code


def _check(options: argparse.Namespace) -> int:
    check_run(read_scenario(options.scenario))
    return DONE


@contextlib.contextmanager
def _stream(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open("w", encoding="utf-8") as stream:
        yield stream


def _tell(progress: Progress) -> None:
    states = ", ".join(str(stored.rollout.state) for stored in progress.rollouts.values()) or "no rollout"
    sys.stderr.write(f"{progress.seconds / 3600:8.2f} h  {progress.steps} steps  {progress.events} events  {states}\n")


def _sum_up(progress: Progress) -> None:
    for stored in progress.rollouts.values():
        rollout = stored.rollout
        counts = [stage.counts for stage in rollout.stages]
        sys.stderr.write(
            f"rollout {rollout.rollout_id}: {rollout.state}, {sum(c.exposed for c in counts)} exposed, "
            f"{sum(c.succeeded for c in counts)} confirmed, {sum(c.failed for c in counts)} failed"
            f"{'; ' + rollout.halted_reason if rollout.halted_reason else ''}\n"
        )


if __name__ == "__main__":
    sys.exit(main())
