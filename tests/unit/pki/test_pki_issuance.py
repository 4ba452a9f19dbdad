"""The issuance log as a chain of hashes and as a file: one thing wrong per case."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import profiles
from pki.errors import IssuanceLogError, LogChainError, LogCutError, LogFormError, LogOrderError, LogRewrittenError
from pki.issuance import (
    GENESIS,
    MAX_ENTRY_BYTES,
    CertificateFacts,
    IssuanceKind,
    LogCheck,
    LogEntry,
    LogHead,
    append_to_file,
    certificate_sha256,
    entry_document,
    extend,
    facts_of,
    has_torn_end,
    parse_entry,
    read_file,
)
from protocol.identity import device_uri, spki_der
from tests.unit.pki.pki_builder import NOW, Tree

TREE = Tree()


def facts(number: int) -> CertificateFacts:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    end = NOW + timedelta(days=1, microseconds=number)
    return CertificateFacts(
        NOW, IssuanceKind.LDEVID, f"{number:x}", f"device {number} ✓", digest, digest, "a" * 64, end
    )


LOG = extend(GENESIS, [facts(number) for number in range(1, 6)])


def verify(entries: list[LogEntry], *, remembered: LogHead | None = None, claimed: LogHead | None = None) -> LogHead:
    check = LogCheck(remembered=remembered)
    for entry in entries:
        check.add(entry)
    return check.finish(claimed=claimed)


def test_untouched_log_is_verified() -> None:
    """From its beginning, against what was remembered and what its keeper states."""
    end = LOG[-1].head
    assert verify(LOG, remembered=LOG[2].head, claimed=end) == end
    assert verify(LOG, remembered=end) == end
    assert verify([], remembered=GENESIS, claimed=GENESIS) == GENESIS


def test_log_goes_on_where_it_ended() -> None:
    """One entry at a time makes the same log as all at once, and its rest can be verified alone."""
    log = list[LogEntry]()
    for number in range(1, 6):
        log += extend(log[-1].head if log else GENESIS, [facts(number)])
    assert log == LOG
    check = LogCheck(begin=LOG[2].head)
    for entry in LOG[3:]:
        check.add(entry)
    assert check.finish() == LOG[-1].head


def edited(entry: LogEntry, **changes: object) -> LogEntry:
    return replace(entry, facts=replace(entry.facts, **changes))  # type: ignore[arg-type]


TAMPERED: dict[str, tuple[list[LogEntry], type[IssuanceLogError], str]] = {
    "edited": ([LOG[0], edited(LOG[1], subject="x"), *LOG[2:]], LogChainError, "entry 2: expected the hash"),
    "edited_last": ([*LOG[:4], edited(LOG[4], serial="ff")], LogChainError, "entry 5: expected the hash"),
    "edited_time": ([edited(LOG[0], at=NOW + timedelta(microseconds=1)), *LOG[1:]], LogChainError, "entry 1"),
    "edited_and_hashed": (
        [LOG[0], *extend(LOG[0].head, [facts(9)]), *LOG[2:]],
        LogChainError,
        "entry 3: expected to follow",
    ),
    "gap": ([*LOG[:2], *LOG[3:]], LogOrderError, "expected entry 3, found 4"),
    "beginning_deleted": (LOG[1:], LogOrderError, "expected entry 1, found 2"),
    "swapped": ([LOG[0], LOG[2], LOG[1]], LogOrderError, "expected entry 2, found 3"),
    "doubled": ([LOG[0], LOG[0]], LogOrderError, "expected entry 2, found 1"),
    "renumbered": ([LOG[0], replace(LOG[2], sequence=2)], LogChainError, "entry 2: expected to follow"),
    "cut": (LOG[:3], LogCutError, "expected at least the 4 entries of the last verification, found 3"),
    "emptied": ([], LogCutError, "found 0"),
    "rewritten": (
        extend(GENESIS, [facts(number) for number in (1, 2, 3, 9, 5)]),
        LogRewrittenError,
        "entry 4: expected the hash",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_shows(case: str) -> None:
    """Whoever changes what was issued must change everything after it, and cannot change what was remembered."""
    entries, error, message = TAMPERED[case]
    with pytest.raises(error, match=message):
        verify(entries, remembered=LOG[3].head)


@pytest.mark.parametrize("claimed", [LOG[3].head, LogHead(6, "b" * 64), LogHead(5, "b" * 64), GENESIS])
def test_log_that_ends_elsewhere_than_its_keeper_says_is_refused(claimed: LogHead) -> None:
    """Entries were deleted at the end, or added, and the keeper's head was left as it was."""
    with pytest.raises(LogCutError, match="expected to end with entry"):
        verify(LOG, claimed=claimed)


