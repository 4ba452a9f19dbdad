"""`column IN (…)` for any number of values, in one text: a statement that differs is compiled and planned anew."""

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, String, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection


def one_of(connection: AsyncConnection, column: ColumnElement[Any], values: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that a column of text has one of the values.

    Args:
        connection: whose dialect it is for.
        column: of text.
        values: any number; of none, no row has one.
    """
    if connection.dialect.name == "postgresql":
        return column == any_(bindparam(None, list(values), type_=ARRAY(String), unique=True))
    listed = func.json_each(bindparam(None, json.dumps(list(values)), unique=True)).table_valued("value")
    return column.in_(select(listed.c.value))
