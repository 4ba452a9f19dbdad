"""Long lists in parts that fit the parameters of one statement."""

from collections.abc import Collection, Iterator

_CHUNK = 10_000  # values of one IN; SQLite and PostgreSQL take 32,766 and 32,767


def chunks(values: Collection[str]) -> Iterator[list[str]]:
    """Yield all values in sorted parts, each once."""
    ordered = sorted(set(values))
    for start in range(0, len(ordered), _CHUNK):
        yield ordered[start : start + _CHUNK]
