"""The issuance log: one entry for each certificate, each entry bound to the one before by its hash.

An entry is a JSON object: sequence, at, kind, serial, subject, key_sha256, certificate_sha256, issuer_sha256,
not_after, previous_sha256, entry_sha256. `entry_sha256` is the SHA-256 of the others as canonical JSON (sorted,
compact, UTF-8); `previous_sha256` is the entry_sha256 of the entry before, 64 zeros for the first. Times are RFC 3339,
UTC, with six digits of a second; hashes are hex. The service keeps its log in its database; what offline keys issue
is logged in operator/issuance.jsonl, one entry per line.

Verification of a log, entry after entry, in constant memory:
    1. form: an entry as above; a line of a file is the canonical JSON of its entry, byte for byte;
    2. order: the sequence number follows the one before, so that nothing is missing, doubled or swapped;
    3. chain: `previous_sha256` is the hash of the entry before;
    4. content: `entry_sha256` is the hash of the entry itself;
    5. memory: the entry that was the last at an earlier verification still has the hash that it had then, so that a
       log which was rewritten and hashed anew shows;
    6. end: the log is not shorter than it was then, and ends where its keeper says that it ends.
Not checked here: that what was issued is in the log. Who issues writes the entry before handing the certificate out.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.errors import LogChainError, LogCutError, LogFormError, LogOrderError, LogRewrittenError
from pki.files import PUBLIC_MODE
from protocol.identity import IdentityError, certificate_uri

OPERATOR_LOG_FILE = "issuance.jsonl"
MAX_ENTRY_BYTES = 4096  # of one line
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SERIAL = re.compile(r"[0-9a-f]{1,64}\Z")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
_MAX_SUBJECT = 200  # characters


class IssuanceKind(StrEnum):
    """What was issued."""

    LDEVID = "ldevid"
    IDEVID = "idevid"
    AUTHORITY = "authority"  # the root and those below it
    CROSS = "cross"  # one generation of the issuing CA by another
    SERVER = "server"
    OCSP = "ocsp"
    PACKAGE = "package"  # signing of image packages
    OPERATOR = "operator"
    POSSESSION = "possession"  # of a caller's nonce: proof that the service holds the issuing key


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What the log says of a certificate.

    Attributes:
        at: when it was issued, UTC, aware.
        serial: hex.
        subject: its SAN URI if it has exactly one name, which is a URI; else its subject (RFC 4514).
        key_sha256: of its SubjectPublicKeyInfo, DER, hex.
        certificate_sha256: of its DER, hex.
        issuer_sha256: of its issuer's certificate, DER, hex.
        not_after: end of its validity, UTC, aware.
    """

    at: datetime
    kind: IssuanceKind
    serial: str
    subject: str
    key_sha256: str
    certificate_sha256: str
    issuer_sha256: str
    not_after: datetime


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where a log ends: the sequence number of its last entry, and that entry's hash."""

    sequence: int
    entry_sha256: str


