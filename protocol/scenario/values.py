"""Values that scenarios are written in: shares, names, hours of a day."""

from datetime import time
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

Label = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?$")]
"""A name within a scenario: lower case letters, digits, points and hyphens, at most 40 characters."""


def _parse_hours(value: object) -> object:
    """Return (start, end) of `22:00-06:00`; the end may lie on the next day."""
    if not isinstance(value, str):
        return value
    start, _, end = value.partition("-")
    try:
        return time.fromisoformat(start), time.fromisoformat(end)
    except ValueError:
        raise ValueError(f"expected hours such as 22:00-06:00, found {value[:40]!r}") from None


def _write_hours(value: tuple[time, time]) -> str:
    return "-".join(each.isoformat("minutes") for each in value)


Hours = Annotated[
    tuple[time, time],
    BeforeValidator(_parse_hours),
    PlainSerializer(_write_hours, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d\d:\d\d-\d\d:\d\d$"}),
]
"""Hours of every day in a region's own time, written 22:00-06:00."""
