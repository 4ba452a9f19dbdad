"""The order in which transactions lock rows, and trying those again that the database gave up.

Lock order, so that no two transactions wait for one another:
    1. a request for approval that is decided;
    2. rollouts, the newest first; where several are needed, `RolloutRepository.lock` takes them in this order. Making
       actions takes no lock of their rollout. A rollout that is made in the transaction is nobody else's to wait for;
    3. actions, each only by who holds its rollout;
    4. a place of a disruption budget, one in a transaction (`DisruptionRepository.hold`);
    5. rows of one device: its Director's metadata, what it runs, its manifest;
    6. a lease that is advanced;
    7. the order of events, with the commit.

Where two came in each other's way all the same, PostgreSQL ends one of them, and nothing of it is left. A use case that
is one transaction, and does nothing else before its commit, is then done again: it is marked with `tried_again`.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import structlog

from service.domain.errors import UnavailableError

MOST_ATTEMPTS = 6
LONGEST_FIRST_PAUSE_SECONDS = 0.05  # doubled after each attempt
P = ParamSpec("P")
T = TypeVar("T")
_log = structlog.get_logger()


class TransactionGivenUpError(UnavailableError):
    """The database ended a transaction so that others could go on; nothing of it is left.

    Attributes:
        share: random, from 0 to 1, of the longest pause before it is tried again.
    """

    def __init__(self, reason: str, *, share: float) -> None:
        super().__init__(f"transaction: expected it to be committed, found it given up: {reason}")
        self.share = share


def tried_again(use_case: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Have a use case done again, a few times, when the database gave up its transaction.

    Raises:
        TransactionGivenUpError: at every attempt.
    """

    @wraps(use_case)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        longest = LONGEST_FIRST_PAUSE_SECONDS
        for attempt in range(1, MOST_ATTEMPTS):
            try:
                return await use_case(*args, **kwargs)
            except TransactionGivenUpError as error:
                _log.info("transaction_given_up", use_case=use_case.__qualname__, attempt=attempt)
                await asyncio.sleep(longest * error.share)
            longest *= 2
        return await use_case(*args, **kwargs)

    return run