GENESIS = LogHead(0, "0" * 64)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry; nothing of it is verified."""

    sequence: int
    facts: CertificateFacts
    previous_sha256: str
    entry_sha256: str

    @property
    def head(self) -> LogHead:
        """The head of a log that ends here."""
        return LogHead(self.sequence, self.entry_sha256)


def facts_of(
    certificate: x509.Certificate, *, kind: IssuanceKind, issuer: x509.Certificate, at: datetime
) -> CertificateFacts:
    """Return what the log says of a certificate.

    Args:
        certificate: the new one.
        kind: what it is.
        issuer: the certificate that issued it; a root's is its own.
        at: UTC, aware.
    """
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return CertificateFacts(
        at=at,
        kind=kind,
        serial=f"{certificate.serial_number:x}",
        subject=_subject(certificate),
        key_sha256=hashlib.sha256(spki).hexdigest(),
        certificate_sha256=certificate_sha256(certificate),
        issuer_sha256=certificate_sha256(issuer),
        not_after=certificate.not_valid_after_utc,
    )


def certificate_sha256(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate's DER, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def extend(head: LogHead, facts: Iterable[CertificateFacts]) -> list[LogEntry]:
    """Return the entries that follow a head."""
    entries = list[LogEntry]()
    for each in facts:
        sequence, previous = head.sequence + 1, head.entry_sha256
        entries.append(LogEntry(sequence, each, previous, _hash(sequence, each, previous)))
        head = entries[-1].head
    return entries


class LogCheck:
    """Verifies a log entry after entry; the steps are those of the module.

    Args:
        begin: the head before the first entry that will be given.
        remembered: the head of an earlier verification; None if there was none.

    Attributes:
        head: of what has been verified so far.
    """

    def __init__(self, *, begin: LogHead = GENESIS, remembered: LogHead | None = None) -> None:
        self.head = begin
        self._remembered = remembered

    def add(self, entry: LogEntry) -> None:
        """Verify the next entry.

        Raises:
            IssuanceLogError: steps 2 to 5.
        """
        # Step 2: order.
        if entry.sequence != self.head.sequence + 1:
            raise LogOrderError(f"issuance log: expected entry {self.head.sequence + 1}, found {entry.sequence}")
        # Step 3: chain.
        if entry.previous_sha256 != self.head.entry_sha256:
            raise LogChainError(
                f"issuance log: entry {entry.sequence}: expected to follow {self.head.entry_sha256[:16]}…, "
                f"found {entry.previous_sha256[:16]}…"
            )
        # Step 4: content.
        found = _hash(entry.sequence, entry.facts, entry.previous_sha256)
        if entry.entry_sha256 != found:
            raise LogChainError(
                f"issuance log: entry {entry.sequence}: expected the hash {entry.entry_sha256[:16]}… that it states, "
                f"found {found[:16]}…"
            )
        # Step 5: memory.
        remembered = self._remembered
        if remembered is not None and remembered.sequence == entry.sequence and remembered != entry.head:
            raise LogRewrittenError(
                f"issuance log: entry {entry.sequence}: expected the hash {remembered.entry_sha256[:16]}… of the last "
                f"verification, found {entry.entry_sha256[:16]}…"
            )
        self.head = entry.head

    def finish(self, *, claimed: LogHead | None = None) -> LogHead:
        """Verify that the log is whole, and return its head.

        Args:
            claimed: the head that the log's keeper states; None where none is stated.

        Raises:
            LogCutError: step 6.
        """
        # Step 6: end.
        if self._remembered is not None and self.head.sequence < self._remembered.sequence:
            raise LogCutError(
                f"issuance log: expected at least the {self._remembered.sequence} entries of the last verification, "
                f"found {self.head.sequence}"
            )
        if claimed is not None and claimed != self.head:
            raise LogCutError(
                f"issuance log: expected to end with entry {claimed.sequence} ({claimed.entry_sha256[:16]}…), "
                f"found the end at {self.head.sequence} ({self.head.entry_sha256[:16]}…)"
            )
        return self.head


def entry_document(entry: LogEntry) -> dict[str, str | int]:
    """Return an entry as a JSON object."""
    return {**_hashed(entry.sequence, entry.facts, entry.previous_sha256), "entry_sha256": entry.entry_sha256}


def parse_entry(unverified: Mapping[str, object]) -> LogEntry:
    """Read an entry from a JSON object; step 1, and none after it.

    Raises:
        LogFormError: step 1.
    """
    try:
        facts = CertificateFacts(
            at=_parsed_time(unverified["at"]),
            kind=IssuanceKind(str(unverified["kind"])),
            serial=_matched(unverified["serial"], _SERIAL),
            subject=_parsed_subject(unverified["subject"]),
            key_sha256=_matched(unverified["key_sha256"], _SHA256),
            certificate_sha256=_matched(unverified["certificate_sha256"], _SHA256),
            issuer_sha256=_matched(unverified["issuer_sha256"], _SHA256),
            not_after=_parsed_time(unverified["not_after"]),
        )
        previous, own = _matched(unverified["previous_sha256"], _SHA256), _matched(unverified["entry_sha256"], _SHA256)
        entry = LogEntry(_parsed_sequence(unverified["sequence"]), facts, previous, own)
    except (KeyError, ValueError) as error:
        raise LogFormError(f"issuance log: expected an entry, found one with a wrong {error}") from error
    if len(unverified) != len(entry_document(entry)):
        raise LogFormError(f"issuance log: entry {entry.sequence}: expected no other fields, found some")
    return entry


def append_to_file(path: Path, facts: Sequence[CertificateFacts]) -> None:
    """Add entries to a log file, durably; made if it is missing. Call it before the certificates are handed out.

    What is behind the last whole line is removed first: an interrupted write, whose certificates were not handed out.
    Somebody who cuts the end of the last line makes it look the same; `log verify` tells by the head it remembers.

    Raises:
        LogFormError: the last whole line is no entry, or not the one that it says it is; nothing is written.
        OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, PUBLIC_MODE)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two commands at once write one after the other
        whole_bytes, head = _file_end(file.fileno())
        lines = b"".join(_line(entry) for entry in extend(head, facts))
        file.truncate(whole_bytes)
        file.seek(whole_bytes)
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def read_file(path: Path) -> Iterator[LogEntry]:
    """Read a log file's whole lines, one after the other; a missing file is an empty log.

    Raises (while it is read):
        LogFormError: step 1.
        OSError: the file cannot be read.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        while (line := file.readline(MAX_ENTRY_BYTES + 1)).endswith(b"\n"):
            yield _parsed_line(line)
        if len(line) > MAX_ENTRY_BYTES:
            raise LogFormError(f"issuance log: expected lines of at most {MAX_ENTRY_BYTES} bytes, found a longer one")


def has_torn_end(path: Path) -> bool:
    """Whether a log file ends with what an interrupted write left behind; the next append removes it."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _hashed(sequence: int, facts: CertificateFacts, previous_sha256: str) -> dict[str, str | int]:
    return {
        "sequence": sequence,
        "at": _time_text(facts.at),
        "kind": facts.kind.value,
        "serial": facts.serial,
        "subject": facts.subject,
        "key_sha256": facts.key_sha256,
        "certificate_sha256": facts.certificate_sha256,
        "issuer_sha256": facts.issuer_sha256,
        "not_after": _time_text(facts.not_after),
        "previous_sha256": previous_sha256,
    }


