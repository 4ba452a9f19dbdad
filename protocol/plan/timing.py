"""When a device gets its release: maintenance windows, a disruption budget, and deferral by its user."""

import re
from datetime import time, timedelta
from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from protocol.document import Document
from protocol.lengths import Length

MAX_WINDOWS = 32
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_PERCENT = r"(?:100|[1-9]\d?)%"


class Weekday(StrEnum):
    """A day of the week, in the order of `datetime.weekday`."""

    MONDAY = "mon"
    TUESDAY = "tue"
    WEDNESDAY = "wed"
    THURSDAY = "thu"
    FRIDAY = "fri"
    SATURDAY = "sat"
    SUNDAY = "sun"


def _clock(value: object) -> object:
    if isinstance(value, time):
        return value
    if not isinstance(value, str) or not re.fullmatch(_CLOCK, value, re.ASCII):
        raise ValueError(f'expected a time of day such as "02:30", found {str(value)[:40]!r}')
    return time.fromisoformat(value)


ClockTime = Annotated[
    time,
    BeforeValidator(_clock),
    PlainSerializer(lambda value: f"{value:%H:%M}", return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_CLOCK}$"}),
]
"""A time of day, hours and minutes."""


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"expected an IANA time zone such as Europe/Berlin, found {name!r}") from error
    return name


TimeZone = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_known_zone)]
"""Name of a zone of the IANA time zone database."""


class Window(Document):
    """A time of the day in which devices may be given the release, by the clock where the device stands.

    Attributes:
        days: on which it begins; none means every day.
        start: the first minute; `from` in the file.
        end: the minute that is not in it any more; at or before the start, it is of the next day. `to` in the file.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    days: Annotated[tuple[Weekday, ...], Field(max_length=7)] = ()
    start: Annotated[ClockTime, Field(alias="from")]
    end: Annotated[ClockTime, Field(alias="to")]

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        if len(set(self.days)) != len(self.days):
            raise ValueError(f"days: expected each day once, found {', '.join(self.days)}")
        return self


def _devices_or_percent(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and re.fullmatch(_PERCENT, value, re.ASCII)):
        return value
    raise ValueError(f'expected a number of devices, or a share from "1%" to "100%", found {str(value)[:40]!r}')


Unavailable = Annotated[
    Annotated[int, Field(ge=1, le=1_000_000)] | str,
    BeforeValidator(_devices_or_percent),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 1_000_000},
                {"type": "string", "pattern": f"^{_PERCENT}$"},
            ]
        }
    ),
]
"""Devices, or a share of those that have the same value of an attribute."""


class Disruption(Document):
    """How many devices that belong together may be at an update at once.

    Attributes:
        group_by: the attribute whose value says which belong together; a device without it belongs to none.
        max_unavailable: devices with the same value, or a share of them, rounded down but never below one.
    """

    group_by: Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?$")]
    max_unavailable: Unavailable = 1


class Deferral(Document):
    """How far a device's user may put an update off.

    Attributes:
        most: times; then the device installs.
        longest: for which it may be put off at once.
    """

    most: Annotated[int, Field(ge=1, le=1000)] = 3
    longest: Length = timedelta(days=1)

    @model_validator(mode="after")
    def _check_longest(self) -> Self:
        if self.longest <= timedelta(0):
            raise ValueError("longest: expected above 0")
        return self
