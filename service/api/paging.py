"""Lists: `{"items": [...], "next_cursor": ...}` with `limit` and `cursor`.

A cursor is the last item's key in base64url; it says nothing about the database and survives changes of the list.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from service.domain.errors import CursorError

ItemT = TypeVar("ItemT")
ModelT = TypeVar("ModelT", bound=BaseModel)

DEFAULT_ITEMS = 100
MAX_ITEMS = 1000


class Page(BaseModel, Generic[ModelT]):
    """One page of a list; `next_cursor` is null on the last one."""

    items: list[ModelT]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page is asked for.

    Attributes:
        limit: most items of the page.
        after: key of the last item of the page before, or None for the first page.
    """

    limit: int
    after: str | None

    @property
    def after_number(self) -> int | None:
        """The key, where it is a number.

        Raises:
            CursorError: it is none.
        """
        if self.after is None:
            return None
        if not self.after.isascii() or not self.after.isdecimal() or len(self.after) > 18:  # noqa: PLR2004 - 64 bits
            raise CursorError("cursor: expected one of this list, found another")
        return int(self.after)

    @property
    def fetch(self) -> int:
        """How many items to read: one more than the page, to know whether another page follows."""
        return self.limit + 1

    def page(
        self, found: Sequence[ItemT], *, key: Callable[[ItemT], object], model: Callable[[ItemT], ModelT]
    ) -> Page[ModelT]:
        """Make the page of what `fetch` items were read."""
        shown = found[: self.limit]
        more = len(found) > self.limit
        return Page(
            items=[model(item) for item in shown],
            next_cursor=_encode(str(key(shown[-1]))) if more else None,
        )


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _decode(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise CursorError("cursor: expected one that the service gave out, found another") from error


async def page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS, description="Most items of the page.")] = DEFAULT_ITEMS,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before.")] = None,
) -> PageRequest:
    """Read which page is asked for."""
    return PageRequest(limit=limit, after=None if cursor is None else _decode(cursor))


Paging = Annotated[PageRequest, Depends(page_request)]
