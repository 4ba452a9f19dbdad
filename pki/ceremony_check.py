"""Check a ceremony later: that its folders still hold what its transcripts tell of, and that this is what was declared.

Verification, in this order; the first three must hold for the others to mean anything:
    1. root: operator/certificates/root.pem signs itself; its SHA-256 is reported, to be compared with the one on paper;
    2. transcripts: pki/transcript.py, against the keys of the root, the server CA and the factory CA;
    3. declaration: declaration.yaml has the SHA-256 that the transcripts state, and is one;
    4. files: declaration, requests, certificates and first metadata are there with the digests of their steps;
    5. nothing else: no certificate lies beside them that no transcript names, except cross certificates between
       generations of the issuing CA that one names, and the list of manufacturers if the root signed it;
    6. certificates: what each says is what was declared, its issuer signed it, and its key is the recorded one;
    7. transparency: the first Image root says of the log what was declared, where the ceremony took the log's request;
    8. keys: where the key stores are given, every key in force is the recorded one, in the recorded store.
Certificates that the ceremony adopted pass step 6 by their issuer and key alone. Not checked here: whether anything
has expired, which `tinyfleet pki status` shows; the working copy of the Image repository, which has its own signatures.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from pki.catalog import load_catalog
from pki.ceremony_certificates import (
    ISSUER_DIFFERS,
    OFFLINE_CERTIFICATES,
    ONLINE_CERTIFICATES,
    REQUESTS,
    PlannedCertificate,
    differences,
    key_sha256,
    planned_again,
    role_of,
)
from pki.ceremony_declaration import MAX_DECLARATION_BYTES, DeclarationFile, parse_declaration
from pki.ceremony_steps import DECLARATION_FILE, IMAGE_ROOT, LOG_REQUEST, authority_certificate, declared_policy
from pki.chains import issued_by
from pki.errors import CeremonyError, ChainError, PkiError, TranscriptError
from pki.issuance import certificate_sha256
from pki.manufacturers import TRUST_FILE, verify_trust_list
from pki.online import load_certificate, online_keys
from pki.roles import OfflineKey, OnlineKey
from pki.stores import KeyStores
from pki.transcript import CEREMONY_FOLDER, SignerKeys, Step, StepKind, Transcript, read_transcripts, sha256_hex
from protocol.errors import ProtocolError
from protocol.identity import X509_ERRORS, IdentityError, p256_key
from protocol.transparency import policy_of

CATALOG = "service/genesis/catalog.json"
WORKING_COPY = "operator/repository/"
OFFLINE_REQUESTS = "operator/csr"  # of a rollover
_INTERRUPTED = re.compile(r"\..*\.[0-9a-f]{16}")  # a file that pki.files had not finished
_CROSS = re.compile(r"issuing-ca-([0-9]{1,4})-by-([0-9]{1,4})\.pem")
_SIGNERS = (OfflineKey.ROOT, OfflineKey.SERVER_CA, OfflineKey.FACTORY)


@dataclass(frozen=True, slots=True)
class Act:
    """The ceremony or a later act: when its certificates' validity begins, and its steps."""

    began_at: datetime
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class CheckedCeremony:
    """What the check found.

    Attributes:
        root_sha256: of the root certificate, DER, hex.
        transcripts: the verified ones.
        findings: what is not as it was recorded and declared; empty when all is well.
    """

    root_sha256: str
    transcripts: Sequence[Transcript]
    findings: Sequence[str]

    @property
    def certificates(self) -> int:
        """How many certificate files the transcripts name."""
        steps = [step for transcript in self.transcripts for step in transcript.steps]
        return len({step.name for step in steps if step.kind is StepKind.CERTIFICATE})


def check_ceremony(data_dir: Path, *, keys: KeyStores | None) -> CheckedCeremony:
    """Check the ceremony of a data directory.

    Args:
        data_dir: holds operator/ and service/.
        keys: the operator's key stores, for step 8; None leaves it out.

    Raises:
        ChainError: step 1.
        TranscriptError: step 2 or 3.
        DeclarationError: step 3.
        KeyStoreError: a key store cannot be opened.
    """
    operator_dir = data_dir / "operator"
    # Step 1: root.
    root = authority_certificate(data_dir, OfflineKey.ROOT)
    if not issued_by(root, root):
        raise ChainError(f"{OFFLINE_CERTIFICATES}/root.pem: expected a certificate that signs itself, found another")
    # Step 2: transcripts.
    transcripts = read_transcripts(operator_dir, keys=signer_keys(operator_dir))
    # Step 3: declaration.
    declared = read_declaration(operator_dir)
    for transcript in transcripts:
        if transcript.declaration_sha256 != declared.sha256:
            raise TranscriptError(
                f"{DECLARATION_FILE}: expected SHA-256 {transcript.declaration_sha256[:16]}… of transcript "
                f"{transcript.sequence}, found {declared.sha256[:16]}…"
            )
    acts = [Act(transcript.began_at, transcript.steps) for transcript in transcripts]
    found = list(findings(data_dir, declared, acts))
    if keys is not None:
        found.extend(_keys(data_dir, _recorded(acts), keys))
    return CheckedCeremony(certificate_sha256(root), transcripts, found)


