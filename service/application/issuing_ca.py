"""Rollover of the issuing CA: request, accept, activate and retire its generations (pki/rollover.py).

Each step may be repeated. It is audited before the folder changes, so that a crash in between leaves a trace; only a
request, which changes nothing that anybody trusts, is audited after it. What the service signs on the way, the cross
certificates, is in the issuance log before it is published.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cryptography import x509

from pki.issuance import IssuanceKind, certificate_sha256, facts_of
from pki.rollover import Acceptance, Generation, GenerationState
from service.application.audit import Change
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.issuance import IssuerUse
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.errors import ConflictError, InvalidError, JsonValue, NotFoundError
from service.domain.operator import Actor

COMPROMISED = "issuing-ca-compromised"


class UnknownIssuingCaError(NotFoundError):
    """The issuing CA has no generation of this number."""


class IssuingCaStateError(ConflictError):
    """The step does not follow from where the generation is."""


class IssuingCaCertificateError(InvalidError):
    """The certificate is not that of the generation which was requested."""


class IssuingCaInUseError(ConflictError):
    """Devices' certificates by the generation are still valid; `members` say how many it issued, and until when."""


class IssuingCaStore(Protocol):
    """Keys, certificates and state of the generations; every method raises the errors of this module.

    A key that cannot be made or used raises `pki.errors.KeyStoreError`. All but `look`, `number_of` and
    `is_trusted` read or write files and may ask a token, so that they belong in a thread.
    """

    async def look(self) -> None:
        """Take over what has changed; what this process issues by and trusts follows here, and nowhere else."""

    def number_of(self, certificate_sha256: str) -> int | None:
        """Return the number of the generation with this certificate, as of the last look; None if unknown."""

    def is_trusted(self, certificate_sha256: str) -> bool:
        """Say whether the generation with this certificate is trusted, as of the last look."""

    def generations(self) -> Sequence[Generation]:
        """Return every generation by number."""

    def request(self) -> tuple[int, bytes]:
        """Make the next generation's key; return its number and CSR, PEM."""

    def verify(self, unverified_certificate: bytes, *, now: datetime, compromised: bool) -> Acceptance:
        """Verify what the root signed, and cross-sign it; a compromised old key is not vouched for."""

    def accept(self, acceptance: Acceptance) -> None:
        """Trust the generation from now on."""

    def check_activation(self, number: int) -> None:
        """Let a generation pass that can be activated."""

    def activate(self, number: int) -> None:
        """Issue by the generation from now on."""

    def check_retirement(self, number: int) -> None:
        """Let a generation pass that can be retired."""

    def retire(self, number: int) -> None:
        """Trust the generation no longer."""


@dataclass(frozen=True, slots=True)
class IssuingCaStatus:
    """A generation, and what it has issued; `use` is None while it has issued nothing."""

    generation: Generation
    use: IssuerUse | None


