"""Lengths of time as people write them in plans and scenarios: 250ms, 90s, 15m, 6h, 2d."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = r"\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h|d)"
_LENGTH = re.compile(r"([\d.]+)([a-z]+)", re.ASCII)
LONGEST = timedelta(days=3660)


def _parse(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(_FORM, value, re.ASCII):
        raise ValueError(f"expected a length of time such as 90s, 15m, 6h or 2d, found {str(value)[:40]!r}")
    number, unit = _LENGTH.findall(value)[0]
    return timedelta(seconds=float(number) * _UNIT_SECONDS[unit])


def _check(value: timedelta) -> timedelta:
    if not timedelta(0) <= value <= LONGEST:
        raise ValueError(f"expected 0 to {LONGEST.days}d, found {value.days}d")
    return value


def write_length(value: timedelta) -> str:
    """Return a length of time as it is written, in the largest unit that makes it a whole number."""
    seconds = value.total_seconds()
    for unit in ("d", "h", "m", "s"):
        if seconds % _UNIT_SECONDS[unit] == 0:
            return f"{int(seconds / _UNIT_SECONDS[unit])}{unit}"
    return f"{seconds:.6f}".rstrip("0") + "s"


Length = Annotated[
    timedelta,
    BeforeValidator(_parse),
    AfterValidator(_check),
    PlainSerializer(write_length, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_FORM}$"}),
]
"""A length of time, written with its unit; at most ten years."""
