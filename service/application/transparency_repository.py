"""What the transparency log keeps in a unit of work: entries, the tree's tiles, checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from protocol.tiles import TileKey
from service.application.update_repositories import ImageTarget


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """An entry of the log.

    Attributes:
        number: its leaf's index, from 0.
        kind: image or root.
        name: of the image's target; repository and version of a root.
        subject: SHA-256 of the image or root, hex.
        entry: its bytes.
        leaf_hash: 32 bytes.
    """

    number: int
    kind: str
    name: str
    subject: str
    entry: bytes
    leaf_hash: bytes


class LogRepository(Protocol):
    """The transparency log; append-only."""

    async def hold(self) -> int:
        """Wait for the turn to append, which lasts to the end of the transaction, and return the log's size."""

    async def size(self) -> int:
        """Return how many entries there are."""

    async def append(self, entries: Sequence[LoggedEntry], tiles: Mapping[TileKey, bytes], *, at: datetime) -> None:
        """Store entries that follow the last one, and the tiles that they change; `hold` comes first."""

    async def tiles(self, keys: Collection[TileKey]) -> Mapping[TileKey, bytes]:
        """Return tiles as far as they are filled; those that there are none of are left out."""

    async def numbers(self, leaf_hashes: Collection[bytes]) -> Mapping[bytes, int]:
        """Return where leaves are, by their hashes; those that are not logged are left out."""

    async def entries(self, first: int, count: int) -> Sequence[bytes]:
        """Return at most `count` entries from one on."""

    async def about(self, subject: str, *, limit: int) -> Sequence[LoggedEntry]:
        """Return the entries of an image or root by its SHA-256, hex, oldest first."""

    async def unlogged_images(self, *, limit: int) -> Sequence[ImageTarget]:
        """Return images in force that no entry names."""

    async def checkpoint(self) -> bytes | None:
        """Return the newest checkpoint, a signed note, or None."""

    async def put_checkpoint(self, content: bytes, *, size: int, at: datetime) -> None:
        """Store a checkpoint; one of the same size takes the place of the one before."""
