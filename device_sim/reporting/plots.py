"""Plots of a record as SVG texts that stand in a page by themselves: no script, no font, no file beside it."""

import io
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from device_sim.reporting.record import DeviceState, RunReport

_COLOURS = {
    DeviceState.ONLINE: "#2e7d4f",
    DeviceState.UPDATING: "#2f6fb3",
    DeviceState.OFFLINE: "#9aa5ad",
    DeviceState.BOOTED: "#c9d1d6",
    DeviceState.QUARANTINED: "#d9a514",
    DeviceState.REFUSED: "#c0582b",
    DeviceState.UNCLAIMED: "#b9a7d0",
    DeviceState.STOPPED: "#8c1f1f",
    DeviceState.CRASHED: "#000000",
    DeviceState.OFF: "#eceff1",
}
_HOUR = 3600.0
_MINUTE = 60.0
_MOST_CAUSES = 20
_MOST_CHARACTERS = 40


def timeline_plot(report: RunReport) -> str:
    """Return devices by state over time, with what happened as lines."""
    figure, axes = _figure(height=3.2)
    unit, name = _time_unit(report.seconds)
    times = [point.at / unit for point in report.timeline]
    present = [state for state in _COLOURS if any(point.states.get(state) for point in report.timeline)]
    rows = [[point.states.get(state, 0) for point in report.timeline] for state in present]
    if rows:
        axes.stackplot(times, rows, labels=[state.value for state in present], colors=[_COLOURS[s] for s in present])
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    for at in (*(each.at for each in report.rollouts), *(each.at for each in report.happenings)):
        axes.axvline(at / unit, color="#333333", linewidth=0.6, linestyle=":")
    axes.set_xlabel(name)
    axes.set_ylabel("devices")
    return _svg(figure)


def failures_plot(report: RunReport) -> str:
    """Return failed actions by cause, one bar per fleet in each; of many causes the most frequent."""
    totals: Counter[str] = Counter()
    for fleet in report.fleets:
        totals.update(fleet.failures)
    causes = sorted(cause for cause, _count in totals.most_common(_MOST_CAUSES))
    series = [(fleet.name, [float(fleet.failures.get(cause, 0)) for cause in causes]) for fleet in report.fleets]
    return _bars(causes, series, label="failed actions")


def wire_plot(report: RunReport) -> str:
    """Return bytes on the wire per device, by fleet."""
    fleets = [fleet for fleet in report.fleets if fleet.devices]
    received = [fleet.wire.bytes_received / fleet.devices / 1024 for fleet in fleets]
    sent = [fleet.wire.bytes_sent / fleet.devices / 1024 for fleet in fleets]
    names = [fleet.name for fleet in fleets]
    return _bars(names, [("received", received), ("sent", sent)], label="KiB per device")


def energy_plot(report: RunReport) -> str:
    """Return estimated energy per device, by fleet and by what used it."""
    fleets = [fleet for fleet in report.fleets if fleet.devices]
    figure, axes = _figure(height=2.6)
    bottom = [0.0] * len(fleets)
    for part in ("standby", "inference", "radio", "flash"):
        values = [float(getattr(fleet.energy, part)) / fleet.devices for fleet in fleets]
        axes.bar(range(len(fleets)), values, bottom=bottom, label=part)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]
    axes.set_xticks(range(len(fleets)), [_plain(fleet.name) for fleet in fleets])
    axes.set_ylabel("J per device")
    axes.legend(frameon=False, fontsize="small")
    return _svg(figure)


def _bars(names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, label: str) -> str:
    figure, axes = _figure(height=2.6)
    width = 0.8 / max(len(series), 1)
    for number, (name, values) in enumerate(series):
        places = [place + (number - (len(series) - 1) / 2) * width for place in range(len(names))]
        axes.bar(places, values, width=width, label=_plain(name))
    axes.set_xticks(range(len(names)), [_plain(name) for name in names])
    axes.set_ylabel(label)
    if names and series:
        axes.legend(frameon=False, fontsize="small")
    return _svg(figure)


def _plain(text: str) -> str:
    """Return a text as matplotlib shows it letter by letter: no formula, no hidden label, not too long."""
    short = text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
    shown = short.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _figure(*, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]  # without the XML prologue


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds > 3 * _HOUR:
        return _HOUR, "hours"
    return (_MINUTE, "minutes") if seconds > 3 * _MINUTE else (1.0, "seconds")