def findings(data_dir: Path, declared: DeclarationFile, acts: Sequence[Act]) -> Iterator[str]:
    """Say what is not as recorded and declared: steps 4 to 7, a line each."""
    recorded = _recorded(acts)
    yield from _files(data_dir, recorded)
    yield from _others(data_dir, recorded)
    for act in acts:
        for step in act.steps:
            if step.kind is StepKind.CERTIFICATE:
                yield from _certificate(data_dir, declared, recorded, step, began_at=act.began_at)
    if LOG_REQUEST in recorded:
        yield from _transparency(data_dir, declared)


def read_declaration(operator_dir: Path) -> DeclarationFile:
    """Read the declaration that a ceremony was held by.

    Raises:
        TranscriptError: there is none.
        DeclarationError: it is malformed.
    """
    path = operator_dir / CEREMONY_FOLDER / DECLARATION_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DECLARATION_BYTES + 1)
    except OSError as error:
        raise TranscriptError(f"declaration: expected {path} of the ceremony, found: {error.strerror}") from error
    return parse_declaration(content)


def signer_keys(operator_dir: Path) -> SignerKeys:
    """Return the public keys of those who sign transcripts, as far as their certificates are there.

    Raises:
        ChainError: the root's certificate is missing, or one is malformed or has another type of key.
    """
    files = {role: operator_dir / "certificates" / f"{role}.pem" for role in _SIGNERS}
    there = {role: path for role, path in files.items() if role == OfflineKey.ROOT or path.exists()}
    return {role: _p256(load_certificate(path)) for role, path in there.items()}


