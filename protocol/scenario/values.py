"""Values that scenarios are written in: shares, names, whole numbers, versions, hours of a day."""

import re
from datetime import time
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

Label = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?$")]
"""A name within a scenario: lower case letters, digits, points and hyphens, at most 40 characters."""


MOST = 2**53
"""Of whatever is counted: up to here, whole numbers are the same for everybody who reads JSON."""

Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,30}$")]
"""Of an image, as it stands behind the @ of its name."""

Whole = Annotated[int, Field(strict=True)]
"""A number without a fraction; neither `true` nor `"3"` is one."""

_HOURS = r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$"


def _parse_hours(value: object) -> object:
    """Return (start, end) of `22:00-06:00`; the end may lie on the next day."""
    if isinstance(value, tuple):
        return value
    if not isinstance(value, str) or not re.fullmatch(_HOURS, value, re.ASCII):
        raise ValueError(f"expected hours such as 22:00-06:00, found {str(value)[:40]!r}")
    start, _, end = value.partition("-")
    return time.fromisoformat(start), time.fromisoformat(end)


def _write_hours(value: tuple[time, time]) -> str:
    return "-".join(each.isoformat("minutes") for each in value)


Hours = Annotated[
    tuple[time, time],
    BeforeValidator(_parse_hours),
    PlainSerializer(_write_hours, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _HOURS}),
]
"""Hours of every day in a region's own time, written 22:00-06:00."""
