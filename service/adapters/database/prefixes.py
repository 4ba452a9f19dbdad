"""Beginnings of device ids as ranges of an index."""

from typing import Any

from sqlalchemy import ColumnElement, and_, true

_BEYOND_HEX = "g"  # sorts after every hex digit


def begins_with(column: ColumnElement[Any], prefix: str) -> ColumnElement[bool]:
    """Return the condition that a column of hex digits begins so; every id does with none."""
    if not prefix:
        return true()  # a range would keep SQLite from going by the few devices of a filter
    return and_(column >= prefix, column < prefix + _BEYOND_HEX)
