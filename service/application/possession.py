"""Proof that the service holds its catalog's issuing key: a certificate that names a caller's nonce.

Another system trusts a catalog's devices after its operator has shown that the catalog's authority is his: that system
gives a nonce, and the authority certifies it (Azure Sphere's retrieveProofOfPossessionNonce, Azure IoT Hub's upload).
The certificate is good for nothing else: its purpose is this proof alone, it ends soon, and nobody has its private key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pki.issuance import CertificateFacts
from service.application.audit import Change
from service.application.clock import Clock
from service.application.request_rate import RateError
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.operator import Actor

PROOFS_PER_MINUTE = 10
_MINUTE = timedelta(minutes=1)
_ACTION = "catalog.prove"


class ProofRateError(RateError):
    """More proofs were asked for in a minute than the service gives."""


@dataclass(frozen=True, slots=True)
class PossessionProof:
    """A certificate whose common name is the caller's nonce.

    Attributes:
        certificate_pem: of the nonce.
        chain_pem: of the authority that issued it, up to the root.
        not_after: UTC.
        facts: for the issuance log.
    """

    certificate_pem: str
    chain_pem: str
    not_after: datetime
    facts: CertificateFacts


class PossessionProver(Protocol):
    """Certifies nonces with the issuing key."""

    def prove(self, nonce: str) -> PossessionProof:
        """Return a certificate of a nonce: printable ASCII without spaces, 1 to 64 characters."""

    def authority_chains(self) -> Sequence[str]:
        """Return the chain of each authority that issues LDevIDs, PEM, the one in use first, each up to the root."""


class Possession:
    """Gives proofs, a few per minute, each audited and in the issuance log.

    Args:
        catalog_id: GUID of the catalog.
        prover: has the issuing key.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, catalog_id: str, prover: PossessionProver, clock: Clock
    ) -> None:
        self._unit_of_work = unit_of_work
        self._catalog_id = catalog_id
        self._prover = prover
        self._clock = clock

    async def prove(self, actor: Actor, nonce: str) -> PossessionProof:
        """Certify a nonce.

        Raises:
            ProofRateError: `PROOFS_PER_MINUTE` were given in the last minute.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await self._check_rate(work, now)
            proof = self._prover.prove(nonce)
            change = Change(_ACTION, self._catalog_id, after={"nonce": nonce, "serial": proof.facts.serial})
            await work.audit.add(actor, change, at=now)
            await work.issuance.append([proof.facts])
            await work.commit()
        return proof

    def authority_chains(self) -> Sequence[str]:
        """See `PossessionProver.authority_chains`."""
        return self._prover.authority_chains()

    async def _check_rate(self, work: UnitOfWork, now: datetime) -> None:
        # The audit log counts for every process at once.
        newest = await work.audit.page(
            before_id=None, limit=PROOFS_PER_MINUTE, subject_id=self._catalog_id, action=_ACTION
        )
        wait = newest[-1].at + _MINUTE - now if len(newest) == PROOFS_PER_MINUTE else timedelta(0)
        if wait > timedelta(0):
            raise ProofRateError(
                f"proof of possession: expected at most {PROOFS_PER_MINUTE} a minute, found more",
                retry_after_seconds=math.ceil(wait.total_seconds()),
            )
