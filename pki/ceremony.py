"""The key ceremony: performs a declaration step by step, goes on after an interruption, and signs what it did.

    plan every step from the declaration and the service's requests → begin the journal
    → each step: confirm, perform, note → check everything that was made against the declaration
    → sign the transcript by the root → end the journal

The service's keys and requests are there before; nothing else is made, and the folder is bound to no declaration, until
every step could be planned. No file is ever overwritten, and what cannot be confirmed at the end is not signed.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime

from pki.authority import CertificateAuthority, publish_url_in
from pki.ceremony_certificates import key_sha256, role_of
from pki.ceremony_check import Act, check_ceremony, findings, read_declaration
from pki.ceremony_declaration import DeclarationFile
from pki.ceremony_steps import CeremonyStep, CeremonySteps
from pki.errors import CeremonyError, TranscriptError
from pki.files import PUBLIC_MODE, replace_file
from pki.keystore import KeyStore
from pki.online import load_certificate, requested_key
from pki.roles import OfflineKey
from pki.stores import KeyStores
from pki.transcript import (
    CEREMONY_FOLDER,
    Sha256,
    Step,
    StepKind,
    add_transcript,
    check_steps,
    transcript_files,
    with_step,
)
from protocol.document import Document, canonical_json, parse_document
from protocol.errors import ProtocolError

JOURNAL_FILE = "journal.json"
CEREMONY_ACT = "ceremony"
Clock = Callable[[], datetime]
Confirm = Callable[[int, int, str], None]  # number of the step, number of steps, what it will do; raises to stop


class Journal(Document):
    """What an interrupted ceremony has done; not signed, so its steps are checked before they are."""

    declaration_sha256: Sha256
    began_at: AwareDatetime
    steps: tuple[Step, ...]


def hold_ceremony(
    data_dir: Path,
    declared: DeclarationFile,
    *,
    keys: KeyStores,
    clock: Clock,
    confirm: Confirm,
    adopt: bool = False,
) -> Path:
    """Hold a declared ceremony, or go on with one that was interrupted; a finished one is left as it is.

    Args:
        data_dir: gets operator/; holds service/ with the service's CSRs, which gets certificates and genesis.
        declared: a verified declaration.
        keys: the operator's key stores.
        clock: UTC, aware.
        confirm: called before each step; what it raises stops the ceremony.
        adopt: take certificates that are there but not as declared, as an earlier version of tinyfleet made them.

    Returns:
        the transcript.

    Raises:
        CeremonyError: the folder holds another ceremony, or what was made is not what was declared.
        CsrError: a CSR is missing or breaks a rule; nothing was made.
        KeyStoreError: a key cannot be made or used.
    """
    operator_dir = data_dir / "operator"
    _check_stores(declared, keys)
    if finished := transcript_files(operator_dir):
        _check_same(read_declaration(operator_dir).sha256, declared)
        _refuse(check_ceremony(data_dir, keys=None).findings)
        return finished[0]
    journal = _journal(operator_dir, declared, clock=clock)
    planned = list(CeremonySteps(data_dir, declared, keys, journal.began_at, adopt).steps())
    _check_done(data_dir, journal, planned, keys=keys)
    _begin(operator_dir, journal)
    journal = _perform(operator_dir, journal, planned, clock=clock, confirm=confirm)
    _refuse(list(findings(data_dir, declared, [Act(journal.began_at, journal.steps)])))
    return _sign(operator_dir, declared, journal, keys=keys, ended_at=clock())


def factory_authority(operator_dir: Path, keys: KeyStore) -> CertificateAuthority:
    """Return the authority that issues IDevIDs.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
        ChainError: its certificate is missing, malformed, or of another key.
    """
    certificate = load_certificate(operator_dir / "certificates" / "factory.pem")
    return CertificateAuthority([certificate], keys.load(OfflineKey.FACTORY))


def root_authority(operator_dir: Path, keys: KeyStore) -> CertificateAuthority:
    """Return the root, which issues operators' client certificates itself. Raises as `factory_authority`."""
    certificates = operator_dir / "certificates"
    # Its own certificate has no issuer that publishes; those that it has issued say where it does.
    publish_url = publish_url_in(load_certificate(certificates / "factory.pem"))
    chain = [load_certificate(certificates / "root.pem")]
    return CertificateAuthority(chain, keys.load(OfflineKey.ROOT), publish_url=publish_url)


