"""Tiles: a log's tree and its entries cut into files that never change once they are full (C2SP tlog-tiles).

    tile/{L}/{N}[.p/{W}]        hashes of level L: 32 bytes each, 256 of them, or W in a partial tile
    tile/entries/{N}[.p/{W}]    entries: 2 bytes of length, big-endian, and the entry, each

At level 0 the hashes are leaves; at level L + 1 each is the root of a full tile of level L. N is written in groups of
three digits, all but the last beginning with x: 1234067 is x001/x234/067. A tile that is partial at one size of the
tree is the beginning of the same tile at a later one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from protocol.errors import MalformedError
from protocol.merkle import HASH_BYTES, MAX_SIZE, Node, NodeReader, Range, leaf_hash, nodes_of, subtree_hash

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
MAX_LEVEL = 7  # of a tree of at most MAX_SIZE leaves
MAX_ENTRY_BYTES = 0xFFFF
MAX_BUNDLE_BYTES = TILE_WIDTH * (2 + MAX_ENTRY_BYTES)
_LENGTH_BYTES = 2
_PATH = re.compile(r"(entries|[0-7])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?\Z")


class TileFormError(MalformedError):
    """A path names no tile, or the bytes are not those of one."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of a tree of some size.

    Attributes:
        level: 0 to `MAX_LEVEL`; None of entries.
        number: within its level.
        width: how many hashes or entries it has, 1 to 256.
    """

    level: int | None
    number: int
    width: int = TILE_WIDTH

    def path(self) -> str:
        """Return the tile's path below the log's `tile/`."""
        level = "entries" if self.level is None else str(self.level)
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return "/".join([level, *(f"x{group}" for group in groups[:-1]), groups[-1]]) + partial


@dataclass(frozen=True, slots=True, order=True)
class TileKey:
    """A tile of hashes, whatever its width."""

    level: int
    number: int


def parse_tile(path: str) -> Tile:
    """Parse a path below the log's `tile/`.

    Raises:
        TileFormError: it names no tile, or not in the one way to write it.
    """
    match = _PATH.match(path)
    if match is None:
        raise TileFormError(f"tile: expected LEVEL/NUMBER or entries/NUMBER, found {path[:80]!r}")
    level = None if match[1] == "entries" else int(match[1])
    tile = Tile(level, int(match[2].replace("x", "").replace("/", "")), int(match[3] or TILE_WIDTH))
    if tile.path() != path:
        raise TileFormError(f"tile: expected {tile.path()}, found {path[:80]!r}")
    return tile


def width_of(key: TileKey, size: int) -> int:
    """Return how many hashes a tile has in a tree of a size; 0 where there is no such tile."""
    return max(0, min(TILE_WIDTH, (size >> TILE_HEIGHT * key.level) - key.number * TILE_WIDTH))


def covers(tile: Tile, size: int) -> bool:
    """Say whether a tree of a size has a tile of at least this width."""
    return width_of(TileKey(tile.level or 0, tile.number), size) >= tile.width


def tiles_of(size: int) -> Iterator[Tile]:
    """Return every tile of hashes of a tree, the partial ones last in their level."""
    for level in range(MAX_LEVEL + 1):
        hashes = size >> TILE_HEIGHT * level
        yield from (Tile(level, number) for number in range(hashes // TILE_WIDTH))
        if hashes % TILE_WIDTH:
            yield Tile(level, hashes // TILE_WIDTH, hashes % TILE_WIDTH)


def keys_for(ranges: Iterable[Range]) -> set[TileKey]:
    """Return the tiles that hold the hashes which the roots of ranges are folded from."""
    return {_place(node)[0] for leaves in ranges for node in nodes_of(leaves)}


def reader(tiles: Mapping[TileKey, bytes]) -> NodeReader:
    """Return what reads complete subtrees from tiles; they may be wider than the tree is.

    Raises (when it is called):
        TileFormError: a tile is missing or too short.
    """

    def read(node: Node) -> bytes:
        key, first, count = _place(node)
        content = tiles.get(key, b"")[first * HASH_BYTES : (first + count) * HASH_BYTES]
        if len(content) != count * HASH_BYTES:
            raise TileFormError(f"tile {key.level}/{key.number}: expected {first + count} hashes, found fewer")
        return subtree_hash(split_hashes(content))

    return read


def edge_keys(size: int) -> list[TileKey]:
    """Return the partial tiles of a tree, which grow when entries are added."""
    keys = (TileKey(level, size >> TILE_HEIGHT * (level + 1)) for level in range(MAX_LEVEL + 1))
    return [key for key in keys if width_of(key, size)]


def extend(size: int, leaf_hashes: Sequence[bytes], edge: Mapping[TileKey, bytes]) -> dict[TileKey, bytes]:
    """Add leaves to a tree.

    Args:
        size: of the tree before, leaves.
        leaf_hashes: 32 bytes each.
        edge: content of the tree's `edge_keys`.

    Returns:
        the tiles that are new or have grown, whole.

    Raises:
        TileFormError: a tile of the edge is missing or not of the size's width.
    """
    changed, level, hashes = dict[TileKey, bytes](), 0, list(leaf_hashes)
    while hashes:
        first = size >> TILE_HEIGHT * level
        full = list[bytes]()
        for number, row in _rows(first, hashes):
            key = TileKey(level, number)
            before = _edge_tile(key, size, edge)
            changed[key] = before + b"".join(row)
            if len(changed[key]) == TILE_WIDTH * HASH_BYTES:
                full.append(subtree_hash(split_hashes(changed[key])))
        hashes, level = full, level + 1
    if size + len(leaf_hashes) > MAX_SIZE:
        raise TileFormError("log: expected at most 2^62 entries, found more")
    return changed


def split_hashes(content: bytes) -> list[bytes]:
    """Return the hashes of a tile, 32 bytes each.

    Raises:
        TileFormError: the content is empty or not of whole hashes.
    """
    if not content or len(content) % HASH_BYTES:
        raise TileFormError(f"tile: expected whole hashes of {HASH_BYTES} bytes, found {len(content)} bytes")
    return [content[start : start + HASH_BYTES] for start in range(0, len(content), HASH_BYTES)]


def encode_entries(entries: Iterable[bytes]) -> bytes:
    """Return a bundle of entries.

    Raises:
        TileFormError: an entry is longer than `MAX_ENTRY_BYTES`.
    """
    bundle = bytearray()
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileFormError(f"entry: expected at most {MAX_ENTRY_BYTES} bytes, found {len(entry)}")
        bundle += len(entry).to_bytes(_LENGTH_BYTES, "big") + entry
    return bytes(bundle)


def decode_entries(bundle: bytes, width: int) -> list[bytes]:
    """Return the entries of a bundle.

    Args:
        bundle: unverified.
        width: how many entries it must have.

    Raises:
        TileFormError: it has others.
    """
    entries, position = list[bytes](), 0
    while position < len(bundle):
        begin = position + _LENGTH_BYTES
        position = begin + int.from_bytes(bundle[position:begin], "big")
        entries.append(bundle[begin:position])
    if position != len(bundle) or len(entries) != width:
        raise TileFormError(f"entries: expected {width} whole ones, found {len(entries)} in {len(bundle)} bytes")
    return entries


def leaf_hashes_of(entries: Iterable[bytes]) -> list[bytes]:
    """Return the leaf hashes of entries."""
    return [leaf_hash(entry) for entry in entries]


def _place(node: Node) -> tuple[TileKey, int, int]:
    """Return the tile that a subtree's root is folded from, the first hash there, and how many."""
    level, above = divmod(node.height, TILE_HEIGHT)
    first = node.index << above
    return TileKey(level, first // TILE_WIDTH), first % TILE_WIDTH, 1 << above


def _rows(first: int, hashes: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Cut hashes of a level into tiles; the first ones may fill one that is partial."""
    position = 0
    while position < len(hashes):
        number, offset = divmod(first + position, TILE_WIDTH)
        count = TILE_WIDTH - offset
        yield number, hashes[position : position + count]
        position += count


def _edge_tile(key: TileKey, size: int, edge: Mapping[TileKey, bytes]) -> bytes:
    width, content = width_of(key, size), edge.get(key, b"")
    if len(content) != width * HASH_BYTES:
        raise TileFormError(
            f"tile {key.level}/{key.number}: expected {width} hashes in a tree of {size}, found {len(content)} bytes"
        )
    return content