def _p256(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        return p256_key(certificate)
    except IdentityError as error:
        raise ChainError(f"authority: {error}") from error


def _recorded(acts: Sequence[Act]) -> Mapping[str, Step]:
    return {step.name: step for act in acts for step in act.steps}


def _files(data_dir: Path, recorded: Mapping[str, Step]) -> Iterator[str]:
    # Step 4: files.
    for name, step in recorded.items():
        if step.kind is StepKind.KEY or name.startswith(WORKING_COPY):
            continue
        path = data_dir / name
        if not path.is_file():
            yield f"{name}: expected the {step.kind} that the transcript names, found no such file"
        elif (found := sha256_hex(path.read_bytes())) != step.sha256:
            yield f"{name}: expected SHA-256 {step.sha256[:16]}…, found {found[:16]}…"


def _others(data_dir: Path, recorded: Mapping[str, Step]) -> Iterator[str]:
    # Step 5: nothing else.
    for folder in (OFFLINE_CERTIFICATES, ONLINE_CERTIFICATES):
        for path in sorted((data_dir / folder).rglob("*")):
            name = path.relative_to(data_dir).as_posix()
            if name in recorded or path.is_dir() or _INTERRUPTED.fullmatch(path.name):
                continue
            if path.name == TRUST_FILE:
                yield from _trust_list(data_dir, path, name)
            elif not _is_copy(path, recorded) and not _is_cross(data_dir, path, recorded):
                yield f"{name}: expected no certificate that no transcript names, found one"


def _trust_list(data_dir: Path, path: Path, name: str) -> Iterator[str]:
    try:
        catalog = load_catalog(data_dir / CATALOG)
        verify_trust_list(
            path.read_bytes(), root=authority_certificate(data_dir, OfflineKey.ROOT), catalog_id=catalog.catalog_id
        )
    except PkiError as error:
        yield f"{name}: {error}"


def _is_copy(path: Path, recorded: Mapping[str, Step]) -> bool:
    """Whether the service has what a transcript names on the operator's side, as after a rollover."""
    step = recorded.get(f"{OFFLINE_CERTIFICATES}/{path.name}")
    return step is not None and sha256_hex(path.read_bytes()) == step.sha256


def _is_cross(data_dir: Path, path: Path, recorded: Mapping[str, Step]) -> bool:
    match = _CROSS.fullmatch(path.name)
    names = [] if match is None else [_issuing_ca(number) for number in match.groups()]
    if not names or not recorded.keys() >= set(names):
        return False
    try:
        cross, certified, above = (load_certificate(each) for each in (path, *(data_dir / name for name in names)))
    except ChainError:
        return False
    return issued_by(cross, above) and cross.public_key() == certified.public_key()


def _issuing_ca(number: str) -> str:
    """Where the certificate of a generation of the issuing CA is that a transcript names."""
    if number == "1":
        return f"{ONLINE_CERTIFICATES}/{OnlineKey.ISSUING_CA}.pem"
    return f"{OFFLINE_CERTIFICATES}/{OnlineKey.ISSUING_CA}-{number}.pem"


def _certificate(
    data_dir: Path, declared: DeclarationFile, recorded: Mapping[str, Step], step: Step, *, began_at: datetime
) -> Iterator[str]:
    # Step 6: certificates.
    try:
        certificate = load_certificate(data_dir / step.name)
        planned = _planned(declared, step.name, certificate, began_at=began_at)
        above = OfflineKey.ROOT if step.adopted else planned.issuer
        issuer = certificate if above is None else authority_certificate(data_dir, above)
        found_key = key_sha256(_p256(certificate))
    except (CeremonyError, ChainError) as error:
        yield f"{step.name}: {error}"
        return
    if step.fingerprint != certificate_sha256(certificate):
        yield f"{step.name}: expected the certificate that the transcript names, found another"
    if _recorded_key(recorded, planned.role) != found_key:
        yield f"{step.name}: expected the recorded key of {planned.role}, found another"
    try:
        found = list(differences(certificate, planned, issuer=issuer, publish_url=declared.declaration.publish_url))
    except (x509.ExtensionNotFound, *X509_ERRORS) as error:
        yield f"{step.name}: expected certificates that can be read, its own and its issuer's, found: {error}"
        return
    for difference in found:
        if not step.adopted or difference.startswith(ISSUER_DIFFERS):
            yield f"{step.name}: {difference}"


def _planned(
    declared: DeclarationFile, name: str, certificate: x509.Certificate, *, began_at: datetime
) -> PlannedCertificate:
    planned = planned_again(declared.declaration, role_of(name), began_at=began_at)
    if not name.startswith(f"{OFFLINE_CERTIFICATES}/{OnlineKey.ISSUING_CA}"):
        return planned
    # A rollover is told of after the root has signed; a generation may end early, with the root, but not late.
    life = planned.profile.not_after - planned.profile.not_before
    begins = min(planned.profile.not_before, certificate.not_valid_before_utc)
    ends = min(begins + life, certificate.not_valid_after_utc)
    return replace(planned, profile=replace(planned.profile, not_before=begins, not_after=ends))


def _recorded_key(recorded: Mapping[str, Step], role: str) -> str | None:
    if role in recorded:
        return recorded[role].sha256
    requests = [recorded.get(f"{folder}/{role}.pem") for folder in (REQUESTS, OFFLINE_REQUESTS)]
    return next((request.fingerprint for request in requests if request is not None), None)


def _transparency(data_dir: Path, declared: DeclarationFile) -> Iterator[str]:
    # Step 7: transparency.
    try:
        expected = declared_policy(data_dir, declared.declaration)
        found = policy_of(Metadata[Root].from_bytes((data_dir / IMAGE_ROOT).read_bytes()).signed)
    except (OSError, PkiError, ProtocolError, DeserializationError) as error:
        yield f"{IMAGE_ROOT}: expected the policy of the transparency log, found: {error}"
        return
    if found != expected:
        yield f"{IMAGE_ROOT}: expected the declared policy of the transparency log, found another"


def _keys(data_dir: Path, recorded: Mapping[str, Step], keys: KeyStores) -> Iterator[str]:
    # Step 8: keys.
    for step in recorded.values():
        if step.kind is StepKind.KEY:
            yield from _key(keys, step.name, step.sha256, step.store)
    if (data_dir / "service" / "keys").exists():  # otherwise they are on the service's machine
        online = online_keys(data_dir / "service")
        for name, step in recorded.items():
            if step.kind is StepKind.REQUEST:
                yield from _key(online, role_of(name), step.fingerprint, online.store_of(role_of(name)))


def _key(keys: KeyStores, role: str, sha256: str, store: str) -> Iterator[str]:
    if keys.store_of(role) != store:
        yield f"key {role}: expected in store {store}, found {keys.store_of(role)}"
    elif not keys.holds(role):
        yield f"key {role}: expected in store {store}, found none"
    elif (found := key_sha256(keys.load(role).public_key)) != sha256:
        yield f"key {role}: expected SHA-256 {sha256[:16]}…, found {found[:16]}…"
