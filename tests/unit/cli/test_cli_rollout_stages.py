"""Stages, times and ids on the command line."""

import pytest

from service.cli.errors import BadArgumentError
from service.cli.options import one_id
from service.cli.rollouts import finite_seconds, parse_stages


def test_counts_and_percentages_are_told_apart() -> None:
    """The usual plan parses."""
    assert parse_stages("1, 25%,100%") == [{"count": 1}, {"percent": 25}, {"percent": 100}]


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "1,,2", "1.5", "a%", "1;2", "٣"])
def test_other_text_is_refused(text: str) -> None:
    """Anything else names the part that is wrong."""
    with pytest.raises(BadArgumentError, match="expected a count from 1 or 1% to 100%"):
        parse_stages(text)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_time_that_json_cannot_carry_is_refused(seconds: float) -> None:
    """Such a time never reaches the service."""
    with pytest.raises(BadArgumentError, match="expected a finite number"):
        finite_seconds(seconds)
    assert finite_seconds(0.5) == 0.5


@pytest.mark.parametrize("text", ["", ".", "../rollouts", "a/b", "a?b", "a" * 129])
def test_id_that_leads_elsewhere_is_refused(text: str) -> None:
    """An id stays one segment of the path."""
    with pytest.raises(BadArgumentError, match="id: expected 1 to 128 letters"):
        one_id(text)
    assert one_id("435c69e920e3") == "435c69e920e3"
