"""`tinyfleet demo`: the whole product end to end on one machine, by its own public commands.

A key ceremony, a service, a simulated fleet, two real models signed and rolled out in stages, inference, telemetry, and
a bad release that stops itself. Every process is a subprocess that anyone could start by hand; logs/ holds what they
said. A step that is done is not done again: the same command goes on after a Ctrl-C.
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli import demo_releases, demo_steps
from service.cli.demo_folder import DemoFolder, open_folder
from service.cli.demo_processes import Processes, StopRequest
from service.cli.demo_run import DemoRun
from service.cli.demo_summary import Summary, summarise, summary_table
from service.cli.live import DemoView, StepState, StepView, open_screen
from service.cli.options import JsonOption
from service.cli.output import print_json, remark
from tinyml.fetch import CACHE_VARIABLE

MIN_DEVICES = 3  # a tampered one, an unlisted one, and one that works
TICK_SECONDS = "0.2"  # the worker looks often, because people watch
FIRST_TIMED_STEP = "init"  # what comes before is set-up: a download


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the demo.

    Attributes:
        is_lasting: what it does is still there in the next run.
    """

    name: str
    title: str
    act: Callable[[DemoRun], object]
    is_lasting: bool = True


STEPS = (
    Step("fetch", "Fetch two models, pinned by SHA-256", demo_releases.fetch),
    Step("init", "Key ceremony: offline keys, and the service's keys signed by CSR", demo_steps.init),
    Step("start", "Start the service", demo_steps.start_service, is_lasting=False),
    Step("manufacture", "Manufacture the devices", demo_steps.manufacture),
    Step("serve", "Wait for the service: HTTPS API, MQTT gateway, worker", demo_steps.serve, is_lasting=False),
    Step("factory", "Sign factory images and birth certificates, flash the devices", demo_steps.factory),
    Step("claim", "Claim the devices by proof of identity", demo_steps.claim),
    Step("attack", "Tamper with one device, flash an unlisted image into another", demo_steps.attack),
    Step("boot", "Boot and attest", demo_steps.boot, is_lasting=False),
    Step("pack", "Sign golden vectors, models and an application", demo_releases.pack),
    Step("release", "Sign the release", demo_releases.release),
    Step("attest", "Wait for the last device to be attested or refused", demo_steps.attest, is_lasting=False),
    Step("rollout", f"Roll out in stages {demo_releases.STAGES}", demo_releases.roll_out),
    Step("inference", "Infer on real photos, and bring the results home", demo_releases.infer, is_lasting=False),
    Step("bad-release", "Sign a bad release: it passes on the host", demo_releases.bad_release),
    Step("bad-rollout", "Roll it out: the canary reverts, the rollout halts", demo_releases.bad_rollout),
    Step("stop", "Stop the devices", demo_steps.stop_devices, is_lasting=False),
)


def demo(
    *,
    devices: Annotated[int, typer.Option(min=MIN_DEVICES, max=1000, help="How many devices.")] = 12,
    data_dir: Annotated[Path, typer.Option(help="Folder for everything; an interrupted demo goes on in it.")] = Path(
        "demo-data"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave service and devices running, and say where.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole product on this machine: devices, models, rollouts, telemetry, and a release that stops itself."""
    stop = StopRequest()
    with open_folder(data_dir, devices=devices) as (folder, record), stop.listening(), ExitStack() as stack:
        demo_steps.refuse_running_service(folder)
        view = DemoView([StepView(step.title) for step in STEPS], device_count=devices)
        environment = environment_of(folder)
        processes = Processes(folder.logs, environment, stop=stop)
        screen = stack.enter_context(open_screen(view, silent=as_json))
        run = DemoRun(folder, record, processes, stop=stop, view=view, screen=screen)
        stack.callback(run.close)
        summary = _perform(run)
        kept = demo_steps.keep_running(run) if keep else ""
    _print_summary(summary, as_json=as_json)
    if kept:
        remark(kept)


def environment_of(folder: DemoFolder) -> dict[str, str]:
    """Return what the demo's commands find in their environment: none of the settings of another service."""
    inherited = {
        name: value for name, value in os.environ.items() if name == CACHE_VARIABLE or not name.startswith("TINYFLEET_")
    }
    return {
        **inherited,
        "TINYFLEET_OPERATOR_DIR": str(folder.operator),
        "TINYFLEET_TICK_SECONDS": TICK_SECONDS,
        "PYTHONUNBUFFERED": "1",
    }


def _perform(run: DemoRun) -> Summary:
    for step, shown in zip(STEPS, run.view.steps, strict=True):
        if step.name == FIRST_TIMED_STEP:
            run.started = time.monotonic()
        if step.is_lasting and run.is_done(step.name):
            shown.state = StepState.SKIPPED
            continue
        began = time.monotonic()
        shown.state = StepState.RUNNING
        run.screen.refresh()
        step.act(run)
        if step.is_lasting:
            run.finish(step.name)
        shown.state, shown.detail = StepState.DONE, f"{time.monotonic() - began:.1f} s"
        run.screen.refresh()
    return summarise(run)


def _print_summary(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print_json(summary)
    else:
        Console().print(summary_table(summary))
