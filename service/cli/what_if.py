"""`tinyfleet rollout simulate`: what a plan will do, asked of the simulation, which runs in a process of its own.

The child gets the words of the command as they are, checks them, and says on stderr how far it is. It has a process
group of its own, so that a Ctrl-C reaches it once: passed on. It then writes what is known, and its exit code is ours.
"""

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import JsonOption

SIGNALLED = 128  # plus the number, as shells have it


def simulate(
    plan: Annotated[str, typer.Argument(help="Plan file, YAML or JSON, or preset:NAME.")],
    *,
    fleet: Annotated[Path, typer.Option(help="Scenario file with fleets.")],
    html: Annotated[Path | None, typer.Option(help="Write the answer as a page.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write the plots as a picture.")] = None,
    replications: Annotated[int | None, typer.Option(help="Rollouts of each release; 1000.")] = None,
    failure_rate: Annotated[float | None, typer.Option(help="Of the bad release: 0.1 for a tenth.")] = None,
    base_failure: Annotated[float | None, typer.Option(help="Share on which every update fails; 0.02.")] = None,
    seed: Annotated[int | None, typer.Option(help="In place of the scenario's.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Add a table of other servers' policies.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say beforehand what a plan will do to a fleet: how long, how far a bad release gets, how often it errs."""
    values: Mapping[str, object] = {
        "fleet": fleet,
        "html": html,
        "png": png,
        "replications": replications,
        "failure-rate": failure_rate,
        "base-failure": base_failure,
        "seed": seed,
    }
    words = [f"--{name}={value}" for name, value in values.items() if value is not None]
    words += ["--compare"] * compare + ["--json"] * as_json
    _run([sys.executable, "-m", "simulation", "what-if", *words, "--", plan])


def _run(command: list[str]) -> None:
    """Run the simulation to its end.

    Raises:
        typer.Exit: it failed, was stopped or refused its arguments, and has said why.
    """
    child = subprocess.Popen(command, process_group=0)  # noqa: S603 - this interpreter, and words that it checks
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: child.send_signal(signal.SIGINT)) for number in numbers}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        raise typer.Exit(code if code > 0 else SIGNALLED - code)
