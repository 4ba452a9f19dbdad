"""The demo's view: steps, one progress bar per stage of a rollout, a table of devices. For people, on stderr.

On a terminal it is drawn anew while things change; elsewhere each finished step is one line. With `--json` nothing
is shown. The view only shows what `DemoView` holds; who runs the demo puts it there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from service.cli.output import short, table

FRAMES_PER_SECOND = 5
MAX_DEVICE_ROWS = 14  # what a terminal of ordinary height has room for beside the rest
_BAR_WIDTH = 40


class StepState(StrEnum):
    """How far a step of the demo is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"  # an earlier run did it


_MARKS = {
    StepState.WAITING: Text("·", style="dim"),
    StepState.RUNNING: Text("▸", style="cyan"),
    StepState.DONE: Text("✓", style="green"),
    StepState.SKIPPED: Text("✓", style="dim"),
}


@dataclass(slots=True)
class StepView:
    """One step."""

    title: str
    state: StepState = StepState.WAITING
    detail: str = ""


@dataclass(slots=True)
class DemoView:
    """What the view shows.

    Attributes:
        rollouts: as the API has them, by id, in the order of their start.
        device_count: how many there are.
        devices: rows of the device table; the first ones.
    """

    steps: list[StepView]
    device_count: int = 0
    rollouts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    devices: list[Sequence[object]] = field(default_factory=list)


class Screen(Protocol):
    """Shows a view."""

    def refresh(self) -> None:
        """Show the view as it is now."""


class SilentScreen:
    """Shows nothing."""

    def refresh(self) -> None:
        """Show nothing."""


class LineScreen:
    """One line per finished step."""

    def __init__(self, view: DemoView, console: Console) -> None:
        self._view = view
        self._console = console
        self._shown = 0

    def refresh(self) -> None:
        """Print the steps that have finished since the last time."""
        for step in self._view.steps[self._shown :]:
            if step.state in {StepState.WAITING, StepState.RUNNING}:
                return
            self._console.print(_step_line(step), soft_wrap=True)
            self._shown += 1


class LiveScreen:
    """The whole view, drawn anew."""

    def __init__(self, view: DemoView, live: Live) -> None:
        self._view = view
        self._live = live

    def refresh(self) -> None:
        """Hand the view over to the next frame."""
        self._live.update(render(self._view))


@contextmanager
def open_screen(view: DemoView, *, silent: bool) -> Iterator[Screen]:
    """Open the screen that fits where the demo runs."""
    console = Console(stderr=True, highlight=False)
    if silent:
        yield SilentScreen()
    elif not console.is_terminal:
        yield LineScreen(view, console)
    else:
        with Live(render(view), console=console, refresh_per_second=FRAMES_PER_SECOND) as live:
            yield LiveScreen(view, live)


def render(view: DemoView) -> RenderableType:
    """Draw a view."""
    parts: list[RenderableType] = [_step_line(step) for step in view.steps]
    parts += [_rollout(rollout) for rollout in view.rollouts.values()]
    if view.devices:
        parts.append(_devices(view.devices, view.device_count))
    return Group(*parts)


def _step_line(step: StepView) -> Text:
    style = "dim" if step.state is StepState.WAITING else ""
    return Text.assemble(_MARKS[step.state], " ", (step.title, style), ("  " + step.detail, "dim"))


def _rollout(rollout: Mapping[str, Any]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for stage in rollout.get("stages", []):
        size = stage.get("size") or 0
        done = stage.get("succeeded", 0)
        style = "red" if stage.get("failed") else "cyan"
        bar = ProgressBar(total=max(size, 1), completed=done, width=_BAR_WIDTH, complete_style=style)
        grid.add_row(Text(f"  stage {stage['index']}"), bar, Text(f"{done}/{size}"), Text(_stage_text(stage)))
    title = Text.assemble(("rollout ", "bold"), str(rollout.get("release", "")), f"  {rollout['state']}")
    reason = rollout.get("halted_reason")
    return Group(title, grid, *([Text(f"  {reason}", style="yellow")] if reason else []))


def _stage_text(stage: Mapping[str, Any]) -> str:
    failed = stage.get("failed", 0)
    return f"{stage['state']}, {failed} failed" if failed else str(stage["state"])


def _devices(rows: Sequence[Sequence[object]], count: int) -> RenderableType:
    columns = ("device", "state", "a7", "m4-0", "m4-1", "m4-0 sees", "m4-1 sees")
    title = f"{count} devices" + (f", {len(rows)} shown" if len(rows) < count else "")
    return table(title, columns, [(short(row[0]), *row[1:]) for row in rows])
