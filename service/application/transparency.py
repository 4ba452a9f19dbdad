"""The transparency log: every image and every root that comes into force, in the transaction that brings it.

Entries are appended here; their checkpoints are signed and cosigned in the background (service/application/
checkpoints.py), and a proof is given out once the newest checkpoint covers the entry and is what the policy in force
asks for. Adding an entry reads and writes the tree's right edge alone: at most a tile of each level.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Metadata, Root

from protocol.errors import ProtocolError
from protocol.merkle import HASH_BYTES, inclusion_ranges, prove
from protocol.notes import VerifierKey, parse_note
from protocol.tiles import (
    TILE_WIDTH,
    TileKey,
    covers,
    edge_keys,
    encode_entries,
    extend,
    keys_for,
    parse_tile,
    reader,
)
from protocol.tlog import UnverifiedProof, parse_checkpoint
from protocol.transparency import (
    ImageEntry,
    LogEntry,
    LogPolicy,
    RootEntry,
    entry_bytes,
    entry_hash,
    image_entry,
    policy_of,
    target_entry,
    verify_checkpoint,
)
from service.application.clock import Clock
from service.application.events import Event, EventType
from service.application.publication import Publication
from service.application.transparency_repository import LoggedEntry
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import ImageTarget, MetadataFile, MetadataRole, RepositoryName
from service.domain.errors import ConflictError, InvalidError, NotFoundError, ServiceError

IMAGE_PREFIX = "images/"
LOG_SUBJECT = "transparency-log"
APPENDED = "appended"
PAGE_IMAGES = 500
MAX_ABOUT = 100
MAX_PROOFS = 1024
RETRY_SECONDS = 5


class ForeignLogError(ConflictError):
    """The Image root names another log key than the service holds."""


class UnreadablePolicyError(InvalidError):
    """The Image root's policy of the log is malformed."""


class UnknownEntryError(NotFoundError):
    """The log has no such entry, or no such tile."""


class NotCoveredError(ServiceError):
    """No checkpoint covers the entry yet, or too few witnesses have cosigned it.

    Attributes:
        retry_after_seconds: when to ask again.
    """

    retry_after_seconds = RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class ProvenEntry:
    """An entry and what proves that it is logged.

    Attributes:
        proof: C2SP tlog-proof; None until a checkpoint covers the entry.
    """

    entry: LoggedEntry
    proof: bytes | None


@dataclass(frozen=True, slots=True)
class LogStatus:
    """How the log stands.

    Attributes:
        size: entries.
        policy: of the Image root in force, None where it has none.
        checkpoint: the newest one, a signed note; None before the first.
    """

    key: VerifierKey
    size: int
    policy: LogPolicy | None
    checkpoint: bytes | None


@dataclass(frozen=True, slots=True)
class _Served:
    """A checkpoint that devices are given, and proofs that lead to it.

    Attributes:
        root_version: of the Image root whose policy it satisfies.
        size: of the checkpoint, entries.
        proofs: by leaf hash; proofs of another checkpoint never come in.
    """

    checkpoint: bytes = b""
    root_version: int = 0
    size: int = 0
    proofs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def found(self) -> tuple[bytes, int]:
        return self.checkpoint, self.root_version

    def follows(self, other: "_Served") -> bool:
        return self.root_version >= other.root_version and self.size >= other.size


