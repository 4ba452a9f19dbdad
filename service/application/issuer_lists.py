"""The LDevID issuers' revocation lists, for third parties that trust them; the service itself needs none.

Expiry is an LDevID's revocation, and every connection is checked against the device's standing. Who trusts an issuer
without asking the service reads its list: the unexpired LDevIDs of devices that are blocked, moved or decommissioned.
Each generation of the issuing CA whose LDevIDs are accepted has one. It is signed when it is asked for, and again after
`LIST_AGE`, or after `LEAST_AGE` if a device was shut out or let in since.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from pki.authority import CertificateAuthority
from pki.issuance import certificate_sha256
from pki.revocation import RevocationList, sign_crl
from service.application.clock import Clock
from service.application.events import EventType, StoredEvent
from service.application.revocation import UnknownIssuerError
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.device import DeviceState

LIST_AGE = timedelta(seconds=60)
LEAST_AGE = timedelta(seconds=5)  # whatever happens, so that nobody has the service sign without end
LIST_LIFETIME = timedelta(hours=1)
LET_IN = "unblocked"


@dataclass(frozen=True, slots=True)
class _Made:
    """A signed list.

    Attributes:
        changes: how many had been heard of before the database was asked.
    """

    crl: RevocationList
    changes: int


class IssuerLists:
    """The lists of the authorities whose LDevIDs are accepted.

    Args:
        authority: returns the one of a key id, hex, or None; they change with a rollover.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, authority: Callable[[str], CertificateAuthority | None], clock: Clock
    ) -> None:
        self._unit_of_work = unit_of_work
        self._authority = authority
        self._clock = clock
        self._made: dict[str, _Made] = {}  # by the authority's key id
        self._changes = 0
        self._one_at_a_time = asyncio.Lock()

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed: a device was shut out, or let in again."""
        event = stored.event
        if event.type is EventType.DEVICE and "state" in event.data:
            state = DeviceState(str(event.data["state"]))
            self._changes += event.change == LET_IN or not state.may_connect

    async def crl(self, key_id: str) -> RevocationList:
        """Return an authority's list.

        Raises:
            UnknownIssuerError: the key id is not that of an authority whose LDevIDs are accepted.
            KeyStoreError: the authority's key is missing or cannot be used.
        """
        async with self._one_at_a_time:
            made = self._made.get(key_id)
            if made is None or self._is_due(made):
                made = self._made[key_id] = await self._make(key_id, last=made)
            return made.crl

    def _is_due(self, made: _Made) -> bool:
        age = self._clock.now() - made.crl.this_update
        return age >= LIST_AGE or (made.changes != self._changes and age >= LEAST_AGE)

    async def _make(self, key_id: str, *, last: _Made | None) -> _Made:
        authority = self._authority(key_id)
        if authority is None:
            raise UnknownIssuerError(f"issuer: expected the key id of one of the catalog's, found {key_id[:64]!r}")
        now, changes = self._clock.now(), self._changes
        async with self._unit_of_work(read_only=True) as work:
            revoked = await work.revocations.shut_out(certificate_sha256(authority.certificate), now=now)
        # Milliseconds rise across restarts and processes without a row to count in.
        number = max(0 if last is None else last.crl.number + 1, int(now.timestamp() * 1000))
        crl = await asyncio.to_thread(
            sign_crl, authority, number=number, revoked=revoked, now=now, lifetime=LIST_LIFETIME
        )
        return _Made(crl, changes)
