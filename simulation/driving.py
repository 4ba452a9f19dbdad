"""Use cases of the service without an event loop: they are coroutines, and virtual adapters never suspend."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from simulation.errors import SuspendedError

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result.

    Raises:
        SuspendedError: it waits for an event loop: one of its adapters is none of a simulation.
        Exception: whatever the coroutine raises.
    """
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise SuspendedError(f"{coroutine!r}: expected it to end without waiting, found it suspended")
