"""Beginnings of device ids as ranges of an index."""

from typing import Any

from sqlalchemy import ColumnElement, and_

_BEYOND_HEX = "g"  # sorts after every hex digit


def begins_with(column: ColumnElement[Any], prefix: str) -> ColumnElement[bool]:
    """Return the condition that a column of hex digits begins so; every id does with none."""
    return and_(column >= prefix, column < prefix + _BEYOND_HEX)
