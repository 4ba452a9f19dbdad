"""Plots of an answer: SVG texts that stand in a page by themselves, and one picture of both."""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulation.what_if.answer import Answer

_HOUR = 3600.0


def course_plot(answer: Answer) -> str:
    """Return devices of the full run over time."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    _draw_course(figure.add_subplot(), answer)
    return _svg(figure)


def exposure_plot(answer: Answer) -> str:
    """Return in which share of the replications the bad release reached at most so many devices."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    _draw_exposure(figure.add_subplot(), answer)
    return _svg(figure)


def save_picture(answer: Answer, path: Path) -> None:
    """Write both as one PNG."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1)
    figure.suptitle(f"Plan {answer.plan}, {answer.devices:,} devices")
    _draw_course(above, answer)
    _draw_exposure(below, answer)
    figure.savefig(path, format="png", dpi=120)


def _draw_course(axes: Axes, answer: Answer) -> None:
    points = answer.full.timeline
    hours = [point.at / _HOUR for point in points]
    for name in ("exposed", "confirmed", "failed"):
        axes.plot(hours, [getattr(point, name) for point in points], label=name, drawstyle="steps-post", linewidth=1.2)
    axes.set_yscale("symlog", linthresh=10)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours from the start")
    axes.set_ylabel("devices")
    axes.set_title("Healthy release, one run", fontsize="medium")
    _finish(axes)
    axes.legend(frameon=False, fontsize="small")


def _draw_exposure(axes: Axes, answer: Answer) -> None:
    shares = np.arange(1, len(answer.exposed) + 1) / len(answer.exposed)
    axes.step(answer.exposed, shares, where="post", linewidth=1.2)
    axes.axvline(answer.exposed_median, color="#333333", linewidth=0.6, linestyle=":")
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xlim(left=0)
    axes.set_xlabel("devices that were given the bad release")
    axes.set_ylabel("share of rollouts")
    axes.set_title("Bad release: at most so many exposed", fontsize="medium")
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]  # without the XML prologue
