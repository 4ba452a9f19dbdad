"""Exploitability statements as the service lists them."""

from collections.abc import Iterator, Sequence

from service.cli.client import JsonObject


def newest(statements: Sequence[JsonObject]) -> Iterator[JsonObject]:
    """Yield, of statements in the order in which they came, the last about each component and vulnerability."""
    last = {
        (each["release"], each["vulnerability"], each["name"], each["version"], each["purl"]): each
        for each in statements
    }
    yield from last.values()