def _check_stores(declared: DeclarationFile, keys: KeyStores) -> None:
    for role, store in declared.declaration.key_stores.items():
        if keys.store_of(role) != store:
            raise CeremonyError(
                f"key_stores.{role}: expected store {store!r} in operator/keys.toml, found {keys.store_of(role)!r}"
            )


def _check_same(began_with_sha256: str, declared: DeclarationFile) -> None:
    if began_with_sha256 != declared.sha256:
        raise CeremonyError(
            f"declaration: expected the one of this folder's ceremony, SHA-256 {began_with_sha256[:16]}…, "
            f"found another, {declared.sha256[:16]}…; nothing changed"
        )


def _journal(operator_dir: Path, declared: DeclarationFile, *, clock: Clock) -> Journal:
    path = _journal_path(operator_dir)
    if not path.exists():
        return Journal(declaration_sha256=declared.sha256, began_at=clock().replace(microsecond=0), steps=())
    try:
        journal = parse_document(path.read_bytes(), Journal)
        check_steps(journal.steps)
    except (ProtocolError, TranscriptError) as error:
        raise CeremonyError(f"{path}: expected the journal of an interrupted ceremony, found: {error}") from error
    _check_same(journal.declaration_sha256, declared)
    return journal


def _check_done(data_dir: Path, journal: Journal, planned: Sequence[CeremonyStep], *, keys: KeyStores) -> None:
    done = [(step.kind, step.name) for step in journal.steps]
    if done != [(step.kind, step.name) for step in planned[: len(done)]]:
        raise CeremonyError("journal: expected the first steps of this declaration, found others")
    # Opens each key, so that no further one is made under another passphrase.
    for step in journal.steps:
        if step.kind is StepKind.KEY and key_sha256(keys.load(step.name).public_key) != step.sha256:
            raise CeremonyError(f"key {step.name}: expected the one that the ceremony made, found another")
        if step.kind is StepKind.REQUEST:
            requested = requested_key(data_dir / "service", role_of(step.name))
            if key_sha256(requested) != step.fingerprint:
                raise CeremonyError(f"{step.name}: expected the request that the ceremony took, found another")


def _begin(operator_dir: Path, journal: Journal) -> None:
    if not journal.steps:
        _journal_path(operator_dir).parent.mkdir(parents=True, exist_ok=True)
        _keep(operator_dir, journal)


def _perform(
    operator_dir: Path, journal: Journal, planned: Sequence[CeremonyStep], *, clock: Clock, confirm: Confirm
) -> Journal:
    done = len(journal.steps)
    for number, step in enumerate(planned[done:], done + 1):
        confirm(number, len(planned), step.text)
        steps = with_step(journal.steps, step.perform(), at=clock())
        journal = journal.model_copy(update={"steps": steps})
        _keep(operator_dir, journal)
    return journal


def _sign(
    operator_dir: Path, declared: DeclarationFile, journal: Journal, *, keys: KeyStores, ended_at: datetime
) -> Path:
    transcript = add_transcript(
        operator_dir,
        keys.load(OfflineKey.ROOT),
        act=CEREMONY_ACT,
        declaration_sha256=declared.sha256,
        participants=declared.declaration.participants,
        began_at=journal.began_at,
        ended_at=ended_at,
        steps=journal.steps,
    )
    _journal_path(operator_dir).unlink()
    return transcript


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise CeremonyError(f"ceremony: expected what was declared, found {len(found)} differences: {'; '.join(found)}")


def _keep(operator_dir: Path, journal: Journal) -> None:
    replace_file(_journal_path(operator_dir), canonical_json(journal), mode=PUBLIC_MODE)


def _journal_path(operator_dir: Path) -> Path:
    return operator_dir / CEREMONY_FOLDER / JOURNAL_FILE
