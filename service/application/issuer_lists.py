"""The LDevID issuer's revocation list, for third parties that trust the issuer; the service itself needs none.

Expiry is an LDevID's revocation, and every connection is checked against the device's standing. Who trusts the issuer
without asking the service reads this list: the unexpired LDevIDs of devices that are blocked, moved or decommissioned.
It is signed when it is asked for, and again after `LIST_AGE` or as soon as a device's state has changed.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from pki.authority import CertificateAuthority, issuer_key_id
from pki.issuance import certificate_sha256
from pki.revocation import RevocationList, sign_crl
from service.application.clock import Clock
from service.application.events import EventType, StoredEvent
from service.application.revocation import UnknownIssuerError
from service.application.unit_of_work import UnitOfWorkFactory

LIST_AGE = timedelta(seconds=60)
LIST_LIFETIME = timedelta(hours=1)


class IssuerLists:
    """The list of the authority that issues LDevIDs now.

    Args:
        authority: returns it; it changes with a rollover.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, authority: Callable[[], CertificateAuthority], clock: Clock
    ) -> None:
        self._unit_of_work = unit_of_work
        self._authority = authority
        self._clock = clock
        self._made: tuple[str, RevocationList] | None = None  # issuer's key id, its list
        self._stale = False
        self._one_at_a_time = asyncio.Lock()

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed."""
        self._stale = self._stale or (stored.event.type is EventType.DEVICE and "state" in stored.event.data)

    async def crl(self, key_id: str) -> RevocationList:
        """Return the list.

        Raises:
            UnknownIssuerError: the key id is not that of the authority that issues LDevIDs now.
        """
        authority = self._authority()
        if key_id != issuer_key_id(authority.certificate):
            raise UnknownIssuerError(f"issuer: expected the key id of one of the catalog's, found {key_id[:64]!r}")
        async with self._one_at_a_time:
            made, now = self._made, self._clock.now()
            if made is None or made[0] != key_id or self._stale or now - made[1].this_update >= LIST_AGE:
                made = key_id, await self._sign(authority, made[1].number if made else 0, now)
                self._made = made
            return made[1]

    async def _sign(self, authority: CertificateAuthority, last_number: int, now: datetime) -> RevocationList:
        self._stale = False  # what changes from here on is for the next one
        async with self._unit_of_work(read_only=True) as work:
            revoked = await work.revocations.shut_out(certificate_sha256(authority.certificate), now=now)
        # Milliseconds rise across restarts and processes without a row to count in.
        number = max(last_number + 1, int(now.timestamp() * 1000))
        return sign_crl(authority, number=number, revoked=revoked, now=now, lifetime=LIST_LIFETIME)
