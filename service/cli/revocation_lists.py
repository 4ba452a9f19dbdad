"""The operator's side of revocation lists: what is in force, checked against what was seen before, and the next one.

A copy of each list stays in `revocation/` of the operator's folder. A service that shows an older list, or another one
of the same number, was rolled back or is not ours: nothing is signed on top of what it shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pki.authority import CertificateAuthority, issuer_key_id
from pki.errors import CrlSuccessionError
from pki.files import PUBLIC_MODE, replace_file
from pki.keystore import KeyStore
from pki.online import load_certificate
from pki.revocation import Revocation, RevocationList, check_succession, sign_crl, verify_crl
from service.cli import clock
from service.cli.client import ApiClient
from service.cli.errors import CliError, RefusedError

NOT_FOUND = 404
PATH = "/pki/crls"


class RevocationListError(CliError):
    """The service shows another revocation list than the one that was published last."""


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """The lists of one offline authority.

    Args:
        operator_dir: the operator's folder.
        client: the service.
        authority: signs the lists.
    """

    operator_dir: Path
    client: ApiClient
    authority: CertificateAuthority

    def in_force(self) -> RevocationList | None:
        """Return the list in force, verified, or None before the first.

        Raises:
            CrlError: it is not the authority's.
            RevocationListError: it is not the successor of the list that was seen last.
        """
        shown, seen = self._shown(), self._seen()
        if seen is None or (shown is not None and shown.der == seen.der):
            return shown
        if shown is None:
            raise RevocationListError(f"CRL: expected number {seen.number} or a later one in force, found none")
        try:
            check_succession(seen, shown)
        except CrlSuccessionError as error:
            raise RevocationListError(f"CRL in force: {error}; a copy is in {self._copy}") from error
        return shown

    def publish(
        self, before: RevocationList | None, revoked: Mapping[int, Revocation], *, lifetime: timedelta
    ) -> RevocationList:
        """Sign the next list, publish it and keep a copy.

        Raises:
            CrlError: the lifetime is too long or none.
            RefusedError: the service does not take it.
        """
        number = 1 if before is None else before.number + 1
        crl = sign_crl(self.authority, number=number, revoked=revoked, now=clock.now(), lifetime=lifetime)
        self.client.put_bytes(self._resource, crl.der)
        self._copy.parent.mkdir(exist_ok=True)
        replace_file(self._copy, crl.der, mode=PUBLIC_MODE)
        return crl

    def _shown(self) -> RevocationList | None:
        try:
            unverified_crl = self.client.get_bytes(self._resource)
        except RefusedError as refused:
            if refused.status == NOT_FOUND:
                return None
            raise
        return self._verified(unverified_crl)

    def _seen(self) -> RevocationList | None:
        return self._verified(self._copy.read_bytes()) if self._copy.exists() else None

    def _verified(self, unverified_crl: bytes) -> RevocationList:
        return verify_crl(unverified_crl, issuer=self.authority.certificate, now=clock.now(), may_be_stale=True)

    @property
    def _resource(self) -> str:
        return f"{PATH}/{issuer_key_id(self.authority.certificate)}"

    @property
    def _copy(self) -> Path:
        return self.operator_dir / "revocation" / f"{issuer_key_id(self.authority.certificate)}.crl"


def offline_authority(operator_dir: Path, keys: KeyStore, role: str) -> CertificateAuthority:
    """Return the authority of an offline key.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
        ChainError: its certificate is missing, malformed, or of another key.
    """
    certificate = load_certificate(operator_dir / "certificates" / f"{role}.pem")
    return CertificateAuthority([certificate], keys.load(role))