def test_entry_survives_its_json() -> None:
    """The document holds what was hashed, to the microsecond and beyond ASCII."""
    for entry in LOG:
        assert parse_entry(json.loads(json.dumps(entry_document(entry)))) == entry


DOCUMENT = entry_document(LOG[0])
MALFORMED: dict[str, Callable[[dict[str, object]], object]] = {
    "missing": lambda document: document.pop("serial"),
    "another": lambda document: document.update(more=1),
    "sequence_text": lambda document: document.update(sequence="1"),
    "sequence_zero": lambda document: document.update(sequence=0),
    "sequence_true": lambda document: document.update(sequence=True),
    "kind": lambda document: document.update(kind="passport"),
    "kind_list": lambda document: document.update(kind=[]),
    "serial": lambda document: document.update(serial="XYZ"),
    "subject_number": lambda document: document.update(subject=1),
    "subject_surrogate": lambda document: document.update(subject="\ud800"),
    "subject_long": lambda document: document.update(subject="x" * 201),
    "key": lambda document: document.update(key_sha256="A" * 64),
    "hash_short": lambda document: document.update(entry_sha256="a" * 63),
    "time_zone": lambda document: document.update(at="2026-01-01T00:00:00.000000+00:00"),
    "time_digits": lambda document: document.update(not_after="2026-01-01T00:00:00Z"),
    "time_of_no_day": lambda document: document.update(not_after="2026-02-31T00:00:00.000000Z"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_entry_is_refused(case: str) -> None:
    """Each field has one form, and there are no others."""
    document: dict[str, object] = dict(DOCUMENT)
    MALFORMED[case](document)
    with pytest.raises(LogFormError, match="issuance log"):
        parse_entry(document)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENT)), JSON_VALUES))
def test_any_document_gives_our_error_or_an_entry(changes: dict[str, object]) -> None:
    """No value raises anything but IssuanceLogError."""
    try:
        entry = parse_entry({**DOCUMENT, **changes})
    except LogFormError:
        return
    assert entry.sequence >= 1


def test_facts_of_a_certificate_are_those_that_it_says() -> None:
    """A device is named by its URI, an authority by its subject."""
    ldevid, issuer = TREE.ldevid(), TREE.issuing.certificate
    found = facts_of(ldevid, kind=IssuanceKind.LDEVID, issuer=issuer, at=NOW)
    assert found.subject == device_uri(TREE.device_id)
    assert found.serial == f"{ldevid.serial_number:x}"
    assert found.key_sha256 == hashlib.sha256(spki_der(TREE.operational.public_key)).hexdigest()
    assert (found.certificate_sha256, found.issuer_sha256) == (certificate_sha256(ldevid), certificate_sha256(issuer))
    authority = facts_of(issuer, kind=IssuanceKind.AUTHORITY, issuer=TREE.root.certificate, at=NOW)
    assert authority.subject == "CN=demo LDevID issuer"
    server = TREE.issuing.issue(profiles.server(["a.example", "b.example"], now=NOW), TREE.operational.public_key)
    assert facts_of(server, kind=IssuanceKind.SERVER, issuer=issuer, at=NOW).subject == "O=tinyfleet service"


def test_time_of_another_zone_is_hashed_as_utc() -> None:
    """The same moment is the same entry."""
    local = NOW.astimezone(datetime.now(UTC).astimezone().tzinfo)  # noqa: TID251 - only its zone is used
    assert extend(GENESIS, [replace(facts(1), at=local)])[0].entry_sha256 == LOG[0].entry_sha256


def written(path: Path) -> list[LogEntry]:
    for number in range(1, 6):
        append_to_file(path, [facts(number)])
    return list(read_file(path))


