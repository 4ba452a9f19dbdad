"""Claim challenges in the control database."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.identity import DeviceId
from service.adapters.database.device_tables import claim_challenges, claim_uses

MAX_CHALLENGES = 1000  # a proof is compared with each that is in force


class SqlClaims:
    """Implements `ClaimRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add_challenge(self, challenge: bytes, *, expires_at: datetime) -> None:
        """See `ClaimRepository.add_challenge`."""
        await self._connection.execute(insert(claim_challenges).values(challenge=challenge, expires_at=expires_at))

    async def challenges(self, *, now: datetime) -> Sequence[bytes]:
        """See `ClaimRepository.challenges`."""
        query = (
            select(claim_challenges.c.challenge)
            .where(claim_challenges.c.expires_at > now)
            .order_by(claim_challenges.c.expires_at.desc())
            .limit(MAX_CHALLENGES)
        )
        return [bytes(challenge) for challenge in await self._connection.scalars(query)]

    async def use(self, challenge: bytes, device_id: DeviceId) -> bool:
        """See `ClaimRepository.use`."""
        try:
            await self._connection.execute(insert(claim_uses).values(challenge=challenge, device_id=device_id))
        except IntegrityError:
            return False
        return True

    async def prune(self, *, now: datetime) -> None:
        """See `ClaimRepository.prune`."""
        await self._connection.execute(delete(claim_challenges).where(claim_challenges.c.expires_at <= now))
        in_force = select(claim_challenges.c.challenge)
        await self._connection.execute(delete(claim_uses).where(claim_uses.c.challenge.not_in(in_force)))
