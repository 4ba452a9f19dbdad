"""The record of a run as one HTML page that needs nothing beside it: no script, no style sheet, no network."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from device_sim.reporting.plots import energy_plot, failures_plot, timeline_plot, wire_plot
from device_sim.reporting.record import RunReport

TEMPLATE = "report.html.j2"


def render_page(report: RunReport) -> str:
    """Return the page; every text of the record is escaped."""
    template = files("device_sim.reporting").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    plots = {
        "timeline": timeline_plot(report),
        "failures": failures_plot(report),
        "wire": wire_plot(report),
        "energy": energy_plot(report),
    }
    return environment.from_string(template).render(
        report=report,
        plots={name: Markup(svg) for name, svg in plots.items()},  # noqa: S704 - matplotlib escapes labels
        has_failures=any(fleet.failures for fleet in report.fleets),
    )
