"""Certificates after the ceremony: the operator answers the service's later requests, and transcripts tell of it."""

from datetime import datetime
from pathlib import Path

from cryptography import x509

from pki.ceremony_certificates import (
    ONLINE_CERTIFICATES,
    REQUESTS,
    PlannedCertificate,
    base_role,
    differences,
    key_sha256,
    planned_again,
    role_of,
)
from pki.ceremony_check import read_declaration, signer_keys
from pki.ceremony_declaration import Declaration
from pki.ceremony_steps import authority_certificate, issue_planned
from pki.csr import verify_service_csr
from pki.errors import CeremonyError, TranscriptError
from pki.issuance import certificate_sha256
from pki.online import generations, load_certificate, requested_key
from pki.profiles import CLOCK_SKEW
from pki.roles import OfflineKey, OnlineKey
from pki.stores import KeyStores
from pki.transcript import (
    Made,
    StepKind,
    add_transcript,
    read_transcripts,
    sha256_hex,
    transcript_files,
    with_step,
)
from protocol.signing import Signer


def issue_again(data_dir: Path, role: OnlineKey, *, keys: KeyStores, now: datetime) -> Path:
    """Answer the service's newest request for a certificate of the server or of the OCSP responder.

    The certificate is written beside those before it; a transcript tells of it, signed by the key that issued it. A run
    that was interrupted between the two is finished.

    Args:
        data_dir: holds operator/ with a finished ceremony, and service/ with the request.
        role: which certificate.
        keys: the operator's key stores.
        now: UTC, aware; the certificate is valid from here on, as long as declared.

    Returns:
        the certificate's file.

    Raises:
        CeremonyError: no request waits, or the certificate would outlive its issuer.
        TranscriptError: the ceremony's transcripts were changed.
        CsrError: the request breaks a rule.
        KeyStoreError: the issuer's key cannot be used.
    """
    operator_dir, now = data_dir / "operator", now.replace(microsecond=0)
    name, declared = _waiting(data_dir, role, _told(operator_dir)), read_declaration(operator_dir)
    path = data_dir / ONLINE_CERTIFICATES / f"{name}.pem"
    if path.exists():
        now = load_certificate(path).not_valid_before_utc + CLOCK_SKEW
    planned = planned_again(declared.declaration, name, began_at=now)
    issuer = planned.issuer or OfflineKey.ROOT
    _issue(data_dir, planned, declared.declaration, issuer=issuer, keys=keys, now=now)
    request = (f"{REQUESTS}/{name}.pem", data_dir / REQUESTS / f"{name}.pem")
    _tell(operator_dir, keys.load(issuer), request, (planned.path, path), at=now)
    return path


def tell_of_issuing_ca(operator_dir: Path, name: str, *, keys: KeyStores, now: datetime) -> None:
    """Note in a signed transcript that the root has certified a later generation of the issuing CA.

    Done again it changes nothing; nor where no ceremony with a transcript was held.

    Args:
        operator_dir: holds csr/{name}.pem and certificates/{name}.pem.
        name: of the generation, such as `issuing-ca-2`.
        keys: the operator's key stores.
        now: UTC, aware.

    Raises:
        TranscriptError: the ceremony's transcripts were changed.
        KeyStoreError: the root's key cannot be used.
    """
    request, certificate = (f"operator/{folder}/{name}.pem" for folder in ("csr", "certificates"))
    if not transcript_files(operator_dir) or certificate in _told(operator_dir):
        return
    files = (operator_dir / "csr" / f"{name}.pem", operator_dir / "certificates" / f"{name}.pem")
    _tell(operator_dir, keys.load(OfflineKey.ROOT), (request, files[0]), (certificate, files[1]), at=now)


def known_issuing_cas(operator_dir: Path) -> frozenset[str]:
    """Return the issuing CA's certificates, every generation, of which the signed transcripts tell.

    Returns:
        SHA-256 of each one's DER, hex.

    Raises:
        TranscriptError: there is no transcript, or one was changed.
    """
    if not transcript_files(operator_dir):
        raise TranscriptError(
            f"transcript: expected that of the ceremony in {operator_dir}, found none; "
            f"`tinyfleet pki ceremony --adopt` makes one for a folder of an earlier version"
        )
    transcripts = read_transcripts(operator_dir, keys=signer_keys(operator_dir))
    steps = (step for transcript in transcripts for step in transcript.steps if step.kind is StepKind.CERTIFICATE)
    return frozenset(step.fingerprint for step in steps if base_role(role_of(step.name)) == OnlineKey.ISSUING_CA)


def _told(operator_dir: Path) -> set[str]:
    transcripts = read_transcripts(operator_dir, keys=signer_keys(operator_dir))
    return {step.name for transcript in transcripts for step in transcript.steps}


def _waiting(data_dir: Path, role: OnlineKey, told: set[str]) -> str:
    names = generations(data_dir / REQUESTS, role)
    if not names or f"{ONLINE_CERTIFICATES}/{names[-1]}.pem" in told:
        raise CeremonyError(
            f"{role}: expected a request that waits for its certificate, found none; "
            f"the service makes one by `tinyfleet pki request {role}`"
        )
    return names[-1]


def _issue(
    data_dir: Path,
    planned: PlannedCertificate,
    declaration: Declaration,
    *,
    issuer: OfflineKey,
    keys: KeyStores,
    now: datetime,
) -> None:
    above, path = authority_certificate(data_dir, issuer), data_dir / planned.path
    public_key = requested_key(data_dir / "service", planned.role)
    if planned.profile.not_after > above.not_valid_after_utc:
        raise CeremonyError(
            f"{planned.role}: expected to end before {issuer} does, {above.not_valid_after_utc:%F}, "
            f"found {planned.profile.not_after:%F}"
        )
    publish_url = declaration.publish_url
    if not path.exists():
        issue_planned(data_dir, planned, keys, public_key=public_key, publish_url=publish_url, now=now)
    certificate = load_certificate(path)
    if certificate.public_key() != public_key:
        raise CeremonyError(f"{planned.path}: key: expected that of the request, found another")
    _refuse_another(certificate, planned, issuer=above, publish_url=publish_url)


def _refuse_another(
    certificate: x509.Certificate, planned: PlannedCertificate, *, issuer: x509.Certificate, publish_url: str | None
) -> None:
    found = next(differences(certificate, planned, issuer=issuer, publish_url=publish_url), None)
    if found is not None:
        raise CeremonyError(f"{planned.path}: {found}")


def _tell(
    operator_dir: Path, signer: Signer, request: tuple[str, Path], certificate: tuple[str, Path], *, at: datetime
) -> None:
    """Add a transcript of one request and its certificate, each with its name below the data directory."""
    name, path = request
    requested = key_sha256(verify_service_csr(path.read_bytes(), path.stem))
    steps = with_step((), Made(StepKind.REQUEST, name, sha256_hex(path.read_bytes()), requested), at=at)
    name, path = certificate
    fingerprint = certificate_sha256(load_certificate(path))
    made = Made(StepKind.CERTIFICATE, name, sha256_hex(path.read_bytes()), fingerprint)
    add_transcript(
        operator_dir,
        signer,
        act=f"issue {path.stem}",
        declaration_sha256=read_declaration(operator_dir).sha256,
        participants=(),
        began_at=at,
        ended_at=at,
        steps=with_step(steps, made, at=at),
    )
