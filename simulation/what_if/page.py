"""An answer as one HTML page that needs nothing beside it: no script, no style sheet, no network."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from simulation.what_if.answer import Answer
from simulation.what_if.compare import Comparison
from simulation.what_if.plots import course_plot, exposure_plot

TEMPLATE = "what_if.html.j2"


def render_page(answer: Answer, comparison: Comparison | None = None) -> str:
    """Return the page; every text of the answer is escaped."""
    template = files("simulation.what_if").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    plots = {"course": course_plot(answer), "exposure": exposure_plot(answer)}
    return environment.from_string(template).render(
        answer=answer,
        comparison=comparison,
        plots={name: Markup(svg) for name, svg in plots.items()},  # noqa: S704 - matplotlib escapes labels
    )
