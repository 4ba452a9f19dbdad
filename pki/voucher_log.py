"""The voucher authority's log: which catalog got a voucher for which device, each entry bound to the one before.

A file of JSON lines. `entry_sha256` is the SHA-256 of the entry's other fields as canonical JSON; `previous_sha256` is
the entry_sha256 of the line before, 64 zeros for the first. An entry is written, durably, before its voucher is handed
out, so that no voucher is missing here.

Verification of a log, line after line: form; number, one above the line before; chain; content. What an interrupted
write left behind the last whole line is no entry, and the next write removes it: that voucher was never handed out.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AwareDatetime, Field

from pki.errors import VoucherLogError
from pki.files import PUBLIC_MODE
from protocol.document import Document, DocumentError, canonical_json, parse_document
from protocol.model import Guid, Sha256Hex
from protocol.voucher import Assertion, Base64Bytes, VoucherSequence

VOUCHER_LOG_FILE = "vouchers.jsonl"
MAX_LINE_BYTES = 4096
_GENESIS = "0" * 64


class IssuedVoucher(Document):
    """A voucher as the log remembers it.

    Attributes:
        sequence: the voucher's.
        root_key: DER SubjectPublicKeyInfo of the catalog's root, which alone may let the device go.
        voucher_sha256: of the voucher's document, see `Voucher.digest`.
        release_sha256: of the release that the last catalog signed; None where none was needed.
    """

    issued_at: AwareDatetime
    device_id: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
    sequence: VoucherSequence
    catalog_id: Guid
    catalog_name: str
    root_key: Base64Bytes
    assertion: Assertion
    voucher_sha256: Sha256Hex
    release_sha256: Sha256Hex | None = None


class _Content(Document):
    number: Annotated[int, Field(ge=1)]
    voucher: IssuedVoucher
    previous_sha256: Sha256Hex


class _Line(_Content):
    entry_sha256: Sha256Hex


_State = tuple[int, int]  # bytes, time of the last change in nanoseconds
_NO_FILE: _State = (0, 0)
Append = Callable[[IssuedVoucher], None]


@dataclass(frozen=True, slots=True)
class _Known:
    """What was verified of a file: its state then, how far it is whole, its last entry, each device's last voucher."""

    state: _State
    whole_bytes: int
    last: _Line | None
    by_device: dict[str, IssuedVoucher]


class VoucherLog:
    """A voucher log on disk, verified when it is first read and whenever it was changed since.

    Args:
        path: the file; a missing one is an empty log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _Known(_NO_FILE, 0, None, {})

    def entries(self) -> Iterator[IssuedVoucher]:
        """Verify the log and return its vouchers, oldest first.

        Raises (while it is read):
            VoucherLogError: a line has another form, is missing, or was changed.
            OSError: the file cannot be read.
        """
        for line in self._lines():
            yield line.voucher

    def last_of(self, device_id: str) -> IssuedVoucher | None:
        """Return the last voucher of a device, or None; errors as `entries`."""
        return self._verified().by_device.get(device_id)

    @contextmanager
    def locked(self) -> Iterator[Append]:
        """Keep every other writer out, so that what is read inside still holds when a voucher is added.

        Yields:
            A function that adds a voucher, durably, before the voucher is handed out. It raises VoucherLogError and
            writes nothing if the log is not whole.

        Raises:
            OSError: the file cannot be opened or written.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, PUBLIC_MODE)
        with os.fdopen(descriptor, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield partial(self._append, file)

    def _append(self, file: BinaryIO, voucher: IssuedVoucher) -> None:
        known = self._verified()
        line = _next_line(known.last, voucher)
        content = _encode(line)
        file.truncate(known.whole_bytes)
        file.seek(known.whole_bytes)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        known.by_device[voucher.device_id] = voucher
        state = _state(os.fstat(file.fileno()))
        self._known = _Known(state, known.whole_bytes + len(content), line, known.by_device)

    def _verified(self) -> _Known:
        state = _state(self._path.stat()) if self._path.exists() else _NO_FILE
        if state != self._known.state:
            whole_bytes, last, by_device = 0, None, dict[str, IssuedVoucher]()
            for last in self._lines():
                whole_bytes += len(_encode(last))
                by_device[last.voucher.device_id] = last.voucher
            self._known = _Known(state, whole_bytes, last, by_device)
        return self._known

    def _lines(self) -> Iterator[_Line]:
        if not self._path.exists():
            return
        number, previous = 0, _GENESIS
        with self._path.open("rb") as file:
            while (text := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
                line = _parse(text, number + 1)
                if (line.number, line.previous_sha256) != (number + 1, previous):
                    raise VoucherLogError(
                        f"voucher log: expected entry {number + 1} after {previous[:16]}…, "
                        f"found {line.number} after {line.previous_sha256[:16]}…"
                    )
                yield line
                number, previous = line.number, line.entry_sha256
        if len(text) == MAX_LINE_BYTES:
            raise VoucherLogError(f"voucher log: entry {number + 1}: expected below {MAX_LINE_BYTES} bytes, found more")


def _state(found: os.stat_result) -> _State:
    return found.st_size, found.st_mtime_ns


def _parse(text: bytes, number: int) -> _Line:
    try:
        line = parse_document(text, _Line)
    except DocumentError as error:
        raise VoucherLogError(f"voucher log: entry {number}: expected a voucher, found: {error}") from error
    if line.entry_sha256 != _hash(line) or _encode(line) != text:
        raise VoucherLogError(f"voucher log: entry {number}: expected the content of its hash, found another")
    return line


def _next_line(last: _Line | None, voucher: IssuedVoucher) -> _Line:
    number, previous = (1, _GENESIS) if last is None else (last.number + 1, last.entry_sha256)
    content = _Content(number=number, voucher=voucher, previous_sha256=previous)
    return _Line(number=number, voucher=voucher, previous_sha256=previous, entry_sha256=_hash(content))


def _hash(content: _Content) -> str:
    fields = content.model_dump(mode="json", exclude={"entry_sha256"})
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _encode(line: _Line) -> bytes:
    return canonical_json(line) + b"\n"
