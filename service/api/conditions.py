"""ETag and If-Match: an operator changes what it has seen, or learns that somebody else was first (RFC 9110 §13)."""

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from service.domain.errors import InvalidError

_ETAG = re.compile(r'"(\d{1,9})"\Z', re.ASCII)


class EtagError(InvalidError):
    """If-Match is not an ETag that the service gave out."""


def set_etag(response: Response, version: int) -> None:
    """Say which version a response shows."""
    response.headers["ETag"] = f'"{version}"'


async def if_match(
    header: Annotated[
        str | None, Header(alias="If-Match", max_length=64, description="ETag of the copy that the change is based on.")
    ] = None,
) -> int | None:
    """Return the version that a change is based on; None where the caller takes whatever is in force.

    Raises:
        EtagError: the header is no ETag.
    """
    if header is None or header == "*":
        return None
    found = _ETAG.match(header)
    if found is None:
        raise EtagError(f'If-Match: expected an ETag such as "3", found {header[:40]!r}')
    return int(found[1])


IfMatch = Annotated[int | None, Depends(if_match)]