class Transparency:
    """Appends to the log and answers from it; implements `PublicationListener`.

    Args:
        unit_of_work: opens transactions.
        key: the log's, which the service holds.
        clock: of the service.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, key: VerifierKey, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._key = key
        self._clock = clock
        self._served = _Served()

    async def begin(self) -> None:
        """Log what is in force and is not logged yet: all of it at the first start with a log."""
        now = self._clock.now()
        async with self._unit_of_work() as work:
            roots = [await work.metadata.find(name, MetadataRole.ROOT) for name in RepositoryName]
            await self._append(work, [_root_entry(root) for root in roots if root is not None], now=now)
            await work.commit()
        while await self._log_images(now=now):
            pass

    async def published(self, work: UnitOfWork, publication: Publication, *, now: datetime) -> None:
        """Log the images and roots of a publication.

        Raises:
            ForeignLogError: a root names another log than this one.
            UnreadablePolicyError: a root's policy is malformed.
        """
        roots = [file for file in publication.files if file.role == MetadataRole.ROOT]
        for root in roots:
            self._check_policy(root)
        images = [target for name, target in publication.added.items() if name.startswith(IMAGE_PREFIX)]
        entries: list[LogEntry] = [*(_root_entry(root) for root in roots), *(target_entry(image) for image in images)]
        await self._append(work, entries, now=now)

    async def proof(self, leaf: bytes) -> bytes:
        """Return the proof that an entry is logged.

        Args:
            leaf: leaf hash of the entry, 32 bytes.

        Raises:
            UnknownEntryError: there is no such entry.
            NotCoveredError: no checkpoint covers it yet.
        """
        async with self._unit_of_work(read_only=True) as work:
            served = await self._serve(work)
            proof = served.proofs.get(leaf)
            if proof is None:
                number = (await work.log.numbers([leaf])).get(leaf)
                if number is None:
                    raise UnknownEntryError(f"log: expected an entry of leaf hash {leaf.hex()[:16]}…, found none")
                proof = await _proof(work, number, served.checkpoint)
                if len(served.proofs) >= MAX_PROOFS:
                    served.proofs.clear()
                served.proofs[leaf] = proof
            return proof

    async def about(self, sha256: str) -> Sequence[ProvenEntry]:
        """Return the entries of an image or root, oldest first, with proofs where there are any.

        Args:
            sha256: of the image package or root.json, hex.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.log.about(sha256, limit=MAX_ABOUT)
        return [ProvenEntry(entry, await self._proof_or_none(entry)) for entry in found]

    async def status(self) -> LogStatus:
        """Return how the log stands."""
        async with self._unit_of_work(read_only=True) as work:
            policy = await policy_in_force(work)
            return LogStatus(self._key, await work.log.size(), policy, await work.log.checkpoint())

    async def checkpoint(self) -> bytes:
        """Return the newest checkpoint, a signed note.

        Raises:
            NotCoveredError: there is none yet.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.log.checkpoint()
        if found is None:
            raise NotCoveredError("log: expected a checkpoint, found none yet")
        return found

    async def tile(self, path: str) -> bytes:
        """Return a tile or a bundle of entries, by its path below `tile/`.

        Raises:
            TileFormError: the path names none.
            UnknownEntryError: no checkpoint covers it.
        """
        tile = parse_tile(path)
        async with self._unit_of_work(read_only=True) as work:
            note = await work.log.checkpoint()
            if note is None or not covers(tile, _size_of(note)):
                raise UnknownEntryError(f"log: expected a tile that a checkpoint covers, found {path[:80]}")
            if tile.level is None:
                return encode_entries(await work.log.entries(tile.number * TILE_WIDTH, tile.width))
            key = TileKey(tile.level, tile.number)
            return (await work.log.tiles([key]))[key][: tile.width * HASH_BYTES]

    async def _proof_or_none(self, entry: LoggedEntry) -> bytes | None:
        try:
            return await self.proof(entry.leaf_hash)
        except NotCoveredError:
            return None

    async def _serve(self, work: UnitOfWork) -> "_Served":
        """Return the newest checkpoint if it is what the policy in force asks for.

        Requests overlap, each with its own view of the database: one that began earlier must not bring an older
        checkpoint back, which devices would take for a log that shrinks.
        """
        note = await work.log.checkpoint()
        version = await work.metadata.version(RepositoryName.IMAGE, MetadataRole.ROOT)
        if note is not None and self._served.found != (note, version):
            policy = await policy_in_force(work)
            found = _Served(note, version, _size_of(note))
            if found.follows(self._served) and (policy is None or _satisfies(note, policy)):
                self._served = found
        if note is None or self._served.found != (note, version):
            raise NotCoveredError("log: expected a checkpoint that enough witnesses have cosigned, found none yet")
        return self._served

    def _check_policy(self, root: MetadataFile) -> None:
        if root.repository != RepositoryName.IMAGE:
            return
        try:
            policy = policy_of(Metadata[Root].from_bytes(root.content).signed)
        except ProtocolError as error:
            raise UnreadablePolicyError(f"Image root: {error}") from error
        if policy is not None and policy.log_key != self._key:
            raise ForeignLogError(f"Image root: expected the log {self._key}, found {policy.log}")

    async def _log_images(self, *, now: datetime) -> bool:
        async with self._unit_of_work() as work:
            await work.log.hold()
            images = await work.log.unlogged_images(limit=PAGE_IMAGES)
            await self._append(work, [_image_entry(image) for image in images], now=now)
            await work.commit()
        return bool(images)

    async def _append(self, work: UnitOfWork, entries: Sequence[LogEntry], *, now: datetime) -> None:
        """Append what is not logged; the same entry is logged once, whoever brings it again."""
        if not entries:
            return
        size = await work.log.hold()
        new = {entry_hash(entry): entry for entry in entries}
        logged = await work.log.numbers(list(new))
        rows = list(_rows(size, {leaf: entry for leaf, entry in new.items() if leaf not in logged}))
        if not rows:
            return
        edge = await work.log.tiles(edge_keys(size))
        tiles = extend(size, [row.leaf_hash for row in rows], edge)
        await work.log.append(rows, tiles, at=now)
        data = {"size": size + len(rows), "added": len(rows)}
        work.record(Event(EventType.RELEASE, LOG_SUBJECT, APPENDED, now, data))


async def policy_in_force(work: UnitOfWork) -> LogPolicy | None:
    """Return what the Image root in force says of the log, or None."""
    root = await work.metadata.find(RepositoryName.IMAGE, MetadataRole.ROOT)
    return None if root is None else policy_of(Metadata[Root].from_bytes(root.content).signed)


async def _proof(work: UnitOfWork, number: int, checkpoint: bytes) -> bytes:
    size = _size_of(checkpoint)
    if number >= size:
        raise NotCoveredError(f"log: expected a checkpoint that covers entry {number}, found one of size {size}")
    ranges = inclusion_ranges(number, size)
    tiles = await work.log.tiles(keys_for(ranges))
    return UnverifiedProof(number, tuple(prove(ranges, reader(tiles))), checkpoint).encode()


def _satisfies(note: bytes, policy: LogPolicy) -> bool:
    try:
        verify_checkpoint(note, policy)
    except ProtocolError:
        return False
    return True


def _size_of(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def _root_entry(root: MetadataFile) -> RootEntry:
    digest = hashlib.sha256(root.content).hexdigest()
    return RootEntry(repository=root.repository.value, version=root.version, sha256=digest)


def _rows(size: int, entries: dict[bytes, LogEntry]) -> Iterator[LoggedEntry]:
    for number, (leaf, entry) in enumerate(entries.items(), size):
        name = f"{entry.repository}/{entry.version}" if isinstance(entry, RootEntry) else entry.target
        yield LoggedEntry(number, entry.kind, name, entry.sha256, entry_bytes(entry), leaf)


def _image_entry(image: ImageTarget) -> ImageEntry:
    return image_entry(image.path, image.custom, sha256=image.sha256, length=image.length)
