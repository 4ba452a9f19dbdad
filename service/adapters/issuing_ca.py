"""The generations of the issuing CA, from the service's folder, kept current while the service runs.

The folder is the state: this process follows it after each step of its own, and looks every other second for what
another process or a person has put there. Who keeps a copy of what is trusted is told by `on_change`.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.authority import CertificateAuthority, issuer_key_id
from pki.chains import load_chain
from pki.errors import CsrError, GenerationCertificateError, PkiError, RolloverError, UnknownGenerationError
from pki.issuance import certificate_sha256 as fingerprint
from pki.online import load_certificate, online_keys
from pki.rollover import (
    STATE_FILE,
    Acceptance,
    Generation,
    accept_generation,
    activate_generation,
    active_authority,
    check_activation,
    check_retirement,
    cross_certificates,
    key_role,
    read_generations,
    request_generation,
    retire_generation,
    trusted_certificates,
    verify_generation,
)
from protocol.identity import X509_ERRORS
from service.application.issuing_ca import (
    IssuingCaCertificateError,
    IssuingCaStateError,
    UnknownIssuingCaError,
)

LOOK_SECONDS = 2.0
Hear = Callable[[Sequence[x509.Certificate]], object]
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the folder says at one moment; see `IssuingCaFolder`.

    Attributes:
        stamp: what the files were like just before they were read.
        numbers: of the generations, by SHA-256 of their certificates' DER, hex.
    """

    stamp: frozenset[tuple[str, int, int]]
    generations: Sequence[Generation]
    active: CertificateAuthority
    trusted: tuple[x509.Certificate, ...]
    crosses: tuple[x509.Certificate, ...]
    reserved_keys: frozenset[str]
    numbers: Mapping[str, int]