def test_file_holds_the_same_chain(tmp_path: Path) -> None:
    """Written one by one or at once; nothing to add adds nothing; a missing file is an empty log."""
    path = tmp_path / "issuance.jsonl"
    assert list(read_file(path)) == []
    assert written(path) == LOG
    append_to_file(tmp_path / "at_once.jsonl", [facts(number) for number in range(1, 6)])
    append_to_file(tmp_path / "at_once.jsonl", [])
    assert (tmp_path / "at_once.jsonl").read_bytes() == path.read_bytes()
    assert (has_torn_end(path), has_torn_end(tmp_path / "none.jsonl")) == (False, False)


def test_interrupted_write_is_repaired_by_the_next(tmp_path: Path) -> None:
    """Cut at any byte of the last line, the log goes on after the last whole one; no certificate was handed out."""
    path = tmp_path / "issuance.jsonl"
    written(path)
    whole = path.read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    for length in range(last_line, len(whole)):
        path.write_bytes(whole[:length])
        assert has_torn_end(path) == (length > last_line)
        assert list(read_file(path)) == LOG[:4]
        append_to_file(path, [facts(5)])
        assert path.read_bytes() == whole


def test_first_write_that_was_interrupted_is_repaired(tmp_path: Path) -> None:
    """Nothing whole is in the file."""
    path = tmp_path / "issuance.jsonl"
    path.write_bytes(b'{"sequence": 1, "at"')
    assert list(read_file(path)) == []
    append_to_file(path, [facts(1)])
    assert list(read_file(path)) == LOG[:1]
    path.write_bytes(b"")
    assert not has_torn_end(path)


def refuse_append(path: Path, message: str, error: type[IssuanceLogError] = LogFormError) -> None:
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        append_to_file(path, [facts(6)])
    assert path.read_bytes() == before


def test_log_with_a_broken_last_line_is_not_continued(tmp_path: Path) -> None:
    """Whatever is whole but no entry was written by somebody else; the file stays for whoever looks into it."""
    path = tmp_path / "issuance.jsonl"
    written(path)
    good = path.read_bytes()
    for line, message in (
        (b"nonsense\n", "expected a JSON object, found b'nonsense"),
        (b"[1]\n", "expected a JSON object, found list"),
        (b"[" * 2000 + b"\n", "expected a JSON object"),
        (b"{}\n", "expected an entry"),
        (b"\n", "expected a JSON object"),
    ):
        path.write_bytes(good + line)
        refuse_append(path, message)
    path.write_bytes(good.replace(b"device 5", b"device 7"))
    refuse_append(path, "entry 5: expected the hash", LogChainError)


def whitespace(line: bytes) -> bytes:
    return line.replace(b":", b": ", 1)


def doubled_key(line: bytes) -> bytes:
    return line.replace(b"{", b'{"at":"2000-01-01T00:00:00.000000Z",', 1)


def escaped(line: bytes) -> bytes:
    return line.replace("✓".encode(), b"\\u2713")


def swapped_keys(line: bytes) -> bytes:
    return json.dumps(dict(reversed(json.loads(line).items())), separators=(",", ":"), ensure_ascii=False).encode()


def carriage_return(line: bytes) -> bytes:
    return line + b"\r"


def other_encoding(line: bytes) -> bytes:
    return line.decode().encode("utf-16-be")


@pytest.mark.parametrize("edit", [whitespace, doubled_key, escaped, swapped_keys, carriage_return, other_encoding])
@pytest.mark.parametrize("number", [2, 5])
def test_edit_that_leaves_the_values_shows(tmp_path: Path, edit: Callable[[bytes], bytes], number: int) -> None:
    """The file is evidence: one entry has one writing."""
    path = tmp_path / "issuance.jsonl"
    written(path)
    lines = path.read_bytes().splitlines()
    lines[number - 1] = edit(lines[number - 1])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(LogFormError, match="issuance log: "):
        verify(list(read_file(path)))
    if number == len(LOG):
        refuse_append(path, "issuance log: ")


def test_line_without_an_end_is_refused(tmp_path: Path) -> None:
    """Longer than any entry: neither read into memory nor taken for an interrupted write."""
    path = tmp_path / "issuance.jsonl"
    path.write_bytes(b"x" * (3 * MAX_ENTRY_BYTES))
    refuse_append(path, "expected a whole line near the end")
    with pytest.raises(LogFormError, match="expected lines of at most 4096 bytes"):
        list(read_file(path))
