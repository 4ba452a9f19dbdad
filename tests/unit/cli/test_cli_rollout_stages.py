"""Stages of a rollout on the command line."""

import pytest

from service.cli.errors import BadArgumentError
from service.cli.rollouts import parse_stages


def test_counts_and_percentages_are_told_apart() -> None:
    """The usual plan parses."""
    assert parse_stages("1, 25%,100%") == [{"count": 1}, {"percent": 25}, {"percent": 100}]


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "-1", "1,,2", "1.5", "a%", "1;2", "٣"])
def test_other_text_is_refused(text: str) -> None:
    """Anything else names the part that is wrong."""
    with pytest.raises(BadArgumentError, match="expected a count from 1 or 1% to 100%"):
        parse_stages(text)
