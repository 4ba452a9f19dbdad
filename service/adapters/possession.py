"""Proof of possession through pki: the issuing CA certifies a nonce for a key that nobody keeps."""

from collections.abc import Sequence

from cryptography.hazmat.primitives.serialization import Encoding

from pki.authority import chain_pem
from pki.issuance import IssuanceKind, facts_of
from pki.profiles import possession_proof
from protocol.signing import SoftwareSigner
from service.adapters.certificates import Authorities
from service.application.clock import Clock
from service.application.possession import PossessionProof


class PkiPossessionProver:
    """Implements `PossessionProver`.

    Args:
        authorities: with the issuing CA's key.
        clock: source of the time that is certified.
    """

    def __init__(self, authorities: Authorities, clock: Clock) -> None:
        self._authorities = authorities
        self._clock = clock

    def prove(self, nonce: str) -> PossessionProof:
        """See `PossessionProver.prove`."""
        now, authority = self._clock.now(), self._authorities.issuing_ca
        # The private half of this key is gone when the method returns.
        leaf = authority.issue(possession_proof(nonce, now=now), SoftwareSigner.generate().public_key)
        return PossessionProof(
            certificate_pem=leaf.public_bytes(Encoding.PEM).decode(),
            chain_pem=self.authority_chains()[0],
            not_after=leaf.not_valid_after_utc,
            facts=facts_of(leaf, kind=IssuanceKind.POSSESSION, issuer=authority.certificate, at=now),
        )

    def authority_chains(self) -> Sequence[str]:
        """See `PossessionProver.authority_chains`."""
        active, trusted = self._authorities.issuing_ca.certificate, self._authorities.issuing.trusted
        generations = [active, *(certificate for certificate in trusted if certificate != active)]
        return [chain_pem([certificate, self._authorities.root]).decode() for certificate in generations]
