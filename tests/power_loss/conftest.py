"""Counts what the suite cut, over all processes that share its tests, and says it in one line at the end."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.power_loss.cut_tally import CutTally

_TALLY = pytest.StashKey[CutTally]()
_OUTPUT = "power-loss"  # in what a worker of pytest-xdist sends


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TALLY] = CutTally()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[CutTally]:
    """The process's count; a test fails if one of its cuts bricked the device."""
    counted = request.config.stash[_TALLY]
    before = counted.bricks
    yield counted
    assert counted.bricks == before, "\n".join(counted.reasons[before:])


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        counted = session.config.stash[_TALLY]
        output[_OUTPUT] = (counted.cut_points, counted.reasons)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    del error  # its tests have failed
    cut_points, reasons = getattr(node, "workeroutput", {}).get(_OUTPUT, (0, []))
    node.config.stash[_TALLY].add(cut_points, reasons)


def pytest_unconfigure(config: pytest.Config) -> None:
    counted = config.stash.get(_TALLY, None)
    if counted is not None and counted.cut_points and not hasattr(config, "workeroutput"):
        config.get_terminal_writer().line(f"cut points: {counted.cut_points}, bricks: {counted.bricks}")
