"""Audit a transparency log from its public tiles: that it is whole, signed, cosigned, and only ever grew.

In this order:
    1. checkpoint: signed by the log's key, cosigned by the quorum of the policy's witnesses;
    2. memory: not smaller than the last one verified here, and of the same root where it is of the same size;
    3. entries: every bundle has its entries, each in canonical form, and begins as it did before;
    4. tiles: every tile of hashes is what the entries make;
    5. root: what the entries make at the checkpoint's size is its root, and at the size of the last one verified that
       one's: the log has only been added to;
    6. contradictions: no root version and no image target stands for two things.
A copy that was verified once may be trusted with `resume`: its full bundles are not asked for again, and what was
fetched before an interruption is not either. Steps 5 and 6 go over everything all the same.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from protocol.errors import ProtocolError
from protocol.merkle import EMPTY_ROOT, HASH_BYTES, range_hash
from protocol.notes import parse_note
from protocol.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    TileKey,
    decode_entries,
    edge_keys,
    extend,
    leaf_hashes_of,
    reader,
)
from protocol.tlog import Checkpoint, parse_checkpoint
from protocol.transparency import (
    ImageEntry,
    LogEntry,
    LogPolicy,
    RootEntry,
    VerifiedCheckpoint,
    parse_entry,
    verify_checkpoint,
)
from service.cli.errors import CliError
from service.cli.log_copy import LogCopy
from service.cli.log_source import LogSource

_FULL_BYTES = TILE_WIDTH * HASH_BYTES


class LogAuditError(CliError):
    """Base: the log is not what it must be."""


class LogShrunkError(LogAuditError):
    """Entries are gone that were there before."""


class LogForkError(LogAuditError):
    """The log shows another past than before, or another tree than its checkpoint."""


class LogEditedError(LogAuditError):
    """Entries or tiles were changed, or do not belong together."""


class LogContradictionError(LogAuditError):
    """The log says two things of one root version or one target."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found, all of it right.

    Attributes:
        before: size of the log when it was verified last, 0 for the first time.
        images: how many entries are of images.
        roots: how many are of roots.
        leaves: of every entry, by leaf hash the number.
    """

    verified: VerifiedCheckpoint
    before: int
    images: int
    roots: int
    leaves: dict[bytes, int]


@dataclass(slots=True)
class _Rebuilt:
    """The tree as the entries make it, as far as it has come; only its edge is kept."""

    size: int = 0
    edge: dict[TileKey, bytes] = field(default_factory=dict)

    def add(self, leaves: list[bytes]) -> dict[TileKey, bytes]:
        """Add leaves and return the tiles that are new or have grown."""
        changed = extend(self.size, leaves, self.edge)
        self.size += len(leaves)
        tiles = self.edge | changed
        self.edge = {key: tiles[key] for key in edge_keys(self.size)}
        return changed

    def root(self) -> bytes:
        """Return the root."""
        return range_hash((0, self.size), reader(self.edge)) if self.size else EMPTY_ROOT


class Auditor:
    """Audits one log into one copy.

    Args:
        source: the log.
        copy: what is known of it.
        policy: whom to believe.
        resume: see the module.
        progress: called with entries done and the whole number.
    """

    def __init__(
        self,
        source: LogSource,
        copy: LogCopy,
        policy: LogPolicy,
        *,
        resume: bool,
        progress: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._copy = copy
        self._policy = policy
        self._resume = resume
        self._progress = progress
        self._named = dict[str, tuple[str, int]]()

    def audit(self) -> Audit:
        """Audit the log.

        Raises:
            ProtocolError: step 1.
            LogAuditError: the broken rule of steps 2 to 6.
            CliError: the log cannot be reached.
        """
        # Step 1: checkpoint.
        unverified = self._source.checkpoint()
        verified = verify_checkpoint(unverified, self._policy)
        head, last = verified.checkpoint, self._last()
        # Step 2: memory.
        if head.size < last.size:
            raise LogShrunkError(f"log: expected at least {last.size} entries, found {head.size}")
        if head.size == last.size and head.root != last.root:
            raise _fork(f"checkpoint of size {head.size}", last.root, head.root)
        leaves, roots = self._rebuild(head, last)
        self._copy.put_checkpoint(unverified)
        return Audit(verified, last.size, len(leaves) - roots, roots, leaves)

    def _last(self) -> Checkpoint:
        kept = self._copy.checkpoint()
        if kept is None:
            return Checkpoint(self._policy.origin, 0, EMPTY_ROOT)
        try:
            last = parse_checkpoint(parse_note(kept).text)
        except ProtocolError as error:
            raise LogEditedError(f"copy: expected the checkpoint that was verified, found: {error}") from error
        if last.origin != self._policy.origin:
            raise LogForkError(f"copy: expected one of {self._policy.origin}, found one of {last.origin[:80]}")
        return last

    def _rebuild(self, head: Checkpoint, last: Checkpoint) -> tuple[dict[bytes, int], int]:
        rebuilt, leaves, roots = _Rebuilt(), dict[bytes, int](), 0
        fetched = list[Tile]()
        try:
            for tile in _bundles(head.size):
                entries = self._entries(tile, last, fetched)
                roots += self._check_entries(entries, first=rebuilt.size)
                hashes = leaf_hashes_of(entries)
                leaves.update((leaf, rebuilt.size + index) for index, leaf in enumerate(hashes))
                self._add(rebuilt, hashes, last)
                self._progress(rebuilt.size, head.size)
            self._check_tiles(rebuilt.edge, last)
            # Step 5: root.
            if rebuilt.root() != head.root:
                raise _fork(f"entries of a log of {head.size}", head.root, rebuilt.root())
        except LogAuditError:
            for tile in fetched:  # the next audit asks for them again
                self._copy.forget_bundle(tile.number, tile.width)
            raise
        return leaves, roots

    def _add(self, rebuilt: _Rebuilt, hashes: list[bytes], last: Checkpoint) -> None:
        # Step 5: the root of the last checkpoint, which may end within a bundle.
        known = max(0, min(last.size - rebuilt.size, len(hashes)))
        changed = dict[TileKey, bytes]()
        for part in (hashes[:known], hashes[known:]):
            changed |= rebuilt.add(part)
            if rebuilt.size == last.size and rebuilt.root() != last.root:
                raise _fork(f"entries of the log when it was {last.size} long", last.root, rebuilt.root())
        self._check_tiles({key: content for key, content in changed.items() if len(content) == _FULL_BYTES}, last)

    def _check_tiles(self, tiles: Mapping[TileKey, bytes], last: Checkpoint) -> None:
        # Step 4: tiles.
        for key, content in tiles.items():
            is_known = (key.number + 1) << TILE_HEIGHT * (key.level + 1) <= last.size
            tile = Tile(key.level, key.number, len(content) // HASH_BYTES)
            if not (self._resume and is_known) and self._source.tile(tile) != content:
                raise LogEditedError(f"tile {tile.path()}: expected what the entries make, found others")
            self._copy.put_hashes(key, content)

    def _entries(self, tile: Tile, last: Checkpoint, fetched: list[Tile]) -> list[bytes]:
        # Step 3: entries.
        kept = self._copy.bundle(tile.number, tile.width)
        if kept is not None and self._resume and tile.width == TILE_WIDTH:
            return _decoded(kept, tile)
        content = self._source.tile(tile)
        if not content.startswith(self._verified_before(tile, last)):
            raise LogEditedError(f"bundle {tile.path()}: expected the entries that were verified before, found others")
        entries = _decoded(content, tile)
        if kept is None:
            fetched.append(tile)
        self._copy.put_bundle(tile.number, tile.width, content)
        return entries

    def _verified_before(self, tile: Tile, last: Checkpoint) -> bytes:
        """Return what the bundle held when the log was verified last, nothing if the copy has it not."""
        width = min(last.size - tile.number * TILE_WIDTH, TILE_WIDTH)
        return (self._copy.bundle(tile.number, width) or b"") if width > 0 else b""

    def _check_entries(self, entries: list[bytes], *, first: int) -> int:
        """Check form and contradictions; return how many are of roots."""
        roots = 0
        for number, content in enumerate(entries, first):
            try:
                entry = parse_entry(content)
            except ProtocolError as error:
                raise LogEditedError(f"entry {number}: {error}") from error
            roots += isinstance(entry, RootEntry)
            # Step 6: contradictions.
            name = _name(entry)
            other, at = self._named.setdefault(name, (entry.sha256, number))
            if other != entry.sha256:
                raise LogContradictionError(
                    f"{name}: expected one content, found {other[:16]}… in entry {at} and {entry.sha256[:16]}… "
                    f"in entry {number}"
                )
        return roots


def _bundles(size: int) -> Iterator[Tile]:
    yield from (Tile(None, number) for number in range(size // TILE_WIDTH))
    if size % TILE_WIDTH:
        yield Tile(None, size // TILE_WIDTH, size % TILE_WIDTH)


def _decoded(content: bytes, tile: Tile) -> list[bytes]:
    try:
        return decode_entries(content, tile.width)
    except ProtocolError as error:
        raise LogEditedError(f"bundle {tile.number}: {error}") from error


def _name(entry: LogEntry) -> str:
    if isinstance(entry, ImageEntry):
        return entry.target
    return f"{entry.repository} root version {entry.version}"


def _fork(what: str, expected: bytes, found: bytes) -> LogForkError:
    return LogForkError(f"{what}: expected root {expected.hex()[:16]}…, found {found.hex()[:16]}…")
