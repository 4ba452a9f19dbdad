"""Values that scenarios are written in: shares, lengths of time, hours of a day."""

import re
from datetime import time, timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LENGTH = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)", re.ASCII)
LONGEST = timedelta(days=3660)


def _parse_length(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    found = _LENGTH.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a length of time such as 90s, 15m, 6h or 2d, found {str(value)[:40]!r}")
    return timedelta(seconds=float(found[1]) * _UNIT_SECONDS[found[2]])


def _check_length(value: timedelta) -> timedelta:
    if value > LONGEST:
        raise ValueError(f"expected at most {LONGEST.days}d, found {value.days}d")
    return value


Length = Annotated[timedelta, BeforeValidator(_parse_length), AfterValidator(_check_length)]
"""A length of time, written with its unit: 250ms, 90s, 15m, 6h, 2d; at most ten years."""

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


Hours = Annotated[tuple[time, time], BeforeValidator(_parse_hours)]
"""Hours of every day in a region's own time, written 22:00-06:00."""
