"""`python -m simulation what-if PLAN --fleet SCENARIO`: what a plan will do, as text, JSON, page and picture.

PLAN is a file, YAML or JSON, or a preset: `preset:careful`. Everything is read and checked before anything is run.
Ctrl-C ends it with what is known; a second one at once.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from device_sim.fleets.scenario_file import ScenarioError, read_scenario
from protocol.document import MAX_DOCUMENT_BYTES, DocumentError, parse_document
from protocol.plan import Plan, merge_preset
from protocol.scenario import Scenario
from protocol.yaml_document import parse_yaml_keys
from simulation.errors import WhatIfError
from simulation.what_if.answer import Answer, Progress, ask, check_numbers
from simulation.what_if.compare import Comparison, compare, markdown
from simulation.what_if.fleet import model_of

DONE, INTERRUPTED = 0, 130
PRESET = "preset:"
TELL_SECONDS = 1.0
MOST_COMPARED = 100  # replications of a cell of the table
_HOUR = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("plan", help="YAML or JSON file, or preset:NAME")
    parser.add_argument("--fleet", type=Path, required=True, metavar="SCENARIO", help="YAML or JSON, with fleets")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the answer as a page")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the plots as a picture")
    parser.add_argument("--replications", type=int, default=1000, metavar="N", help="of each release (1000)")
    parser.add_argument("--failure-rate", type=float, metavar="P", help="of the bad release, 0.1 for a tenth")
    parser.add_argument("--base-failure", type=float, default=0.02, metavar="P", help="of every update (0.02)")
    parser.add_argument("--seed", type=int, metavar="S", help="in place of the scenario's")
    parser.add_argument("--compare", action="store_true", help="add the table of policies")


def run(options: argparse.Namespace) -> int:
    """Answer a question; returns the exit code.

    Raises:
        WhatIfError: says what is wrong where; nothing was run.
        OSError: a file cannot be written.
    """
    check_numbers(
        base_failure=options.base_failure, failure_rate=options.failure_rate, replications=options.replications
    )
    plan, scenario = read_plan(options.plan), _read_fleet(options.fleet)
    _check_plan(plan)
    model_of(scenario, base_failure=options.base_failure)
    for path in filter(None, (options.html, options.png)):
        _check_place(path)
    teller = _Teller()
    answer = ask(
        plan,
        scenario,
        base_failure=options.base_failure,
        failure_rate=options.failure_rate,
        replications=options.replications,
        seed=options.seed,
        tell=teller.tell,
    )
    is_whole = answer.replications == options.replications
    comparison = None
    if options.compare and is_whole:
        comparison = compare(
            scenario,
            base_failure=options.base_failure,
            replications=min(options.replications, MOST_COMPARED),
            seed=options.seed,
            plans=[plan],
            tell=teller.say,
        )
    _write(answer, comparison, options)
    return DONE if is_whole and (comparison is None or comparison.is_whole) else INTERRUPTED


def read_plan(name: str) -> Plan:
    """Read a plan's file, or return a preset.

    Raises:
        WhatIfError: names the file and what is wrong where.
    """
    if name.startswith(PRESET):
        content: dict[str, object] = {"preset": name.removeprefix(PRESET)}
    else:
        try:
            with Path(name).open("rb") as file:
                content = parse_yaml_keys(file.read(MAX_DOCUMENT_BYTES + 1))
        except OSError as error:
            raise WhatIfError(f"{name}: expected a plan, found {error.strerror}") from error
        except DocumentError as error:
            raise WhatIfError(f"{name}: {error}") from error
    try:
        return parse_document(json.dumps(merge_preset(content)).encode(), Plan)
    except (DocumentError, ValueError) as error:
        raise WhatIfError(f"{name}: {error}") from error


def _check_plan(plan: Plan) -> None:
    """Refuse what no synthetic device does: a plan that is left half would be answered wrongly.

    Raises:
        WhatIfError: the plan has devices wait for a person, or compares models.
    """
    for key, is_set in (("download_only", plan.download_only), ("shadow", plan.shadow is not None)):
        if is_set:
            raise WhatIfError(
                f"plan: expected none with {key}, found one; try it on virtual devices: python -m simulation run"
            )


def _read_fleet(path: Path) -> Scenario:
    try:
        return read_scenario(path)
    except ScenarioError as error:
        raise WhatIfError(str(error)) from error


class _Teller:
    """Says on stderr how far it is, once a second at most."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def tell(self, progress: Progress) -> None:
        """Say how far the question is."""
        if time.monotonic() - self._said_at < TELL_SECONDS and progress.done != progress.of:
            return
        if progress.moment is not None:
            hours = progress.moment.seconds / _HOUR
            self.say(f"{progress.doing}: {hours:.1f} h, {progress.moment.exposed} devices exposed")
        else:
            self.say(f"{progress.doing}: {progress.done} of {progress.of}")

    def say(self, text: str) -> None:
        """Say something now."""
        self._said_at = time.monotonic()
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise WhatIfError(f"{path}: expected an existing folder, found none")


