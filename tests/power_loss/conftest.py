"""Counts what the suite cut, over all processes that share its tests, and says it in one line at the end."""

from collections.abc import Iterator

import pytest

from tests.power_loss.cut_tally import CutTally

_CUT_POINTS, _BRICKS = "cut points", "bricks"  # properties of a test's report


class CutSum:
    """What the tests that have ended cut, whichever process ran them."""

    def __init__(self) -> None:
        self.cut_points = 0
        self.bricks = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            counted = dict(report.user_properties)
            self.cut_points += int(str(counted.get(_CUT_POINTS, 0)))
            self.bricks += int(str(counted.get(_BRICKS, 0)))

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        if self.cut_points and not hasattr(config, "workerinput"):
            config.get_terminal_writer().line(f"cut points: {self.cut_points}, bricks: {self.bricks}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CutSum(), "power-loss")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[CutTally]:
    """The test's count; the test fails if one of its cuts bricked the device."""
    counted = CutTally()
    yield counted
    request.node.user_properties += [(_CUT_POINTS, counted.cut_points), (_BRICKS, counted.bricks)]
    assert counted.bricks == 0, "\n".join(counted.reasons)
