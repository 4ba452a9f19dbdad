"""`tinyfleet pki log`: what has been certified, and whether anybody has tampered with the record of it.

Two logs are walked, entry after entry: the service's, page by page over the API, and the operator's own of what offline
keys issued. Where both ended is kept in issuance-head.json, so that a log which was cut or rewritten since shows. What
a ceremony's signed transcripts tell of is in the operator's log, so that one which was cut before shows, too.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field, ValidationError

from pki.ceremony_check import signer_keys
from pki.errors import IssuanceLogError, LogCutError
from pki.files import PUBLIC_MODE, replace_file
from pki.issuance import (
    GENESIS,
    OPERATOR_LOG_FILE,
    LogCheck,
    LogEntry,
    LogHead,
    entry_document,
    has_torn_end,
    parse_entry,
    read_file,
)
from pki.transcript import StepKind, read_transcripts, transcript_files
from protocol.document import Document, canonical_json, parse_document
from protocol.errors import ProtocolError
from protocol.identity import DEVICE_URI_PREFIX
from service.cli.client import PAGE_ITEMS, ApiClient, connect
from service.cli.errors import AnswerError, CliError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_json, print_line, print_table, remark, short

app = typer.Typer(help="The issuance log: every certificate, in a chain of hashes.", no_args_is_help=True)

HEAD_FILE = "issuance-head.json"
_SUBJECT_CHARACTERS = 60
OfflineOption = Annotated[bool, typer.Option("--offline", help="Only the operator's own log; asks no service.")]


class HeadFileError(CliError):
    """The file that remembers where the logs ended is unreadable."""


class _Head(Document):
    sequence: Annotated[int, Field(ge=0)] = GENESIS.sequence
    entry_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = GENESIS.entry_sha256

    @classmethod
    def of(cls, head: LogHead) -> "_Head":
        return cls(sequence=head.sequence, entry_sha256=head.entry_sha256)

    @property
    def head(self) -> LogHead:
        return LogHead(self.sequence, self.entry_sha256)


class _Heads(Document):
    service: _Head = _Head()
    operator: _Head = _Head()


@app.command()
def show(
    *,
    limit: Annotated[int, typer.Option(min=1, max=PAGE_ITEMS, help="How many of the latest entries.")] = 50,
    offline: OfflineOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show the latest entries; nothing is verified."""
    if offline:
        entries = list(deque(read_file(operator_dir / OPERATOR_LOG_FILE), maxlen=limit))
    else:
        with connect(operator_dir) as client:
            _, head = _page(client, after=0, limit=1)
            entries, _ = _page(client, after=max(0, head.sequence - limit), limit=limit)
    if as_json:
        print_json([entry_document(entry) for entry in entries])
        return
    print_table("Issuance log", ("no.", "at", "kind", "subject", "serial", "until"), map(_row, entries))


@app.command()
def verify(
    *,
    offline: OfflineOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Walk both logs from their beginning and find any edit, gap, reorder, cut end or rewritten history."""
    path = operator_dir / HEAD_FILE
    known = _read_heads(path)
    walked = {} if offline else {"service": _verify_service(operator_dir, known.service)}
    walked["operator"] = _verify_own(operator_dir, known.operator)
    replace_file(path, canonical_json(known.model_copy(update=walked)), mode=PUBLIC_MODE)
    if as_json:
        print_json({name: head.model_dump() for name, head in walked.items()})
        return
    for name, head in walked.items():
        new = head.sequence - getattr(known, name).sequence
        print_line(f"{name}: {head.sequence} entries, {new} new since the last verification, all as they were written")


def _verify_service(operator_dir: Path, remembered: _Head) -> _Head:
    check = LogCheck(remembered=remembered.head)
    with connect(operator_dir) as client, _named("service"):
        while True:
            entries, stated = _page(client, after=check.head.sequence, limit=PAGE_ITEMS)
            for entry in entries:
                check.add(entry)
            if len(entries) < PAGE_ITEMS:
                return _Head.of(check.finish(claimed=stated))


def _verify_own(operator_dir: Path, remembered: _Head) -> _Head:
    path, check = operator_dir / OPERATOR_LOG_FILE, LogCheck(remembered=remembered.head)
    missing = _told_of(operator_dir)
    with _named("operator"):
        for entry in read_file(path):
            check.add(entry)
            missing.pop(entry.facts.certificate_sha256, None)
        head = check.finish()
        for name in missing.values():
            raise LogCutError(f"issuance log: expected an entry of {name}, of which a transcript tells, found none")
    if has_torn_end(path):
        remark(
            f"{path}: after entry {head.sequence} a line without its end: an interrupted write, whose certificate was "
            "not handed out, or an entry that somebody cut; the next entry takes its place"
        )
    return _Head.of(head)


def _told_of(operator_dir: Path) -> dict[str, str]:
    """Return the certificates that a ceremony and what followed it signed: names by SHA-256 of the DER, hex."""
    if not transcript_files(operator_dir):
        remark(f"{operator_dir}: expected a ceremony's transcripts, found none: entries cut off its log do not show")
        return {}
    told = dict[str, str]()
    for transcript in read_transcripts(operator_dir, keys=signer_keys(operator_dir)):
        for step in transcript.steps:
            if step.kind is StepKind.CERTIFICATE and not step.adopted:
                told.setdefault(step.fingerprint, step.name)  # not the name of a copy
    return told


@contextmanager
def _named(whose: str) -> Iterator[None]:
    try:
        yield
    except IssuanceLogError as error:
        raise type(error)(f"{whose}: {error}") from error


def _page(client: ApiClient, *, after: int, limit: int) -> tuple[list[LogEntry], LogHead]:
    page = client.get("/issuance", after=after, limit=limit)
    try:
        head = _Head.model_validate(page["head"]).head
        return [parse_entry(item) for item in page["items"]], head
    except (KeyError, TypeError, ValidationError) as error:
        raise AnswerError(f"issuance log: expected entries and their head, found {type(error).__name__}") from error


def _read_heads(path: Path) -> _Heads:
    if not path.exists():
        return _Heads()
    try:
        return parse_document(path.read_bytes(), _Heads)
    except ProtocolError as error:
        raise HeadFileError(f"{path}: expected where the logs ended at the last verification, found {error}") from error


def _row(entry: LogEntry) -> tuple[object, ...]:
    facts = entry.facts
    subject = facts.subject.removeprefix(DEVICE_URI_PREFIX)
    return (
        entry.sequence,
        moment(facts.at.isoformat()),
        facts.kind,
        subject if len(subject) <= _SUBJECT_CHARACTERS else short(subject),
        short(facts.serial),
        moment(facts.not_after.isoformat()),
    )
