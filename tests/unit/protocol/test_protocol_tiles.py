"""Tiles: paths as the specification has them, trees that grow tile by tile, bundles of entries."""

import random

import pytest

from protocol.merkle import (
    HASH_BYTES,
    Node,
    check_inclusion,
    inclusion_ranges,
    leaf_hash,
    prove,
    range_hash,
    subtree_hash,
)
from protocol.tiles import (
    TILE_WIDTH,
    Tile,
    TileFormError,
    TileKey,
    covers,
    decode_entries,
    edge_keys,
    encode_entries,
    extend,
    keys_for,
    leaf_hashes_of,
    parse_tile,
    reader,
    split_hashes,
    tiles_of,
    width_of,
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1234067), "0/x001/x234/067"),  # the specification's example
        (Tile(0, 0), "0/000"),
        (Tile(3, 999, 7), "3/999.p/7"),
        (Tile(1, 1000), "1/x001/000"),
        (Tile(None, 273, 112), "entries/273.p/112"),
    ],
)
def test_path_names_the_tile(tile: Tile, path: str) -> None:
    """Both ways."""
    assert tile.path() == path
    assert parse_tile(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0/",
        "8/000",
        "0/1",
        "0/x000/001",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "-1/000",
        "data/000",
        "0/000/001",
        "0/x001/x234/067\n",
        "0/" + "x001/" * 7 + "001",
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    """One way to write each."""
    with pytest.raises(TileFormError, match="tile: expected"):
        parse_tile(path)


def test_tree_of_70000_has_the_tiles_of_the_specification() -> None:
    """C2SP tlog-tiles, "Partial Tiles"."""
    tiles = list(tiles_of(70_000))
    assert sum(tile.level == 0 and tile.width == TILE_WIDTH for tile in tiles) == 273
    assert [tile for tile in tiles if tile.width < TILE_WIDTH] == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]


def test_tile_is_covered_by_a_tree_that_is_wide_enough() -> None:
    """Entries like leaves."""
    assert covers(Tile(None, 0, 5), 5)
    assert not covers(Tile(0, 0, 6), 5)
    assert not covers(Tile(1, 0, 1), 255)
    assert width_of(TileKey(0, 3), 5) == 0


def test_tree_that_grows_by_tiles_proves_every_leaf() -> None:
    """Only the tiles of the right edge are read; the proof needs a few more."""
    chance, size, tiles, leaves = random.Random(4), 0, dict[TileKey, bytes](), list[bytes]()  # noqa: S311 - repeatable
    while size < 66_500:
        added = [leaf_hash(str(size + number).encode()) for number in range(chance.choice([1, 255, 256, 257, 9000]))]
        changed = extend(size, added, {key: tiles[key] for key in edge_keys(size)})
        assert len(changed) <= len(added) // TILE_WIDTH + 8
        tiles |= changed
        size += len(added)
        leaves += added
    assert {(key.level, key.number) for key in tiles} == {(tile.level, tile.number) for tile in tiles_of(size)}
    root = range_hash((0, size), reader({key: tiles[key] for key in keys_for([(0, size)])}))
    assert root == range_hash((0, size), lambda node: _subtree(leaves, node))
    for index in (0, 255, 256, 65_535, 65_536, size - 1):
        ranges = inclusion_ranges(index, size)
        proof = prove(ranges, reader({key: tiles[key] for key in keys_for(ranges)}))
        check_inclusion(leaves[index], index, proof, size=size, root=root)


def _subtree(leaves: list[bytes], node: Node) -> bytes:
    return subtree_hash(leaves[node.index << node.height : (node.index + 1) << node.height])


def test_tree_does_not_grow_from_another_edge() -> None:
    """A tile that is missing, or that somebody cut."""
    with pytest.raises(TileFormError, match="expected 3 hashes in a tree of 3, found 0 bytes"):
        extend(3, [bytes(32)], {})
    with pytest.raises(TileFormError, match="expected 3 hashes in a tree of 3, found 64 bytes"):
        extend(3, [bytes(32)], {TileKey(0, 0): bytes(64)})


def test_tree_has_a_largest_size() -> None:
    """Two to the 62."""
    edge = {key: bytes(HASH_BYTES) * width_of(key, 1 << 62) for key in edge_keys(1 << 62)}
    with pytest.raises(TileFormError, match=r"expected at most 2\^62 entries"):
        extend(1 << 62, [bytes(32)], edge)


def test_missing_tile_is_no_proof() -> None:
    """Never a hash of nothing."""
    with pytest.raises(TileFormError, match="tile 0/0: expected 2 hashes, found fewer"):
        reader({TileKey(0, 0): bytes(32)})(Node(1, 0))


@pytest.mark.parametrize("content", [b"", bytes(33)])
def test_tile_has_whole_hashes(content: bytes) -> None:
    """At least one."""
    with pytest.raises(TileFormError, match="expected whole hashes"):
        split_hashes(content)


def test_bundle_is_read_as_it_was_written() -> None:
    """Empty entries and the longest one, too."""
    entries = [b"", b"one", bytes(0xFFFF)]
    assert decode_entries(encode_entries(entries), 3) == entries
    assert leaf_hashes_of([b"one"]) == [leaf_hash(b"one")]
    with pytest.raises(TileFormError, match="expected at most 65535 bytes"):
        encode_entries([bytes(0x10000)])


@pytest.mark.parametrize("bundle", [b"\x00", b"\x00\x02a", b"\x00\x01a\x00", b"\x00\x01a\x00\x01b", b""])
def test_bundle_has_whole_entries_and_as_many_as_its_width(bundle: bytes) -> None:
    """Here one."""
    with pytest.raises(TileFormError, match="expected 1 whole ones"):
        decode_entries(bundle, 1)