def _hash(sequence: int, facts: CertificateFacts, previous_sha256: str) -> str:
    return hashlib.sha256(_canonical(_hashed(sequence, facts, previous_sha256))).hexdigest()


def _canonical(document: Mapping[str, str | int]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _line(entry: LogEntry) -> bytes:
    return _canonical(entry_document(entry)) + b"\n"


def _file_end(descriptor: int) -> tuple[int, LogHead]:
    """Return the length in bytes up to the last whole line's end, and the head that this line makes."""
    size = os.fstat(descriptor).st_size
    begin = max(0, size - 2 * MAX_ENTRY_BYTES)  # holds the last whole line and the beginning of a torn one
    tail = os.pread(descriptor, size - begin, begin)
    whole, newline, _torn = tail.rpartition(b"\n")
    if not newline:
        if begin:
            raise LogFormError("issuance log: expected a whole line near the end, found none")
        return 0, GENESIS
    entry = _parsed_line(whole.rpartition(b"\n")[2])
    LogCheck(begin=LogHead(entry.sequence - 1, entry.previous_sha256)).add(entry)
    return begin + len(whole) + 1, entry.head


def _parsed_line(line: bytes) -> LogEntry:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LogFormError(f"issuance log: expected a JSON object, found {line[:40]!r}") from error
    if not isinstance(document, dict):
        raise LogFormError(f"issuance log: expected a JSON object, found {type(document).__name__}")
    entry = parse_entry(document)
    if _line(entry) != line.removesuffix(b"\n") + b"\n":
        raise LogFormError(f"issuance log: entry {entry.sequence}: expected canonical JSON, found another writing")
    return entry


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate_uri(certificate)[:_MAX_SUBJECT]
    except IdentityError:
        return certificate.subject.rfc4514_string()[:_MAX_SUBJECT]


def _time_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _parsed_time(unverified: object) -> datetime:
    return datetime.fromisoformat(_matched(unverified, _TIME))


def _parsed_subject(unverified: object) -> str:
    if not isinstance(unverified, str) or len(unverified) > _MAX_SUBJECT:
        raise ValueError(f"subject {str(unverified)[:80]!r}")
    unverified.encode()  # a lone surrogate is no text: UnicodeEncodeError, a ValueError
    return unverified


def _parsed_sequence(unverified: object) -> int:
    if not isinstance(unverified, int) or isinstance(unverified, bool) or unverified < 1:
        raise ValueError(f"sequence {str(unverified)[:80]!r}")
    return unverified


def _matched(unverified: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(unverified, str) or not pattern.match(unverified):
        raise ValueError(f"value {str(unverified)[:80]!r}")
    return unverified
