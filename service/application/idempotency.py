"""Idempotency keys: a creating request that arrives twice is done once, and answered twice with the same words.

A key is reserved before the work and completed after it. Where the service dies in between, the outcome is unknown:
the key stays reserved and is refused until it expires, so that nothing is ever made twice.
"""

from datetime import timedelta

from service.application.clock import Clock
from service.application.device_repositories import StoredAnswer
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.errors import ConflictError, InvalidError

RETENTION = timedelta(days=1)


class KeyReusedError(InvalidError):
    """The idempotency key stands for another request."""


class KeyInUseError(ConflictError):
    """The first request with this key is not done, or the service died in the middle of it."""


class IdempotencyKeys:
    """Answers by (operator, key)."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def reserve(self, operator: str, key: str, *, request_sha256: str) -> StoredAnswer | None:
        """Reserve a key; None if the work is to be done, else the answer that it was given.

        Raises:
            KeyReusedError: the key stands for another request.
            KeyInUseError: the first request with it has no answer.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.idempotency.prune(now - RETENTION)
            stored = await work.idempotency.reserve(operator, key, request_sha256=request_sha256, at=now)
            await work.commit()
        if stored is None:
            return None
        if stored.request_sha256 != request_sha256:
            raise KeyReusedError("idempotency key: expected the request that it was first used for, found another")
        if stored.status is None:
            raise KeyInUseError("idempotency key: expected a finished request, found one whose outcome is not known")
        return stored

    async def complete(self, operator: str, key: str, answer: StoredAnswer) -> None:
        """Store the answer."""
        async with self._unit_of_work() as work:
            await work.idempotency.complete(operator, key, answer)
            await work.commit()

    async def release(self, operator: str, key: str) -> None:
        """Give the key back, because the request was refused and changed nothing."""
        async with self._unit_of_work() as work:
            await work.idempotency.release(operator, key)
            await work.commit()