class IssuingCaFolder:
    """Implements `IssuingCaStore`.

    Raises:
        PkiError: a key or certificate is missing, malformed, or of another key.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._root = load_certificate(data_dir / "certificates" / "root.pem")
        self._keys = online_keys(data_dir)
        self._told: list[Hear] = []
        self._told_of_retirement: list[Hear] = []
        self._complaint = ""
        self._now = self._read(self._stamp())

    @property
    def active(self) -> CertificateAuthority:
        """The authority that issues LDevIDs."""
        return self._now.active

    @property
    def trusted(self) -> tuple[x509.Certificate, ...]:
        """Certificates of the generations whose LDevIDs are accepted, newest first."""
        return self._now.trusted

    @property
    def crosses(self) -> tuple[x509.Certificate, ...]:
        """Certificates of these generations by one another."""
        return self._now.crosses

    @property
    def reserved_keys(self) -> frozenset[str]:
        """SHA-256 of the SubjectPublicKeyInfo, hex, of the service's own and the authorities' keys."""
        return self._now.reserved_keys

    def number_of(self, certificate_sha256: str) -> int | None:
        """See `IssuingCaStore.number_of`."""
        return self._now.numbers.get(certificate_sha256)

    def is_trusted(self, certificate_sha256: str) -> bool:
        """See `IssuingCaStore.is_trusted`."""
        return any(certificate_sha256 == fingerprint(trusted) for trusted in self.trusted)

    def on_retirement(self, hear: Hear) -> None:
        """Call `hear` with the trusted certificates whenever one is trusted no longer, after `on_change`."""
        self._told_of_retirement.append(hear)

    def on_change(self, hear: Hear) -> None:
        """Call `hear` with the trusted certificates whenever they may have changed."""
        self._told.append(hear)

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take over what changed in the folder; what cannot be used is logged, changes nothing, and is tried again."""
        try:
            found = await asyncio.to_thread(self._read_if_changed)
        except (PkiError, OSError, ValueError) as error:  # cryptography parses some parts when they are read
            if str(error) != self._complaint:
                _log.warning("issuing_ca_unusable", reason=str(error))
            self._complaint = str(error)
            return
        if found is not None and found.stamp != self._now.stamp:  # two looks at once may find the same
            self._take_over(found)

    def _take_over(self, found: _Snapshot) -> None:
        before, self._now, self._complaint = self.trusted, found, ""
        _log.info("issuing_ca_loaded", trusted=len(self.trusted))
        is_retirement = not set(before) <= set(self.trusted)
        for hear in (*self._told, *(self._told_of_retirement if is_retirement else ())):
            try:
                hear(self.trusted)
            except (ssl.SSLError, ValueError) as error:  # one listener's trouble is not the others'
                _log.error("issuing_ca_not_taken_over", reason=repr(error))

    def authority(self, key_id: str) -> CertificateAuthority | None:
        """Return the authority whose LDevIDs are accepted and that has this key id, hex; None if there is none.

        Raises:
            KeyStoreError: its key is missing or cannot be used.
        """
        found = next((trusted for trusted in self.trusted if issuer_key_id(trusted) == key_id), None)
        if found is None or found == self.active.certificate:
            return None if found is None else self.active
        number = next(one.number for one in self._now.generations if one.certificate == found)
        return CertificateAuthority([found], self._keys.load(key_role(number)))

    def generations(self) -> Sequence[Generation]:
        """See `IssuingCaStore.generations`."""
        with _translated():
            return read_generations(self._data_dir)

    def request(self) -> tuple[int, bytes]:
        """See `IssuingCaStore.request`."""
        with _translated():
            return request_generation(self._data_dir, self._keys)

    def verify(self, unverified_certificate: bytes, *, now: datetime, compromised: bool = False) -> Acceptance:
        """See `IssuingCaStore.verify`."""
        with _translated():
            return verify_generation(
                self._data_dir,
                unverified_certificate,
                keys=self._keys,
                root=self._root,
                now=now,
                compromised=compromised,
            )

    def accept(self, acceptance: Acceptance) -> None:
        """See `IssuingCaStore.accept`."""
        accept_generation(self._data_dir, acceptance)

    def check_activation(self, number: int) -> None:
        """See `IssuingCaStore.check_activation`."""
        with _translated():
            check_activation(self._data_dir, number)

    def activate(self, number: int) -> None:
        """See `IssuingCaStore.activate`."""
        with _translated():
            activate_generation(self._data_dir, number)

    def check_retirement(self, number: int) -> None:
        """See `IssuingCaStore.check_retirement`."""
        with _translated():
            check_retirement(self._data_dir, number)

    def retire(self, number: int) -> None:
        """See `IssuingCaStore.retire`."""
        with _translated():
            retire_generation(self._data_dir, number)

    def _read_if_changed(self) -> _Snapshot | None:
        stamp = self._stamp()
        return None if stamp == self._now.stamp else self._read(stamp)

    def _read(self, stamp: frozenset[tuple[str, int, int]]) -> _Snapshot:
        generations = read_generations(self._data_dir)
        return _Snapshot(
            stamp=stamp,
            generations=generations,
            active=active_authority(generations, self._keys),
            trusted=trusted_certificates(generations),
            crosses=cross_certificates(generations),
            reserved_keys=frozenset(_public_keys(self._data_dir)),
            numbers={fingerprint(one.certificate): one.number for one in generations if one.certificate},
        )

    def _stamp(self) -> frozenset[tuple[str, int, int]]:
        paths = [self._data_dir / STATE_FILE, *self._data_dir.glob("c*/issuing-ca*.pem")]  # certificates/ and csr/
        found = ((str(path), path.stat()) for path in paths if path.exists())
        return frozenset((name, stat.st_mtime_ns, stat.st_ino) for name, stat in found)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except UnknownGenerationError as error:
        raise UnknownIssuingCaError(str(error)) from error
    except GenerationCertificateError as error:
        raise IssuingCaCertificateError(str(error)) from error
    except RolloverError as error:
        raise IssuingCaStateError(str(error)) from error


def _public_keys(data_dir: Path) -> Iterator[str]:
    """Give the keys of every certificate and request in the folder."""
    for path in sorted((data_dir / "certificates").glob("*.pem")):
        for certificate in load_chain(path.read_bytes()):
            yield _spki_sha256(certificate)
    for path in sorted((data_dir / "csr").glob("*.pem")):
        try:
            yield _spki_sha256(x509.load_pem_x509_csr(path.read_bytes()))
        except X509_ERRORS as error:
            raise CsrError(f"CSR: expected a request in {path}, found other bytes") from error


def _spki_sha256(named: x509.Certificate | x509.CertificateSigningRequest) -> str:
    spki = named.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()
