"""Counts what the suite cut, and says it in one line at the end."""

from collections.abc import Iterator

import pytest

from tests.power_loss.cut_tally import CutTally

_TALLY = pytest.StashKey[CutTally]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TALLY] = CutTally()


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[CutTally]:
    """The suite's count; a test fails if one of its cuts bricked the device."""
    counted = request.config.stash[_TALLY]
    before = counted.bricks
    yield counted
    assert counted.bricks == before, "\n".join(counted.reasons)


def pytest_unconfigure(config: pytest.Config) -> None:
    counted = config.stash.get(_TALLY, None)
    if counted is not None and counted.cut_points:
        config.get_terminal_writer().line(f"cut points: {counted.cut_points}, bricks: {counted.bricks}")