def _write(answer: Answer, comparison: Comparison | None, options: argparse.Namespace) -> None:
    if options.html is not None or options.png is not None:
        _write_files(answer, comparison, html=options.html, png=options.png)
    if options.json:
        found = answer.model_dump(mode="json")
        if comparison is not None:
            found["comparison"] = comparison.model_dump(mode="json")
        sys.stdout.write(json.dumps(found, sort_keys=True) + "\n")
    else:
        sys.stdout.write(text_of(answer) + "\n")
        if comparison is not None:
            sys.stdout.write("\n" + markdown(comparison) + "\n")


def _write_files(answer: Answer, comparison: Comparison | None, *, html: Path | None, png: Path | None) -> None:
    from simulation.what_if.page import render_page  # noqa: PLC0415 - plots take a second to import
    from simulation.what_if.plots import save_picture  # noqa: PLC0415

    if html is not None:
        html.write_text(render_page(answer, comparison), encoding="utf-8")
    if png is not None:
        save_picture(answer, png)


def text_of(answer: Answer) -> str:
    """Return the answer for people."""
    bad = "as the scenario says" if answer.failure_rate is None else f"on {answer.failure_rate:.3%} of the devices"
    full, reason = answer.full, f"; {answer.full.reason}" if answer.full.reason else ""
    counts = f"{full.exposed:,} exposed, {full.failed:,} failed"
    shares = (
        f"halted {answer.false_halt_share:.2%}, asks {answer.asked_share:.2%}, finishes {answer.finished_share:.2%}"
    )
    lines = [
        f"plan {answer.plan}, {answer.devices:,} devices, {answer.replications:,} replications, seed {answer.seed}",
        f"full run: {full.state} after {full.seconds / _HOUR:.2f} h, {counts}{reason}",
        f"healthy, {answer.base_failure:.3%} fail anyway: {shares}",
    ]
    if answer.completion is not None:
        lines.append(f"  ends after {answer.completion.median / _HOUR:.2f} h (p90 {answer.completion.p90 / _HOUR:.2f})")
    exposed = f"exposed {answer.exposed_median:,.0f} (p90 {answer.exposed_p90:,.0f})"
    harmed = f"harmed {answer.harmed_median:,.0f} (p90 {answer.harmed_p90:,.0f})"
    lines += [
        f"bad, {bad}: halted {answer.halted_share:.2%}, asks {answer.bad_asked_share:.2%}",
        f"  {exposed}, {harmed}",
    ]
    if answer.halt_seconds is not None:
        halt = answer.halt_seconds
        lines.append(f"  halts after {halt.median / 60:.1f} min (p90 {halt.p90 / 60:.1f})")
    lines += [f"not simulated: {line}" for line in answer.not_simulated]
    return "\n".join(lines)
