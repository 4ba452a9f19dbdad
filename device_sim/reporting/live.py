"""The live view of a run, for people on a terminal: fleets, what is wrong, what happened last. It shows a record."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from device_sim.reporting.record import DeviceState, FleetRecord, RunReport

FRAMES_PER_SECOND = 2
MAX_FLEET_ROWS = 20
MAX_HAPPENED = 6
_SHOWN = (
    DeviceState.ONLINE,
    DeviceState.UPDATING,
    DeviceState.OFFLINE,
    DeviceState.QUARANTINED,
    DeviceState.REFUSED,
    DeviceState.OFF,
)
_MIB = 1024 * 1024


@contextmanager
def showing(report: Callable[[], RunReport], console: Console) -> Iterator[None]:
    """Show a run for as long as the block lasts; nothing where the console is no terminal.

    Args:
        report: gives the record so far.
        console: on stderr, so that stdout stays for machines.
    """
    if not console.is_terminal:
        yield
        return
    stopping = threading.Event()
    with Live(render(report()), console=console, auto_refresh=False) as live:

        def draw() -> None:
            while not stopping.wait(1 / FRAMES_PER_SECOND):
                live.update(render(report()), refresh=True)

        thread = threading.Thread(target=draw, name="live-view")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()
            live.update(render(report()), refresh=True)


def render(report: RunReport) -> RenderableType:
    """Return the view of a record."""
    head = Text(f"{report.description or 'run'} · {_clock(report.seconds)} · {report.devices} devices", style="bold")
    return Group(head, _fleet_table(report), *_happened(report))


def _fleet_table(report: RunReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("fleet")
    for name in ("devices", *(state.value for state in _SHOWN), "failed", "inferences", "MiB in", "MiB out", "J each"):
        table.add_column(name, justify="right")
    for fleet in report.fleets[:MAX_FLEET_ROWS]:
        table.add_row(fleet.name, *_figures(fleet))
    return table


def _figures(fleet: FleetRecord) -> list[str]:
    failed = sum(fleet.failures.values())
    causes = " ".join(f"{cause} {count}" for cause, count in sorted(fleet.failures.items()))
    return [
        str(fleet.devices),
        *(str(fleet.states.get(state, 0)) for state in _SHOWN),
        f"{failed} ({causes})" if causes else "0",
        str(fleet.inferences),
        f"{fleet.wire.bytes_received / _MIB:.1f}",
        f"{fleet.wire.bytes_sent / _MIB:.1f}",
        f"{fleet.energy.total / max(fleet.devices, 1):.1f}",
    ]


def _happened(report: RunReport) -> list[Text]:
    moments = [(each.at, f"rollout {each.rollout}: {each.state} {each.detail}") for each in report.rollouts]
    moments += [(each.at, f"{each.kind}, {each.devices} devices") for each in report.happenings]
    return [Text(f"{_clock(at)}  {what}", style="dim") for at, what in sorted(moments)[-MAX_HAPPENED:]]


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
