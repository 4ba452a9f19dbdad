"""Lengths of time are read as people write them, and written as they are read."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.document import Document, DocumentError, canonical_json, parse_document
from protocol.lengths import LONGEST, Length


class Wait(Document):
    """Anything that waits."""

    wait: Length


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("90s", 90), ("15m", 900), ("6h", 21_600), ("2d", 172_800), ("1.5h", 5400)],
)
def test_length_is_read_with_its_unit(written: str, seconds: float) -> None:
    """Each unit, and parts of one."""
    assert parse_document(f'{{"wait": "{written}"}}'.encode(), Wait).wait == timedelta(seconds=seconds)


@pytest.mark.parametrize("written", ['"5"', "5", '"-5s"', '"5 s"', '"1h30m"', '""', "null", '"\u0665s"'])
def test_what_is_no_length_is_refused(written: str) -> None:
    """A number without a unit is a guess."""
    with pytest.raises(DocumentError, match=r"wait: Value error, expected a length of time such as 90s, 15m, 6h or 2d"):
        parse_document(f'{{"wait": {written}}}'.encode(), Wait)


@pytest.mark.parametrize("value", [timedelta(days=4000), timedelta(seconds=-1)])
def test_length_beyond_ten_years_is_refused(value: timedelta) -> None:
    """And so is a negative one."""
    with pytest.raises(ValueError, match="expected 0 to 3660d"):
        Wait(wait=value)


@given(st.timedeltas(min_value=timedelta(0), max_value=LONGEST))
def test_written_length_is_read_again(value: timedelta) -> None:
    """A document goes to a database and back as it was, to the microsecond."""
    wait = Wait(wait=value)
    assert parse_document(canonical_json(wait), Wait) == wait


def test_length_is_written_in_its_largest_unit() -> None:
    """Six hours stay six hours."""
    lengths = [timedelta(days=2), timedelta(hours=6), timedelta(minutes=15), timedelta(seconds=90), timedelta(0)]
    written = [Wait(wait=value).model_dump(mode="json")["wait"] for value in lengths]
    assert written == ["2d", "6h", "15m", "90s", "0d"]