class IssuingCas:
    """The generations of the issuing CA."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, store: IssuingCaStore, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._store = store
        self._clock = clock
        self._one_step = asyncio.Lock()

    async def statuses(self) -> Sequence[IssuingCaStatus]:
        """Return every generation by number."""
        async with self._unit_of_work(read_only=True) as work:
            uses = {use.issuer_sha256: use for use in await work.issuance.uses()}
        generations = await asyncio.to_thread(self._store.generations)
        return [IssuingCaStatus(one, uses.get(_sha256(one))) for one in generations]

    def generation_of(self, issuer_sha256: str) -> int | None:
        """Return the number of the generation with this certificate (SHA-256 of its DER, hex); None if unknown."""
        return self._store.number_of(issuer_sha256)

    def is_trusted(self, issuer_sha256: str) -> bool:
        """Say whether what the generation with this certificate (SHA-256 of its DER, hex) issued is accepted."""
        return self._store.is_trusted(issuer_sha256)

    async def request(self, actor: Actor) -> tuple[int, bytes]:
        """Make the next generation's key; of one that is requested already the CSR is returned again.

        Returns:
            Its number, and the CSR, PEM.

        Raises:
            IssuingCaStateError: a trusted generation waits to be activated.
        """
        async with self._one_step:
            number, csr = await asyncio.to_thread(self._store.request)
            await self._audit(actor, "issuing-ca.request", number, {"state": GenerationState.REQUESTED.value})
        return number, csr

    async def accept(
        self, actor: Actor, number: int, unverified_certificate: bytes, *, compromised: bool = False
    ) -> None:
        """Take the certificate that the root signed, and trust the generation.

        Args:
            actor: who asks for it.
            number: of the generation that was requested.
            unverified_certificate: its certificate, PEM.
            compromised: the key of the generation in force is; the new one does not vouch for it.

        Raises:
            IssuingCaStateError: no generation of this number is requested.
            IssuingCaCertificateError: it is not its certificate.
        """
        async with self._one_step:
            now = self._clock.now()
            acceptance = await asyncio.to_thread(
                self._store.verify, unverified_certificate, now=now, compromised=compromised
            )
            if acceptance.number != number:
                raise IssuingCaStateError(f"issuing CA: expected generation {acceptance.number}, found {number}")
            await self._log_crosses(actor, acceptance, now)
            await asyncio.to_thread(self._store.accept, acceptance)
            await self._store.look()

    async def activate(self, actor: Actor, number: int) -> None:
        """Issue by a trusted generation.

        Raises:
            UnknownIssuingCaError: there is none of this number.
            IssuingCaStateError: it is not trusted, or older than the one in force.
        """
        async with self._one_step:
            await asyncio.to_thread(self._store.check_activation, number)
            await self._audit(actor, "issuing-ca.activate", number, {"state": GenerationState.ACTIVE.value})
            await asyncio.to_thread(self._store.activate, number)
            await self._store.look()

    async def retire(self, actor: Actor, number: int, *, compromised: bool = False) -> None:
        """Trust a superseded generation no longer.

        Args:
            actor: who asks for it.
            number: of the generation.
            compromised: retire it although certificates that it issued are valid: their devices attest again.

        Raises:
            UnknownIssuingCaError: there is none of this number.
            IssuingCaStateError: it is requested or active.
            IssuingCaInUseError: certificates that it issued are still valid.
        """
        async with self._one_step:
            if not compromised:
                await self._refuse_in_use(number)
            await asyncio.to_thread(self._store.check_retirement, number)
            after: dict[str, JsonValue] = {"state": GenerationState.RETIRED.value, "compromised": compromised}
            await self._audit(actor, "issuing-ca.retire", number, after, is_event=compromised)
            await asyncio.to_thread(self._store.retire, number)
            await self._store.look()

    async def _refuse_in_use(self, number: int) -> None:
        now = self._clock.now()
        for status in await self.statuses():
            if status.generation.number == number and status.use is not None and status.use.not_after > now:
                end = f"{status.use.not_after:%FT%TZ}"
                raise IssuingCaInUseError(
                    f"issuing CA: expected no valid certificate by generation {number}, found some until {end}",
                    members={"certificates": status.use.certificates, "not_after": end},
                )

    async def _log_crosses(self, actor: Actor, acceptance: Acceptance, now: datetime) -> None:
        pairs: tuple[tuple[x509.Certificate | None, x509.Certificate], ...] = (
            (acceptance.new_with_old, acceptance.predecessor[1]),
            (acceptance.old_with_new, acceptance.certificate),
        )
        facts = [facts_of(cross, kind=IssuanceKind.CROSS, issuer=issuer, at=now) for cross, issuer in pairs if cross]
        after: dict[str, JsonValue] = {
            "state": GenerationState.TRUSTED.value,
            "compromised": acceptance.old_with_new is None,
            "certificate_sha256": certificate_sha256(acceptance.certificate),
        }
        async with self._unit_of_work() as work:
            await work.issuance.append(facts)
            await work.audit.add(actor, _change("issuing-ca.accept", acceptance.number, after), at=now)
            await work.commit()

    async def _audit(
        self, actor: Actor, action: str, number: int, after: dict[str, JsonValue], *, is_event: bool = False
    ) -> None:
        change, now = _change(action, number, after), self._clock.now()
        async with self._unit_of_work() as work:
            await work.audit.add(actor, change, at=now)
            if is_event:
                work.record(Event(EventType.SECURITY, change.subject_id, COMPROMISED, now, {"generation": number}))
            await work.commit()


def _change(action: str, number: int, after: dict[str, JsonValue]) -> Change:
    return Change(action, f"issuing-ca-{number}", {}, after)


def _sha256(generation: Generation) -> str:
    return "" if generation.certificate is None else certificate_sha256(generation.certificate)
